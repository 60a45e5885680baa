"""The relay ``/p2p`` on streams in memory: words, waits, limits, and how each connection ends."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from wsproto.frame_protocol import CloseReason, Frame, FrameProtocol, Opcode

from commucat_crypto import DeviceKeyPair
from commucat_server.listener import StreamLostError
from commucat_server.ops.counters import Counters
from commucat_server.p2p.handler import SESSION_ID_TIMEOUT, RelayAccess, RelayHandler
from commucat_server.p2p.meetings import WAIT_FOR_OTHER, Meetings, RelayLimits
from commucat_server.p2p.passing import worker_of
from commucat_server.p2p.peer import MAX_MESSAGE, Ending
from commucat_server.p2p.tickets import RelayTickets
from commucat_server.p2p.websocket import MAX_MISSES, PING_INTERVAL, PONG_TIMEOUT
from commucat_server.security.clients import ClientAddresses
from server.connect_builders import MemoryConnectStream, Person, Server, running_server
from server.rest_builders import limit

WORD = "a-word-of-32-characters-for-two-"
NOW = 1_800_000_000.0
KEYS = DeviceKeyPair.from_seed(b"k" * 32)
LIMITS = RelayLimits(pairs=10, per_owner=10, bytes=10_000_000, seconds=10_000.0, idle=5_000.0)
UPGRADE = {
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


class RelayStream(MemoryConnectStream):
    """A request for ``/p2p`` over HTTP/1.1."""

    def __init__(self, query: str = "", room: int = 10**9, **headers: str) -> None:
        super().__init__(method="GET", room=room)
        self.path, self.query, self.headers = "/p2p", query, {**UPGRADE, **headers}

    @property
    def http_version(self) -> str:
        return "1.1"


@attrs.define(eq=False)
class Caller:
    """The client's side of one request."""

    stream: RelayStream
    protocol: FrameProtocol = attrs.Factory(lambda: FrameProtocol(client=True, extensions=[]))
    frames: list[Frame] = attrs.Factory(list)

    def say(self, payload: bytes | str, *, fin: bool = True) -> None:
        self.stream.write(bytes(self.protocol.send_data(payload, fin=fin)))

    async def problem(self) -> int:
        """The status of an answer that is no WebSocket."""
        document = json.loads(await self.stream.read())
        assert document["status"] == self.stream.status
        return int(document["status"])

    async def hear(self) -> Frame:
        while not self.frames:
            self.protocol.receive_bytes(await self.stream.read())
            self.frames += self.protocol.received_frames()
        return self.frames.pop(0)

    async def hear_message(self) -> Any:
        frame = await self.hear()
        assert frame.opcode in (Opcode.BINARY, Opcode.TEXT), frame
        return frame.payload if isinstance(frame.payload, str) else bytes(frame.payload)

    async def hear_end(self) -> tuple[int, str]:
        """Code and reason of the Close frame, whatever Pings come before."""
        while (frame := await self.hear()).opcode is Opcode.PING:
            continue
        assert frame.opcode is Opcode.CLOSE, frame
        code, reason = frame.payload
        return int(code), reason or ""


@attrs.frozen
class Relay:
    """A handler, and callers that it serves."""

    handler: RelayHandler
    nursery: trio.Nursery

    def call(self, **stream: Any) -> Caller:
        caller = Caller(RelayStream(**stream))
        self.nursery.start_soon(self._serve, caller.stream)
        return caller

    async def _serve(self, stream: RelayStream) -> None:
        try:
            await self.handler(stream)
        except StreamLostError:
            stream.reset()

    def ticket(self, owner: str = "u") -> str:
        return f"ticket={self.handler.access.tickets.issue(owner, 60)[0]}"

    async def pair(self, **stream: Any) -> tuple[Caller, Caller]:
        first, second = (
            self.call(query=self.ticket("a"), **stream),
            self.call(query=self.ticket("b"), **stream),
        )
        for caller in (first, second):
            caller.say(WORD)
            assert await caller.hear_message() == b"OK"
        return first, second

    @property
    def counters(self) -> Any:
        return self.handler.counters


