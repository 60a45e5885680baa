"""What stands between a server and its peer: it passes bytes on, and misbehaves when it is told to.

TLS goes through it unread.
"""

from collections.abc import Awaitable, Callable
from random import Random

import trio

_CHUNK = 65_536
_HELD = 0.1
"""Seconds at most by which a slow wire holds each piece up."""


class Wire:
    """The way to one server; :meth:`serve` listens as long as it runs."""

    def __init__(self, port: Callable[[], int], chance: Random) -> None:
        """``port`` gives that of the server, 0 while there is none."""
        self._port = port
        self._chance = chance
        self.port = 0
        """Where it listens itself."""
        self._streams: set[trio.SocketStream] = set()
        self._left: int | None = None
        """Bytes until everything is cut, if it is to be."""
        self._open = trio.Event()
        self._open.set()
        self._slow = False

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Never returns."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._connected, listeners)

    # -- faults -------------------------------------------------------------------------------------

    async def cut(self) -> None:
        """Cut all connections as soon as a few more bytes have passed: in the middle of something."""
        self._left = self._chance.choice((0, 100, 1000, 20_000))
        if not self._left:
            await self._cut_all()

    async def swallow(self) -> None:
        """Accept everything and pass nothing on for a while; what has come until then is passed on late."""
        self.shut()
        try:
            await trio.sleep(self._chance.uniform(0.3, 3.0))
        finally:
            self.open()

    def shut(self) -> None:
        """Pass nothing on until :meth:`open` is called."""
        if self._open.is_set():  # else somebody waits for this very event
            self._open = trio.Event()

    def open(self) -> None:
        """Pass everything on, also what has come meanwhile."""
        self._open.set()

    async def delay(self) -> None:
        """Hold each piece up for a while."""
        self._slow = True
        try:
            await trio.sleep(self._chance.uniform(0.5, 2.0))
        finally:
            self._slow = False

    @property
    def faults(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """By the name under which they are counted."""
        return {"wire cut": self.cut, "wire dead": self.swallow, "wire slow": self.delay}

    # -- passing on ---------------------------------------------------------------------------------

    async def _connected(self, near: trio.SocketStream) -> None:
        await self._open.wait()
        try:
            far = await trio.open_tcp_stream("127.0.0.1", self._port())
        except OSError:
            return  # the server is being killed; its peer sees the connection closed
        async with far:
            self._streams |= {near, far}
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass, near, far, nursery.cancel_scope)
                    nursery.start_soon(self._pass, far, near, nursery.cancel_scope)
            finally:
                self._streams -= {near, far}

    async def _pass(
        self, source: trio.SocketStream, target: trio.SocketStream, both: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(_CHUNK):
                await self._open.wait()
                if self._slow:
                    await trio.sleep(self._chance.uniform(0.0, _HELD))
                if self._left is not None:
                    self._left -= len(data)
                    if self._left <= 0:
                        await self._cut_all()
                        return
                await target.send_all(data)
            await target.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            both.cancel()  # one side is gone, or it was cut

    async def _cut_all(self) -> None:
        self._left = None
        streams, self._streams = self._streams, set()
        for stream in streams:
            await trio.aclose_forcefully(stream)
