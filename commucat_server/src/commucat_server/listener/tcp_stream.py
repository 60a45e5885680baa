"""A TCP connection as one reader and one writer use it, and streams that can write without waiting.

Trio's own stream serves any number of tasks: every write passes the scheduler, also one that the kernel
takes at once, and every read is tried before it is waited for. Here a read waits first, as in a conversation
nothing is there yet, and ``send_now`` does not wait at all. ``benchmarks/BUDGET.md`` has what that saves.
"""

import abc
import errno
import socket
import sys
from typing import Final

import trio

from commucat_server.listener.outflow import Outflow

_RECEIVE_SIZE = 65_536
UNSENT_BYTES: Final = 32 * 1024
"""Bytes that the kernel keeps for a peer beyond what is under way to it. By itself it keeps up to 4 MB: media
would grow old there, and a message would come behind them. Streams with more to send lose nothing by it."""
# linux/tcp.h; Python names it from 3.12 on.
_TCP_NOTSENT_LOWAT: Final = 25


class PromptStream(trio.abc.Stream):
    """A stream that can also pass bytes on without a turn of the scheduler."""

    __slots__ = ()

    @abc.abstractmethod
    def send_now(self, data: bytes) -> bool:
        """Send what the kernel takes at once; ``False`` if some of it is left.

        What is left is kept, and goes out first at the next ``send_all``, which may be of ``b""``.

        Raises:
            trio.BrokenResourceError: the peer is gone.
        """

    def close_now(self) -> bool:
        """Do what ``aclose`` does, if nothing has to be waited for; ``False``: ``aclose`` is to be called."""
        return False


class TcpStream(PromptStream):
    """Owns a connected socket.

    Args:
        accepted: connected; it belongs to this object from now on.
        outflow: what has been sent as part of a wave of it is answered after the wave.
    """

    __slots__ = ("_left", "_outflow", "_wave", "socket")

    def __init__(self, accepted: socket.socket, outflow: Outflow | None = None) -> None:
        self._outflow = outflow or Outflow()
        # The last wave that this connection was part of.
        self._wave = 0
        self.socket = accepted
        accepted.setblocking(False)
        # Small records must not wait for the peer's delayed acknowledgement.
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.platform == "linux":
            accepted.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self._left = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has arrived; wait for at least one byte. ``b""`` is the peer's end.

        Raises:
            trio.BrokenResourceError: the connection is broken.
            trio.ClosedResourceError: closed by this side.
        """
        while True:
            self._check_open()
            await trio.lowlevel.wait_readable(self.socket)
            if self._wave == self._outflow.wave:
                await self._outflow.over(self._wave)
            self._outflow.gap()
            try:
                return self.socket.recv(max_bytes or _RECEIVE_SIZE)
            except BlockingIOError:
                continue
            except OSError as exc:
                raise _translated(exc) from exc

    async def receive_through(self, end: bytes, max_bytes: int) -> bytes:
        """Like :meth:`receive_some`, but nothing of what comes behind the byte ``end`` is taken."""
        while True:
            self._check_open()
            await trio.lowlevel.wait_readable(self.socket)
            try:
                seen = self.socket.recv(max_bytes, socket.MSG_PEEK)
                return self.socket.recv(seen.find(end) + 1 or len(seen)) if seen else seen
            except BlockingIOError:
                continue
            except OSError as exc:
                raise _translated(exc) from exc

    def send_now(self, data: bytes) -> bool:
        if self._left:
            self._left += data
            return False
        if self._outflow.sending:
            self._wave = self._outflow.wave
        try:
            taken = self.socket.send(data)
        except BlockingIOError:
            taken = 0
        except OSError as exc:
            raise _translated(exc) from exc
        if taken == len(data):
            return True
        self._left = data[taken:]
        return False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send what ``send_now`` left, and ``data``.

        Raises:
            trio.BrokenResourceError: the peer is gone.
            trio.ClosedResourceError: closed by this side.
        """
        await trio.lowlevel.checkpoint()
        rest, self._left = memoryview(self._left + bytes(data) if self._left else data), b""
        while rest:
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                self._check_open()
                await trio.lowlevel.wait_writable(self.socket)
            except OSError as exc:
                raise _translated(exc) from exc

    async def wait_send_all_might_not_block(self) -> None:
        """Return when a write would not have to wait."""
        await trio.lowlevel.wait_writable(self.socket)

    def _check_open(self) -> None:
        if self.socket.fileno() == -1:
            raise trio.ClosedResourceError("this connection was closed")

    def close(self) -> None:
        """Close the socket; whoever waits for it gets ``ClosedResourceError``. Again has no effect."""
        if self.socket.fileno() != -1:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    def close_now(self) -> bool:
        self.close()
        return True

    async def aclose(self) -> None:
        """``close``, and a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()


def _translated(error: OSError) -> Exception:
    # A descriptor of -1: closed by this side, perhaps by another task.
    if error.errno == errno.EBADF:
        return trio.ClosedResourceError("this connection was closed")
    return trio.BrokenResourceError(f"connection lost: {error}")
