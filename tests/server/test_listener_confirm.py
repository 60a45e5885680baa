"""confirm(): the peer's transport has answered for the bytes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.events
import pytest
import trio
import trio.testing
from hyperframe.frame import Frame, PingFrame, RstStreamFrame

from commucat_server.listener import ConnectStream, ListenerSettings, StreamLostError
from server.listener_builders import Served, served


class Wire:
    """The peer's side of the connection, read frame by frame; PINGs are answered when a test says so."""

    def __init__(self, test: Served) -> None:
        self.test = test
        self.buffer = b""
        self.frames: list[Frame] = []

    async def read_until_quiet(self) -> None:
        """Read everything the server has sent by now."""
        await trio.testing.wait_all_tasks_blocked()
        while len(self.buffer) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self.buffer[:9]))
            frame.parse_body(memoryview(self.buffer[9 : 9 + length]))
            self.buffer = self.buffer[9 + length :]
            self.frames.append(frame)

    async def receive(self) -> None:
        """Collect what the server sends, to the end."""
        while data := await self.test.peer.transport.receive_some(65_536):
            self.buffer += data

    async def hang_up(self) -> None:
        """End the peer's side of the connection."""
        transport = self.test.peer.transport
        assert isinstance(transport, trio.StapledStream)
        await transport.send_stream.aclose()

    def pings(self) -> list[bytes]:
        """Payloads of the PINGs that came."""
        return [
            frame.opaque_data
            for frame in self.frames
            if isinstance(frame, PingFrame) and "ACK" not in frame.flags
        ]

    async def answer(self, payload: bytes) -> None:
        """Acknowledge a PING."""
        await self.test.peer.transport.send_all(acknowledged(payload))
        await trio.testing.wait_all_tasks_blocked()


class Session:
    """A handler whose calls a test makes itself."""

    def __init__(self) -> None:
        self.stream: ConnectStream | None = None
        self.ready = trio.Event()
        self.confirmed: list[str] = []
        self.lost: list[str] = []

    async def handle(self, stream: ConnectStream) -> None:
        await stream.start(200, [])
        self.stream = stream
        self.ready.set()
        await trio.sleep_forever()

    async def confirm(self, name: str) -> None:
        assert self.stream is not None
        try:
            await self.stream.confirm()
        except StreamLostError as exc:
            self.lost.append(str(exc))
        else:
            self.confirmed.append(name)

    async def send(self, data: bytes) -> None:
        assert self.stream is not None
        await self.stream.send(data)


@asynccontextmanager
async def session(
    settings: ListenerSettings | None = None,
) -> AsyncIterator[tuple[Session, Wire, trio.Nursery]]:
    own = Session()
    async with served(own.handle, settings=settings) as test:
        await test.peer.request()
        await test.peer.until(lambda: test.peer.count(h2.events.ResponseReceived))
        async with trio.open_nursery() as nursery:
            wire = Wire(test)
            nursery.start_soon(wire.receive)
            yield own, wire, nursery
            nursery.cancel_scope.cancel()
        await test.peer.transport.aclose()
        if test.connection._nursery is not None:
            test.connection._nursery.cancel_scope.cancel()


async def test_returns_only_after_the_ping_behind_the_bytes() -> None:
    async with session() as (own, wire, nursery):
        await own.send(b"payload")
        nursery.start_soon(own.confirm, "a")
        await wire.read_until_quiet()
        kinds = [type(frame).__name__ for frame in wire.frames]
        assert kinds.index("DataFrame") < kinds.index("PingFrame")
        assert own.confirmed == []
        await wire.answer(wire.pings()[0])
        assert own.confirmed == ["a"]


async def test_earlier_ping_does_not_speak_for_later_bytes() -> None:
    async with session() as (own, wire, nursery):
        await own.send(b"first")
        nursery.start_soon(own.confirm, "first")
        await wire.read_until_quiet()
        await own.send(b"second")
        nursery.start_soon(own.confirm, "second")
        await wire.read_until_quiet()
        # At most one is in flight.
        assert len(wire.pings()) == 1
        await wire.answer(wire.pings()[0])
        assert own.confirmed == ["first"]
        await wire.read_until_quiet()
        assert len(wire.pings()) == 2
        await wire.answer(wire.pings()[1])
        assert own.confirmed == ["first", "second"]


async def test_callers_share_a_ping() -> None:
    async with session() as (own, wire, nursery):
        await own.send(b"payload")
        for number in range(50):
            nursery.start_soon(own.confirm, str(number))
        await wire.read_until_quiet()
        assert len(wire.pings()) == 1
        await wire.answer(wire.pings()[0])
        assert len(own.confirmed) == 50


