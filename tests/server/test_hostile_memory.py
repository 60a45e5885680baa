"""What one client can make the server keep in memory, whatever it sends and however little it reads."""

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from commucat_proto import FrameType
from commucat_server.connect.dispatch import MAX_BATCH, MAX_PENDING
from commucat_server.connect.modes.websocket import WebSocketStream
from commucat_server.routing.live import ANSWERS_BYTES, NAMES_BYTES, LiveSession
from end_to_end.mode_transports import ws_frame
from server.connect_builders import Client, MemoryConnectStream, Person, Server, running_server

CHANNEL = 7
ALICE = Person(handle="alice")
FRAMES = 1_500
DEVICES = 200
LONGEST_ANSWER = 256 * 1024
SHORT_ANSWER = 256
"""More bytes than an answer without names takes."""


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The most bytes of answers that ever waited for one session."""
    found = [0]
    take_answer = LiveSession.answer

    def watched(self: LiveSession, *args: Any) -> None:
        take_answer(self, *args)
        found[0] = max(found[0], self.answers_bytes)

    monkeypatch.setattr(LiveSession, "answer", watched)
    return found


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def memory_held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def at_rest(server: Server) -> None:
    """Nothing moves any more: the journal is empty, and every task waits for somebody outside."""
    while True:
        await trio.testing.wait_all_tasks_blocked(0.01)
        if not server.storage.waiting_rows:
            return


async def flood(server: Server, frame_type: FrameType, payload: bytes, count: int = FRAMES) -> Client:
    """One read full of frames, each refused by many devices, from a client that reads nothing any more."""
    stream = MemoryConnectStream()
    alice = await server.connect(ALICE, stream=stream)
    assert "ack" in await alice.join(CHANNEL, *(f"{number:0128}" for number in range(DEVICES)))
    stream.limit(0)
    frames = [alice.session.frame(frame_type, CHANNEL, payload)[1] for _ in range(count)]
    stream.write(alice.session.seal(frames))
    return alice


@pytest.mark.parametrize("frame_type", [FrameType.MSG, FrameType.TYPING])
async def test_answers_that_name_many_are_bounded(
    tmp_path: Path, peak: list[int], frame_type: FrameType
) -> None:
    """An answer can be ten thousand times as long as its frame."""
    async with running_server(tmp_path) as server:
        alice = await flood(server, frame_type, b"" if frame_type is FrameType.MSG else b"{}")
        await at_rest(server)

        assert peak[0] >= ANSWERS_BYTES
        assert peak[0] < NAMES_BYTES + LONGEST_ANSWER + MAX_PENDING * MAX_BATCH * SHORT_ANSWER
        alice.stream.limit(10**9)
        answers = [dict((await alice.next_of(FrameType.ERROR)).control) for _ in range(FRAMES)]  # type: ignore[arg-type]
        assert [answer["ref"] for answer in answers] == list(range(4, 4 + FRAMES))
        assert {len(a["refused"]) + a.get("refused_more", 0) for a in answers} == {DEVICES}
        assert len(answers[0]["refused"]) == DEVICES


async def test_answers_to_one_read_of_bad_frames_are_bounded(tmp_path: Path, peak: list[int]) -> None:
    """These are answered at once, without the journal that would slow them down."""
    async with running_server(tmp_path) as server:
        alice = await flood(server, FrameType.KEY_UPDATE, b"0", 4_000)
        await at_rest(server)

        assert ANSWERS_BYTES <= peak[0] < ANSWERS_BYTES + SHORT_ANSWER
        alice.stream.limit(10**9)
        for _ in range(4_000):
            assert (await alice.next_of(FrameType.ERROR)).control
        assert "ack" in await alice.join(CHANNEL)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("text", [b"", "\u0800".encode()], ids=["empty pieces", "pieces of one character"])
async def test_text_in_tiny_pieces_is_kept_as_bytes(text: bytes) -> None:
    """A piece of six bytes on the wire must not become an object of eighty in memory."""
    inner = MemoryConnectStream()
    stream = WebSocketStream(inner)
    pieces = [ws_frame(1, text, fin=False), *[ws_frame(0, text, fin=False)] * 20_000]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive)
        await trio.testing.wait_all_tasks_blocked()
        before = memory_held()
        for start in range(0, len(pieces), 1_000):
            inner.write(b"".join(pieces[start : start + 1_000]))
            await trio.testing.wait_all_tasks_blocked()
        assert memory_held() - before < 3 * 20_000 * max(len(text), 1)
        nursery.cancel_scope.cancel()
