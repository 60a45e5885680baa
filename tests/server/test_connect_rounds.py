"""What one commit brings is sent where it is told, and by the session's writer when that cannot be."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from commucat_proto import Frame, FrameType
from commucat_server.connect.dispatch import FrameDispatcher
from commucat_server.listener import StreamLostError
from commucat_server.listener.outflow import MANY
from server.connect_builders import Client, MemoryConnectStream, Person, Server, running_server

CHANNEL = 7
ALICE, BOB = Person(handle="alice"), Person(handle="bob")


class PromptConnectStream(MemoryConnectStream):
    """A stream that takes bytes at once, for as long as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt = True
        self.breaks: Exception | None = None
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens elsewhere while it is asked to take bytes at once."""
        self.sent_now: list[int] = []
        """Sizes of what it took at once."""

    def send_now(self, data: bytes) -> bool:
        self.meanwhile()
        if self.breaks is not None:
            if isinstance(self.breaks, StreamLostError):
                self.lose()
            raise self.breaks
        if not self.prompt or self.lost:
            return False
        self.sent_now.append(len(data))
        self._down += data
        self._changed.unpark_all()
        return True


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as server:
        yield server


async def pair(server: Server) -> tuple[Client, Client, PromptConnectStream]:
    """Alice, with a route to bob, who is connected and has nothing to wait for."""
    stream = PromptConnectStream()
    bob = await server.connect(BOB, stream=stream)
    alice = await server.connect(ALICE)
    assert await alice.join(CHANNEL, BOB.device_id) == {"ack": 3}
    await trio.testing.wait_all_tasks_blocked(0.05)
    stream.sent_now.clear()
    return alice, bob, stream


def send_together(client: Client, *payloads: bytes) -> None:
    """Several messages in one read of the server, and so in one commit."""
    frames = [client.session.frame(FrameType.MSG, CHANNEL, payload)[1] for payload in payloads]
    client.stream.write(client.session.seal(frames))


async def messages(client: Client, count: int) -> list[tuple[int, bytes]]:
    frames: list[Frame] = [await client.next_of(FrameType.MSG) for _ in range(count)]
    return [(frame.sequence, frame.payload) for frame in frames]


async def test_everything_of_one_commit_goes_out_in_one_piece(server: Server) -> None:
    alice, bob, stream = await pair(server)
    send_together(alice, b"one", b"two", b"three")
    assert await messages(bob, 3) == [(1, b"one"), (2, b"two"), (3, b"three")]
    assert len(stream.sent_now) == 1


async def test_a_stream_without_room_gets_the_rest_from_the_writer_in_order(server: Server) -> None:
    alice, bob, stream = await pair(server)
    assert await alice.message(CHANNEL, b"one")
    stream.prompt = False
    assert await alice.message(CHANNEL, b"two")
    assert await alice.message(CHANNEL, b"three")
    await trio.testing.wait_all_tasks_blocked(0.05)
    stream.prompt = True
    assert await alice.message(CHANNEL, b"four")
    assert await messages(bob, 4) == [(1, b"one"), (2, b"two"), (3, b"three"), (4, b"four")]
    assert len(stream.sent_now) == 2


@pytest.mark.parametrize("error", [StreamLostError("lost"), RuntimeError("a mistake of ours")])
async def test_a_stream_that_breaks_meanwhile_ends_its_session_alone(
    server: Server, error: Exception
) -> None:
    alice, _, stream = await pair(server)
    live = server.context.registry.receiver(BOB.device_id)
    stream.breaks = error
    assert await alice.message(CHANNEL, b"kept")
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert server.context.registry.receiver(BOB.device_id) is None
    assert live is not None
    assert live.closed
    assert await alice.message(CHANNEL, b"kept too")
    bob = await server.connect(BOB)
    assert await messages(bob, 2) == [(1, b"kept"), (2, b"kept too")]


async def test_a_session_that_is_to_end_is_left_to_its_writer(server: Server) -> None:
    alice, bob, stream = await pair(server)
    server.context.registry.end_device(BOB.device_id, {"error": "revoked"})
    assert await alice.message(CHANNEL, b"kept")
    while (frame := await bob.next_frame()) is not None:
        assert frame.type is not FrameType.MSG or frame.payload == b"kept"
    assert stream.ended


async def test_what_found_no_room_goes_before_the_farewell(server: Server) -> None:
    alice, bob, stream = await pair(server)
    stream.prompt = False
    stream.meanwhile = lambda: server.context.registry.end_device(BOB.device_id, {"error": "revoked"})
    assert await alice.message(CHANNEL, b"sealed already")
    assert await messages(bob, 1) == [(1, b"sealed already")]
    assert (await bob.next_of(FrameType.ERROR)).control == {"error": "revoked"}
    assert await bob.next_frame() is None


async def test_a_mistake_while_sending_also_ends_a_session_whose_reader_waits_for_its_writer(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for answers to be sent, not for its stream, and hears nothing of the reset."""
    alice, bob, stream = await pair(server)
    waiting = trio.Event()

    async def heard(dispatcher: FrameDispatcher) -> None:
        if dispatcher._live.device_id == BOB.device_id:
            waiting.set()
            await trio.sleep_forever()

    monkeypatch.setattr(FrameDispatcher, "heard", heard)
    bob.send(FrameType.PRESENCE, 0, {"state": "online"})
    await waiting.wait()
    await trio.testing.wait_all_tasks_blocked(0.05)
    stream.breaks = RuntimeError("a mistake of ours")
    assert await alice.message(CHANNEL, b"kept")
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert server.context.registry.receiver(BOB.device_id) is None


async def test_the_sender_of_a_message_to_many_has_its_ack_before_the_first_of_them_has_it(
    server: Server,
) -> None:
    order: list[str] = []

    def stream_of(name: str) -> PromptConnectStream:
        stream = PromptConnectStream()
        stream.meanwhile = lambda: order.append(name)
        return stream

    people = [Person(handle=f"member{number}") for number in range(MANY + 1)]
    for person in people:
        await server.connect(person, stream=stream_of("member"))
    alice = await server.connect(ALICE, stream=stream_of("alice"))
    for members in (people, people[:-1]):
        await alice.join(CHANNEL, *(person.device_id for person in members))
        await trio.testing.wait_all_tasks_blocked(0.05)
        order.clear()
        assert "ack" in await alice.message(CHANNEL, b"to all")
        # A few have it first, for they wait to read it.
        expected = ["alice", *["member"] * len(members)]
        assert order == (expected if len(members) > MANY else expected[::-1])