async def test_what_was_answered_for_needs_no_ping() -> None:
    async with session() as (own, wire, nursery):
        await own.send(b"payload")
        nursery.start_soon(own.confirm, "a")
        await wire.read_until_quiet()
        await wire.answer(wire.pings()[0])
        await own.confirm("again")
        await wire.read_until_quiet()
        assert len(wire.pings()) == 1
        assert own.confirmed == ["a", "again"]


async def test_wrong_answers_confirm_nothing() -> None:
    async with session() as (own, wire, nursery):
        await wire.answer(b"\0" * 8)
        await wire.answer((1).to_bytes(8, "big"))
        await own.send(b"payload")
        nursery.start_soon(own.confirm, "a")
        await wire.read_until_quiet()
        for wrong in (b"\0" * 8, b"\xff" * 8, (2).to_bytes(8, "big")):
            await wire.answer(wrong)
        assert own.confirmed == []
        await wire.answer(wire.pings()[0])
        await wire.answer(wire.pings()[0])
        assert own.confirmed == ["a"]


async def test_waits_for_bytes_the_window_holds_back() -> None:
    async with session() as (own, wire, nursery):
        await own.send(b"x" * 100_000)
        nursery.start_soon(own.confirm, "a")
        await wire.read_until_quiet()
        assert wire.pings() == []
        peer = wire.test.peer
        peer.protocol.increment_flow_control_window(100_000)
        peer.protocol.increment_flow_control_window(100_000, 1)
        await peer.flush()
        await wire.read_until_quiet()
        await wire.answer(wire.pings()[0])
        assert own.confirmed == ["a"]


async def test_silence_ends_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with session(ListenerSettings(ping_timeout=9, drain_timeout=1)) as (own, wire, nursery):
        await own.send(b"payload")
        nursery.start_soon(own.confirm, "a")
        nursery.start_soon(own.confirm, "b")
        await wire.test.done.wait()
        assert own.lost == ["no answer to a PING"] * 2
        assert trio.current_time() == pytest.approx(10)


async def test_reset_by_the_peer_ends_the_wait() -> None:
    async with session() as (own, wire, nursery):
        await own.send(b"x" * 100_000)
        nursery.start_soon(own.confirm, "a")
        await wire.read_until_quiet()
        wire.test.peer.protocol.reset_stream(1)
        await wire.test.peer.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert own.lost == ["reset by the peer"]


def acknowledged(payload: bytes) -> bytes:
    """The frame that acknowledges a PING."""
    frame = PingFrame(0, opaque_data=payload)
    frame.flags.add("ACK")
    return frame.serialize()


RESET = RstStreamFrame(1, error_code=8).serialize()


async def test_an_answer_behind_a_reset_says_nothing_about_the_bytes() -> None:
    """A peer drops what comes for a stream that it has reset, and answers PINGs all the same."""
    async with session() as (own, wire, nursery):
        await own.send(b"payload")
        nursery.start_soon(own.confirm, "a")
        await wire.read_until_quiet()
        await wire.test.peer.transport.send_all(RESET + acknowledged(wire.pings()[0]))
        await trio.testing.wait_all_tasks_blocked()
        assert (own.confirmed, own.lost) == ([], ["reset by the peer"])
        await own.confirm("asked later")
        assert (own.confirmed, own.lost) == ([], ["reset by the peer"] * 2)


async def test_an_answer_before_a_reset_counts() -> None:
    async with session() as (own, wire, nursery):
        await own.send(b"payload")
        nursery.start_soon(own.confirm, "a")
        await wire.read_until_quiet()
        await wire.test.peer.transport.send_all(acknowledged(wire.pings()[0]) + RESET)
        await trio.testing.wait_all_tasks_blocked()
        assert (own.confirmed, own.lost) == (["a"], [])


async def test_lost_connection_ends_the_wait() -> None:
    async with session() as (own, wire, nursery):
        await own.send(b"payload")
        nursery.start_soon(own.confirm, "a")
        await wire.read_until_quiet()
        await wire.hang_up()
        await trio.testing.wait_all_tasks_blocked()
        assert own.lost == ["connection lost"]


async def test_a_real_client_confirms_by_itself() -> None:
    confirmed = trio.Event()

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        for _ in range(20):
            await stream.send(b"x" * 50_000)
            await stream.confirm()
        confirmed.set()

    async with served(handler) as test:
        stream_id = await test.peer.request()
        assert len((await test.peer.answer(stream_id))[2]) == 1_000_000
        assert confirmed.is_set()
        assert test.peer.count(h2.events.PingReceived) == 20
