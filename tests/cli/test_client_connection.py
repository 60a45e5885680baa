"""The session driver against a scripted server, over real HTTP/2 in memory."""

import itertools
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cli.cli_builders import Attached, ScriptedServer, attached
from commucat_cli.client import Answer
from commucat_cli.client.connection import CONFIRM_INTERVAL, MAX_DELIVERED
from commucat_cli.errors import (
    CliError,
    ConnectionLostError,
    HandshakeRefused,
    NotCommuCatError,
    RestError,
    ServerBusyError,
    SessionEndedError,
    SessionReplaced,
    UnreachableError,
)
from commucat_crypto import NoisePattern, StaticKeyPair
from commucat_proto import FrameType, HandshakeDetail, encode_frame


@pytest.mark.parametrize("pattern", [NoisePattern.XK, NoisePattern.IK])
async def test_session_opens_with_either_pattern(pattern: NoisePattern) -> None:
    server = ScriptedServer()
    async with attached(server, pattern=pattern, code="c0de") as connection:
        assert connection.info.token == "token"
        assert connection.info.epoch == "e1"
        assert (await connection.join(5, ["bob"])).error is None
    assert server.codes == ["c0de"]
    [join] = server.received
    assert (join.type, join.channel, join.control) == (FrameType.JOIN, 5, {"members": ["bob"]})


async def test_answers_reach_the_callback_of_their_frame() -> None:
    refusals = {
        2: {"error": "quota", "title": "Frame refused", "detail": "inbox is full"},
        3: {"refused": [{"device": "carol", "reason": "revoked"}]},
    }
    answers: dict[int, Answer] = {}
    server = ScriptedServer(answer=lambda frame: refusals.get(frame.channel, {}))
    async with attached(server) as connection:
        done = trio.Event()

        def take(channel: int, answer: Answer) -> None:
            answers[channel] = answer
            if len(answers) == 3:
                done.set()

        for channel in (1, 2, 3):
            connection.send_frame(FrameType.MSG, channel, b"x", lambda answer, c=channel: take(c, answer))
        await done.wait()
    assert answers[1].error is None
    assert not answers[1].refused
    assert answers[2].error == "quota"
    assert "inbox is full" in answers[2].text
    assert [(one.device, one.reason) for one in answers[3].refused] == [("carol", "revoked")]


async def test_refusals_nobody_waits_for_are_complaints() -> None:
    server = ScriptedServer(answer=lambda _: {"error": "bad_request", "detail": "no"})
    async with attached(server) as connection:
        heard = trio.Event()
        connection.on_complaint = lambda _: heard.set()
        connection.send_frame(FrameType.PRESENCE, 0, b"{}")
        await heard.wait()


async def test_many_frames_arrive_in_order_and_coalesced() -> None:
    server = ScriptedServer()
    async with attached(server) as connection:
        left = 3000
        done = trio.Event()

        def count(_: Answer) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        for number in range(left):
            await connection.room()
            connection.send_frame(FrameType.MSG, 1, b"%d" % number + bytes(300), count)
        await done.wait()
    sequences = [frame.sequence for frame in server.received]
    assert len(sequences) == 3000
    assert all(right == left + 1 for left, right in itertools.pairwise(sequences))


async def test_a_frame_of_many_megabytes_passes_both_ways() -> None:
    """Flow control: windows are far smaller than this."""
    server = ScriptedServer()
    payload = bytes(range(256)) * 16_384  # 4 MiB
    server.deliver(FrameType.MSG, 1, payload)
    async with attached(server) as connection:
        [frame] = await connection.deliveries()
        assert frame.payload == payload
        assert (await connection.request(FrameType.MSG, 1, payload)).error is None
    assert server.messages()[0].payload == payload


async def test_room_waits_while_the_network_takes_nothing(autojump_clock: MockClock) -> None:
    server = ScriptedServer()

    async def take_nothing(_: Attached) -> None:
        await trio.sleep_forever()

    server.on_attached = take_nothing
    sent = 0
    with trio.move_on_after(60) as deadline:
        async with attached(server) as connection:
            while True:
                await connection.room()
                connection.send_frame(FrameType.MSG, 1, bytes(50_000))
                sent += 50_000
                # Lets the writer run, as everything between two messages would.
                await trio.lowlevel.checkpoint()
    assert deadline.cancelled_caught
    assert sent < 3_000_000, "the windows of both sides and what may be queued"


