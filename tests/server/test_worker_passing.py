"""What one worker passes on to another, when that one dies or a meeting ends in the middle of a message."""

import socket
from pathlib import Path

import trio
import trio.testing

from commucat_server.connect.modes import GONE
from commucat_server.connect.relay import WorkerRelay
from commucat_server.ops.counters import Counters
from commucat_server.p2p.meetings import Meetings, RelayLimits
from commucat_server.p2p.passing import _ENDING, _read, attend_passed
from commucat_server.p2p.peer import MAX_MESSAGE, Ending, Message
from server.connect_builders import MemoryConnectStream

WORD = "a-word-of-32-characters-for-two-"
LIMITS = RelayLimits(pairs=10, per_owner=10, bytes=100_000_000, seconds=10_000.0, idle=5_000.0)


async def test_a_post_for_a_worker_that_dies_with_it_is_for_a_stream_that_is_gone(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(WorkerRelay.socket_of(tmp_path, 2)))
    listening.listen()
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))

    async def die() -> None:
        # Closed over bytes that nobody has read, as by the kernel for a process that was killed.
        async with await listener.accept() as stream:
            await stream.receive_some(1)

    nursery.start_soon(die)
    post = MemoryConnectStream()
    post.write(bytes(1000))

    assert await WorkerRelay(tmp_path, 1).forward("0002" + "ab" * 32, "0", post, 30.0) == GONE
    await listener.aclose()


class Talker:
    """A peer of this worker, who has much to say and hears nothing."""

    async def take(self) -> Message | None:
        return Message(bytes(MAX_MESSAGE))

    async def wait_gone(self) -> None:
        await trio.sleep_forever()

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_meeting_that_ends_in_the_middle_of_a_message_ends_with_its_reason() -> None:
    here, there = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    meetings = Meetings(LIMITS, Counters())
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meetings.attend, WORD, Talker(), "a")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(attend_passed, here, WORD, "b", meetings)
            # The other worker's client does not read: the socket between the two is full.
            await trio.testing.wait_all_tasks_blocked()
            meetings.end_all()
            await trio.testing.wait_all_tasks_blocked()

            kind, data = 0, b""
            heard = []
            while kind != _ENDING:
                kind, data = await _read(there)
                heard.append(len(data))
            assert Ending[data.decode()] is Ending.SHUTDOWN
            assert set(heard[1:-1]) == {MAX_MESSAGE}
    await here.aclose()
    await there.aclose()