@asynccontextmanager
async def running_relay(
    limits: RelayLimits = LIMITS, server: Server | None = None, **changes: Any
) -> AsyncIterator[Relay]:
    """Tokens are looked up in the store of ``server``; without one nobody may bring a token."""
    async with trio.open_nursery() as nursery:
        counters = Counters()
        clock = (lambda: NOW) if server is None else server.context.clock
        handler = RelayHandler(
            meetings=Meetings(limits, counters),
            access=RelayAccess(
                storage=None if server is None else server.storage,
                tickets=RelayTickets(KEYS, clock),
                clock=clock,
                required=changes.pop("required", True),
            ),
            limit=changes.pop("limit", limit("http", 10_000, 1.0)),
            clients=ClientAddresses(),
            counters=counters,
            relay=None,
        )
        yield Relay(handler, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    async with running_relay() as relay:
        yield relay


async def test_messages_pass_both_ways_as_what_they_were(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    first, second = await relay.pair()
    first.say(b"bytes")
    first.say("t\u00e4xt")
    second.say(b"in ", fin=False)
    second.say(b"parts")
    assert [await second.hear_message(), await second.hear_message()] == [b"bytes", "t\u00e4xt"]
    assert await first.hear_message() == b"in parts"
    assert (relay.counters.p2p_open, relay.counters.p2p_messages, relay.counters.p2p_bytes) == (1, 3, 18)


async def test_what_the_first_says_before_the_second_comes_is_kept(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    first = relay.call(query=relay.ticket())
    first.say(f"  {WORD}\n")
    first.say(b"early")
    assert await first.hear_message() == b"OK"
    assert relay.counters.p2p_waiting == 1
    second = relay.call(query=relay.ticket())
    second.say(WORD.encode())
    assert [await second.hear_message(), await second.hear_message()] == [b"OK", b"early"]


@pytest.mark.parametrize(
    "word", ["", "short", "x" * 97, "with a blank in it", "sixteen-letters\u00e4", "a" * 16 + "/"]
)
async def test_a_word_that_is_none_ends_the_connection(
    autojump_clock: trio.testing.MockClock, relay: Relay, word: str
) -> None:
    caller = relay.call(query=relay.ticket())
    caller.say(word)
    assert await caller.hear_end() == Ending.NO_SESSION.value
    assert relay.counters.p2p_ends == {"no_session": 1}


async def test_a_silent_caller_is_told_after_ten_seconds(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    caller = relay.call(query=relay.ticket())
    assert await caller.hear_end() == Ending.NO_SESSION.value
    assert trio.current_time() == pytest.approx(SESSION_ID_TIMEOUT)


async def test_the_first_waits_thirty_seconds_and_the_word_is_free_then(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    caller = relay.call(query=relay.ticket())
    caller.say(WORD)
    assert await caller.hear_message() == b"OK"
    began = trio.current_time()
    assert await caller.hear_end() == Ending.NOBODY.value
    assert trio.current_time() - began == pytest.approx(WAIT_FOR_OTHER)
    await trio.testing.wait_all_tasks_blocked()
    assert (len(relay.handler.meetings), relay.counters.p2p_waiting) == (0, 0)


async def test_one_that_leaves_while_it_waits_frees_its_word_at_once(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    caller = relay.call(query=relay.ticket())
    caller.say(WORD)
    assert await caller.hear_message() == b"OK"
    caller.stream.lose()
    await trio.testing.wait_all_tasks_blocked()
    assert len(relay.handler.meetings) == 0
    assert trio.current_time() < 1


async def test_a_third_peer_is_told_and_changes_nothing(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    first, second = await relay.pair()
    third = relay.call(query=relay.ticket())
    third.say(WORD)
    assert await third.hear_end() == Ending.TAKEN.value
    first.say(b"still")
    assert await second.hear_message() == b"still"


async def test_a_close_passes_on_after_what_was_said_before(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    first, second = await relay.pair()
    first.say(b"last")
    first.stream.write(bytes(first.protocol.close(CloseReason.NORMAL_CLOSURE, "bye")))
    assert await second.hear_message() == b"last"
    assert await second.hear_end() == Ending.CLOSED.value
    assert await first.hear_end() == (1000, "")
    await trio.testing.wait_all_tasks_blocked()
    assert (relay.counters.p2p_open, len(relay.handler.meetings)) == (0, 0)


async def test_a_lost_connection_ends_the_other(autojump_clock: trio.testing.MockClock, relay: Relay) -> None:
    first, second = await relay.pair()
    second.stream.lose()
    code, _ = await first.hear_end()
    assert code == 1000


async def test_pings_of_the_client_are_answered(autojump_clock: trio.testing.MockClock, relay: Relay) -> None:
    first, _ = await relay.pair()
    first.stream.write(bytes(first.protocol.ping(b"there?")))
    frame = await first.hear()
    assert (frame.opcode, bytes(frame.payload)) == (Opcode.PONG, b"there?")


async def test_a_peer_without_signs_of_life_is_lost(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    first, second = await relay.pair()
    began = trio.current_time()

    async def answer_pings() -> None:
        while (frame := await second.hear()).opcode is not Opcode.CLOSE:
            second.stream.write(bytes(second.protocol.pong(bytes(frame.payload))))

    await answer_pings()
    # It is looked at with each Ping.
    assert trio.current_time() - began == pytest.approx(
        PING_INTERVAL + MAX_MISSES * PONG_TIMEOUT, abs=PING_INTERVAL
    )
    assert first.stream.lost


async def test_a_message_that_is_too_long_ends_both(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    first, second = await relay.pair()
    first.say(bytes(MAX_MESSAGE), fin=False)
    first.say(b"x")
    assert await first.hear_end() == Ending.TOO_BIG.value
    assert await second.hear_end() == Ending.CLOSED.value
    assert relay.counters.p2p_ends["too_big"] == 1


async def test_broken_websocket_ends_the_connection(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    first, second = await relay.pair()
    first.stream.write(b"\xff" * 20)
    code, _ = await first.hear_end()
    assert code == CloseReason.PROTOCOL_ERROR
    assert (await second.hear_end())[0] == 1000


async def test_bytes_time_and_silence_of_a_meeting_are_limited(
    autojump_clock: trio.testing.MockClock,
) -> None:
    few = attrs.evolve(LIMITS, bytes=100, seconds=25.0, idle=20.0)
    async with running_relay(few) as relay:
        first, second = await relay.pair()
        first.say(bytes(60))
        assert await second.hear_message() == bytes(60)
        second.say(bytes(41))
        assert [await first.hear_end(), await second.hear_end()] == [Ending.TOO_MUCH.value] * 2

        began = trio.current_time()
        first, second = await relay.pair()
        assert await first.hear_end() == Ending.IDLE.value
        assert trio.current_time() - began == pytest.approx(20)

        first, second = await relay.pair()
        began = trio.current_time()
        with trio.move_on_after(15):
            await first.hear()
        first.say(b"x")
        assert await second.hear_message() == b"x"
        assert await first.hear_end() == Ending.TOO_LONG.value
        assert trio.current_time() - began == pytest.approx(25)


async def test_meetings_and_connections_of_one_owner_are_limited(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running_relay(attrs.evolve(LIMITS, pairs=2, per_owner=1)) as relay:

        async def come(word: str, owner: str) -> Caller:
            caller = relay.call(query=relay.ticket(owner))
            caller.say(word)
            await trio.testing.wait_all_tasks_blocked()
            return caller

        waiting = await come("first-word-of-all", "a")
        assert await (await come("other-word-of-all", "a")).hear_end() == Ending.TOO_MANY.value
        await come("other-word-of-all", "b")
        assert await (await come("third-word-of-all", "c")).hear_end() == Ending.FULL.value
        # The other half of a meeting that waits is no further one.
        met = await come("first-word-of-all", "d")
        assert await met.hear_message() == b"OK"
        waiting.stream.lose()
        await trio.testing.wait_all_tasks_blocked()
        assert await (await come("other-word-of-all", "a")).hear_message() == b"OK"


async def test_a_slow_reader_stops_its_sender_in_bounded_memory_and_pings_do_not_kill_it(
    autojump_clock: trio.testing.MockClock,
    relay: Relay,
) -> None:
    first, second = await relay.pair(room=4096)
    for _ in range(100):
        first.say(bytes(10_000))
    await trio.testing.wait_all_tasks_blocked()
    assert second.stream.outbox_bytes < 20_000
    # Longer than a peer may be silent: it is not read, so nobody can know.
    with trio.move_on_after(PING_INTERVAL + MAX_MISSES * PONG_TIMEOUT - 1):
        await trio.sleep_forever()
    assert not first.stream.lost
    received = 0
    while received < 100:
        frame = await second.hear()
        if frame.opcode is Opcode.PING:
            second.stream.write(bytes(second.protocol.pong(bytes(frame.payload))))
        elif frame.frame_finished:
            received += 1
    assert relay.counters.p2p_bytes == 1_000_000


async def test_when_the_server_stops_everybody_is_told_and_nobody_new_meets(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    first, second = await relay.pair()
    waiting = relay.call(query=relay.ticket())
    waiting.say("another-word-for-two")
    assert await waiting.hear_message() == b"OK"
    relay.handler.meetings.end_all()
    told = [await caller.hear_end() for caller in (first, second, waiting)]
    assert told == [Ending.SHUTDOWN.value] * 3
    late = relay.call(query=relay.ticket())
    late.say(WORD)
    assert await late.hear_end() == Ending.SHUTDOWN.value


async def test_a_cancelled_connection_leaves_nothing_behind(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    first = relay.call(query=relay.ticket())
    first.say(WORD)
    assert await first.hear_message() == b"OK"
    stream = RelayStream(query=relay.ticket())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.handler, stream)
        second = Caller(stream)
        second.say(WORD)
        assert await second.hear_message() == b"OK"
        nursery.cancel_scope.cancel()
    assert (await first.hear_end())[0] == 1000
    await trio.testing.wait_all_tasks_blocked()
    assert (len(relay.handler.meetings), relay.counters.p2p_open, relay.counters.p2p_waiting) == (0, 0, 0)


async def test_s14_only_sessions_and_tickets_get_in(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, running_relay(server=server) as relay:
        alice = Person(handle="alice")
        client = await server.connect(alice)
        bearer = {"authorization": f"Bearer {client.token}"}
        good = relay.call(**bearer)
        good.say(WORD)
        assert await good.hear_message() == b"OK"
        for refused in (
            relay.call(),
            relay.call(query="ticket=00"),
            relay.call(query=relay.ticket()[:-1] + "x"),
            relay.call(authorization="Bearer 00"),
        ):
            assert await refused.problem() == 401
        await server.storage.revoke_device(alice.device_id, int(NOW))
        assert await relay.call(**bearer).problem() == 401


async def test_where_it_is_open_everybody_gets_in_and_counts_by_address(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running_relay(attrs.evolve(LIMITS, per_owner=1), required=False) as relay:
        first, second = relay.call(), relay.call()
        first.say(WORD)
        assert await first.hear_message() == b"OK"
        second.say(WORD)
        assert await second.hear_end() == Ending.TOO_MANY.value
        wrong = relay.call(query="ticket=00")
        await trio.testing.wait_all_tasks_blocked()
        assert wrong.stream.status == 401


async def test_requests_of_one_address_are_limited(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running_relay(limit=limit("http", 1, 60.0)) as relay:
        first, second = relay.call(query=relay.ticket()), relay.call(query=relay.ticket())
        await trio.testing.wait_all_tasks_blocked()
        assert sorted([first.stream.status, second.stream.status]) == [101, 429]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"upgrade": "h2c"}, 400),
        ({"connection": "close"}, 400),
        ({"sec-websocket-version": "8"}, 400),
        ({"sec-websocket-key": "short"}, 400),
        ({"content-length": "1"}, 400),
    ],
)
async def test_requests_that_open_no_websocket_are_refused(
    autojump_clock: trio.testing.MockClock, relay: Relay, changes: dict[str, str], status: int
) -> None:
    caller = relay.call(query=relay.ticket(), **changes)
    await trio.testing.wait_all_tasks_blocked()
    assert caller.stream.status == status


def test_tickets_end_belong_to_one_identity_and_name_nobody() -> None:
    now = NOW
    tickets = RelayTickets(KEYS, lambda: now)
    ticket, end = tickets.issue("user-7", 60)
    assert end == now + 60
    assert tickets.owner_of(ticket) == tickets.tag_of("user-7") != tickets.tag_of("user-8")
    assert b"user-7" not in bytes.fromhex(ticket)
    assert RelayTickets(KEYS, lambda: now + 60).owner_of(ticket) is None
    assert RelayTickets(DeviceKeyPair.from_seed(b"o" * 32), lambda: now).owner_of(ticket) is None
    for place in range(len(ticket)):
        changed = ticket[:place] + ("0" if ticket[place] != "0" else "1") + ticket[place + 1 :]
        assert tickets.owner_of(changed) is None
    assert tickets.issue("user-7", 60)[0] != ticket


def test_words_are_spread_over_the_workers_and_each_has_one() -> None:
    found = [worker_of(f"word-{number}", 4) for number in range(400)]
    assert found == [worker_of(f"word-{number}", 4) for number in range(400)]
    assert all(60 < found.count(worker) < 140 for worker in (1, 2, 3, 4))