async def test_deliveries_wait_on_the_server_when_nobody_takes_them() -> None:
    server = ScriptedServer()
    for number in range(4 * MAX_DELIVERED):
        server.deliver(FrameType.MSG, 1, b"%d" % number + bytes(4096))
    async with attached(server) as connection:
        await trio.testing.wait_all_tasks_blocked()
        frames = await connection.deliveries()
        assert len(frames) < 3 * MAX_DELIVERED
        while len(frames) < 4 * MAX_DELIVERED:
            frames += await connection.deliveries()
    assert [frame.sequence for frame in frames] == list(range(1, 4 * MAX_DELIVERED + 1))


async def test_iteration_gives_frames_one_by_one_and_ends_with_the_reason() -> None:
    server = ScriptedServer()
    for _ in range(3):
        server.deliver(FrameType.MSG, 1, b"x")

    async def say_goodbye(session: Attached) -> None:
        await session.tell(FrameType.ERROR, 0, {"error": "shutdown"})
        await session.stream.end()

    server.on_attached = say_goodbye
    got = []

    async def iterate() -> None:
        async with attached(server) as connection:
            async for frame in connection:
                got.append(frame.sequence)

    with pytest.raises(ServerBusyError, match="shutting down"):
        await iterate()
    assert got == [1, 2, 3]


async def test_confirmations_are_cumulative_and_arrive_before_the_end() -> None:
    server = ScriptedServer()
    async with attached(server) as connection:
        for number in (1, 2, 5, 3):
            connection.confirm(number)
    acks = [frame for frame in server.received if frame.type is FrameType.ACK]
    assert [(frame.channel, frame.control) for frame in acks] == [(0, {"ack": 5})]


async def test_a_confirmation_goes_out_at_once_and_the_next_a_moment_later(autojump_clock: MockClock) -> None:
    server = ScriptedServer()

    def confirmed() -> list[object]:
        return [frame.control for frame in server.received if frame.type is FrameType.ACK]

    async with attached(server) as connection:
        connection.confirm(1)
        await trio.sleep(CONFIRM_INTERVAL / 4)
        assert confirmed() == [{"ack": 1}]
        connection.confirm(2)
        await trio.sleep(CONFIRM_INTERVAL / 4)
        connection.confirm(3)
        await trio.sleep(CONFIRM_INTERVAL / 4)
        assert confirmed() == [{"ack": 1}]
        await trio.sleep(CONFIRM_INTERVAL)
        assert confirmed() == [{"ack": 1}, {"ack": 3}]
        await trio.sleep(1)
        assert confirmed() == [{"ack": 1}, {"ack": 3}], "once"


async def test_confirmations_wait_while_messages_come(autojump_clock: MockClock) -> None:
    """A read does not send them: each message would be confirmed alone by the next."""
    server = ScriptedServer()
    messages = 50
    apart = CONFIRM_INTERVAL / 5

    async def talk(session: Attached) -> None:
        for number in range(1, messages + 1):
            await session.push(encode_frame(FrameType.MSG, 1, number, b"x"))
            await trio.sleep(apart)

    server.on_attached = talk
    async with attached(server) as connection:
        got = 0
        while got < messages:
            frames = await connection.deliveries()
            got += len(frames)
            connection.confirm(frames[-1].sequence)
        await trio.sleep(1)
        acks = [frame.control for frame in server.received if frame.type is FrameType.ACK]
        assert acks[-1] == {"ack": messages}
        assert len(acks) <= messages * apart / CONFIRM_INTERVAL + 2


async def test_a_confirmation_goes_out_with_whatever_is_sent_next(autojump_clock: MockClock) -> None:
    server = ScriptedServer()
    async with attached(server) as connection:
        connection.confirm(4)
        await trio.sleep(CONFIRM_INTERVAL / 4)
        connection.confirm(5)
        await connection.request(FrameType.MSG, 1, b"x")
        acks = [frame.control for frame in server.received if frame.type is FrameType.ACK]
        assert acks == [{"ack": 4}, {"ack": 5}]
        await trio.sleep(1)
        assert len(server.received) == 3


async def test_early_frames_in_the_read_of_the_final_ack_are_not_lost() -> None:
    server = ScriptedServer()
    server.deliver(FrameType.MSG, 1, b"waiting")
    async with attached(server) as connection:
        [frame] = await connection.deliveries()
        assert frame.payload == b"waiting"


