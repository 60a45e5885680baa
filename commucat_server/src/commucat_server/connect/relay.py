"""What reaches another worker than the one that serves it: passed on over a local socket.

Such are POSTs to a stream, and peers of ``/p2p`` (:mod:`commucat_server.p2p.passing`).

Connections of one client go to any worker. The id of a stream begins with the number of its worker; a
POST for it is passed on as a line with id and offset, then the body in pieces, each behind its length (4
bytes, big-endian), a length of 0 at its end; the answer is a line with the refusal, or ``null``.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import trio

from commucat_proto import json_text
from commucat_server.connect.modes import GONE, Post, Refusal, Upstreams, feed_upstream
from commucat_server.listener import StreamLostError

_PREFIX_LEN: Final = 4
_MAX_LINE: Final = 1024
_MAX_PIECE: Final = 1024 * 1024
Meet: TypeAlias = Callable[[trio.SocketStream, str, str], Awaitable[None]]
"""Serves a peer that has come over a local socket, with its session id and its owner."""


class WorkerRelay:
    """The local sockets of the workers of one server, in one folder that only they can enter."""

    def __init__(self, folder: Path, worker: int) -> None:
        self._folder = folder
        self._worker = worker

    @property
    def worker(self) -> int:
        """Which one this is, from 1."""
        return self._worker

    @property
    def workers(self) -> int:
        """How many there are, as their parent has begun: the configuration may say something else by now."""
        return sum(1 for _ in self._folder.iterdir())

    @property
    def prefix(self) -> str:
        """What the ids of this worker's streams begin with."""
        return f"{self._worker:04x}"

    @staticmethod
    def socket_of(folder: Path, worker: int) -> Path:
        """Where a worker listens."""
        return folder / f"{worker}"

    def is_elsewhere(self, name: str) -> bool:
        """Whether the id is of a stream of another worker."""
        prefix = name[:_PREFIX_LEN]
        return len(name) > _PREFIX_LEN and prefix != self.prefix and self._path(name) is not None

    async def forward(self, name: str, offset: str, post: Post, patience: float) -> Refusal | None:
        """Have the stream's own worker serve the POST; as :func:`feed_upstream`.

        Raises:
            StreamLostError: the POST broke off.
        """
        stream = await self.open(int(name[:_PREFIX_LEN], 16))
        if stream is None:
            return GONE  # The worker has died, and its streams with it.
        answer = b""
        lost: list[StreamLostError] = []
        async with stream, trio.open_nursery() as nursery:

            async def pass_on() -> None:
                try:
                    await _pass_on(post, stream, name, offset)
                except StreamLostError as exc:
                    lost.append(exc)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(pass_on)
            # It answers in time itself, unless it hangs.
            # One that dies with bytes unread resets the connection.
            with trio.move_on_after(2 * patience), suppress(trio.BrokenResourceError):
                answer = await _read_line(stream)
            nursery.cancel_scope.cancel()
        if lost:
            raise lost[0]
        if not answer:
            return GONE
        value: Any = json_text.loads(answer)
        return None if value is None else Refusal(**value)

    async def open(self, worker: int) -> trio.SocketStream | None:
        """A connection to another worker; ``None``: there is no such worker."""
        try:
            return await trio.open_unix_socket(str(self.socket_of(self._folder, worker)))
        except OSError:
            return None

    async def serve(
        self,
        socket: trio.socket.SocketType,
        upstreams: Upstreams,
        patience: float,
        meet: Meet | None = None,
    ) -> None:
        """Serve what other workers pass on; until cancelled. ``meet`` serves peers of ``/p2p``."""
        listener = trio.SocketListener(socket)

        async def handle(stream: trio.SocketStream) -> None:
            async with stream:
                # The POST broke off, or the worker that passed it on has died.
                with suppress(StreamLostError, trio.BrokenResourceError, ValueError):
                    await _serve_one(stream, upstreams, patience, meet)

        async with trio.open_nursery() as nursery:
            await trio.serve_listeners(handle, [listener], handler_nursery=nursery)

    def _path(self, name: str) -> Path | None:
        try:
            path = self.socket_of(self._folder, int(name[:_PREFIX_LEN], 16))
        except ValueError:
            return None
        return path if path.exists() else None


async def _pass_on(post: Post, stream: trio.SocketStream, name: str, offset: str) -> None:
    try:
        await stream.send_all(json_text.dumps({"name": name, "offset": offset}) + b"\n")
        while True:
            data = await post.receive()
            for start in range(0, len(data), _MAX_PIECE):
                piece = data[start : start + _MAX_PIECE]
                await stream.send_all(len(piece).to_bytes(4, "big") + piece)
            if not data:
                await stream.send_all(bytes(4))
                return
    except trio.BrokenResourceError:
        return  # It has answered already, or died: the reader sees which.


async def _serve_one(
    stream: trio.SocketStream, upstreams: Upstreams, patience: float, meet: Meet | None
) -> None:
    value: Any = json_text.loads(await _read_line(stream))
    if "meet" in value:
        if meet is not None:
            await meet(stream, str(value["meet"]), str(value["owner"]))
        return
    upstream = upstreams.find(str(value["name"]))
    refusal: Refusal | None = GONE
    if upstream is not None:
        refusal = await feed_upstream(upstream, str(value["offset"]), _PassedOn(stream), patience)
    answer = None if refusal is None else attrs.asdict(refusal)
    await stream.send_all(json_text.dumps(answer) + b"\n")


class _PassedOn:
    """A POST as another worker passes it on."""

    method = "POST"

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def receive(self) -> bytes:
        return await self._exactly(int.from_bytes(await self._exactly(4), "big"))

    async def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = await self._stream.receive_some(count - len(data))
            if not piece:
                raise StreamLostError
            data += piece
        return bytes(data)


async def _read_line(stream: trio.SocketStream) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < _MAX_LINE:
        # One by one: what follows the line is not its own. They wait in the kernel already.
        data = await stream.receive_some(1)
        if not data:
            return b""
        line += data
    return bytes(line)