@pytest.mark.parametrize(
    ("farewell", "error", "words"),
    [
        ({"error": "replaced", "title": "Session replaced"}, SessionReplaced, "another session"),
        ({"error": "shutdown"}, ServerBusyError, "shutting down"),
        ({"error": "storage", "title": "Storage failure", "retry": True}, ServerBusyError, "Storage"),
        ({"error": "revoked", "detail": "device was revoked"}, SessionEndedError, "device was revoked"),
        ({"error": "decode", "detail": "frame exceeds limits"}, SessionEndedError, "exceeds limits"),
        (None, ConnectionLostError, "ended the session"),
    ],
)
async def test_the_reason_of_the_end_is_told(
    farewell: dict[str, Any] | None, error: type[CliError], words: str
) -> None:
    server = ScriptedServer()

    async def end(session: Attached) -> None:
        if farewell is not None:
            await session.tell(FrameType.ERROR, 0, farewell)
        await session.stream.end()

    server.on_attached = end
    with pytest.raises(error, match=words):
        async with attached(server) as connection:
            await connection.wait_ended()
    with pytest.raises(error):
        async with attached(server) as connection:
            await connection.join(1, [])


async def test_a_reset_stream_is_a_lost_connection() -> None:
    server = ScriptedServer(reset_after=1)
    with pytest.raises(ConnectionLostError):
        async with attached(server) as connection:
            await connection.join(1, [])


async def test_garbage_after_the_handshake_ends_the_session() -> None:
    server = ScriptedServer()

    async def garbage(session: Attached) -> None:
        await session.stream.send(b"\x20" + bytes(32))

    server.on_attached = garbage
    with pytest.raises(ConnectionLostError, match="cannot be read"):
        async with attached(server) as connection:
            await connection.deliveries()


@pytest.mark.parametrize(
    ("detail", "extra", "error", "words"),
    [
        (HandshakeDetail.PAIRING, {"reason": "the handle exists"}, HandshakeRefused, "handle exists.*--code"),
        (HandshakeDetail.INVALID, {}, HandshakeRefused, "invalid request"),
        (HandshakeDetail.CRYPTO, {}, HandshakeRefused, "crypto failure"),
        (HandshakeDetail.STORAGE, {"retry": True}, ServerBusyError, "storage failure"),
    ],
)
async def test_refused_handshakes_are_explained(
    detail: HandshakeDetail, extra: dict[str, Any], error: type[CliError], words: str
) -> None:
    with pytest.raises(error, match=words):
        async with attached(ScriptedServer(refuse=(detail, extra))):
            pass


async def test_a_refused_code_is_told_as_such() -> None:
    refuse = (HandshakeDetail.PAIRING, {"reason": "enrolment code is not valid"})
    with pytest.raises(HandshakeRefused, match="refuses the code"):
        async with attached(ScriptedServer(refuse=refuse), code="wrong"):
            pass


@pytest.mark.parametrize(
    ("status", "document", "error", "words"),
    [
        (429, {"title": "Too Many Requests"}, ServerBusyError, "429 .Too Many Requests"),
        (404, {}, NotCommuCatError, "is this a CommuCat server"),
        (403, {"title": "Forbidden", "detail": "go away"}, RestError, "Forbidden: go away"),
    ],
)
async def test_http_errors_of_connect_are_explained(
    status: int, document: dict[str, Any], error: type[CliError], words: str
) -> None:
    with pytest.raises(error, match=words):
        async with attached(ScriptedServer(problem=(status, document))):
            pass


async def test_a_server_with_another_key_cannot_read_the_hello() -> None:
    with pytest.raises(HandshakeRefused):
        async with attached(ScriptedServer(), server_static=StaticKeyPair.generate().public):
            pass


async def test_a_silent_server_is_given_up(autojump_clock: MockClock) -> None:
    with pytest.raises(UnreachableError, match="finish the handshake within 15 s"):
        async with attached(ScriptedServer(silent=True)):
            pass


async def test_an_ack_without_an_inbox_is_refused() -> None:
    with pytest.raises(NotCommuCatError, match="inbox"):
        async with attached(ScriptedServer(ack={"inbox": None})):
            pass


async def test_rest_answers_and_problems() -> None:
    server = ScriptedServer()
    async with attached(server) as connection:
        assert (await connection.get("/api/server-info"))["domain"] == "chat.example"
        with pytest.raises(RestError, match="NotFound: device not found") as caught:
            await connection.get("/api/devices/nobody/certificate")
        assert caught.value.status == 404


async def test_exceptions_of_the_block_come_out_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        async with attached(ScriptedServer()):
            raise ZeroDivisionError


async def test_cancellation_leaves_nothing_behind() -> None:
    server = ScriptedServer()
    with trio.move_on_after(60) as scope:
        async with attached(server) as connection:
            scope.cancel()
            await connection.deliveries()
    assert scope.cancelled_caught
