"""What a worker gets from its parent: open descriptors, named on its command line.

Its standard input is a pipe that the parent holds open: at its end the parent is gone.
"""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

from commucat_server.listener import ShutdownSignal


@attrs.frozen(kw_only=True)
class Inheritance:
    """Descriptors of the lock of the data directory and of the listening sockets."""

    worker: int
    """From 1."""
    lock: int
    sockets: tuple[int, ...]
    relay: int
    """The local socket at which other workers pass on what is for this one."""
    datagrams: int
    """The UDP socket of the STUN responder, -1 if there is none."""
    folder: Path
    """Where the local sockets of all are."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that the worker's process must keep open."""
        datagrams = () if self.datagrams < 0 else (self.datagrams,)
        return (self.lock, self.relay, *self.sockets, *datagrams)

    def to_argument(self) -> str:
        """The value of the worker's hidden option."""
        sockets = ",".join(map(str, self.sockets))
        return f"{self.worker}:{self.lock}:{sockets}:{self.relay}:{self.datagrams}:{self.folder}"

    @classmethod
    def from_argument(cls, text: str) -> "Inheritance":
        """Raises :class:`ValueError`."""
        worker, lock, sockets, relay, datagrams, folder = text.split(":", 5)
        return cls(
            worker=int(worker),
            lock=int(lock),
            sockets=tuple(map(int, sockets.split(","))),
            relay=int(relay),
            datagrams=int(datagrams),
            folder=Path(folder),
        )

    def open_sockets(self) -> Sequence[socket.socket]:
        """The listening sockets; whoever takes them closes them."""
        return [socket.socket(fileno=descriptor) for descriptor in self.sockets]

    def open_datagrams(self) -> socket.socket | None:
        """The UDP socket; whoever takes it closes it."""
        return None if self.datagrams < 0 else socket.socket(fileno=self.datagrams)

    def open_relay(self) -> socket.socket:
        """The local socket; whoever takes it closes it."""
        return socket.socket(fileno=self.relay)


async def request_at_end_of_parent(shutdown: ShutdownSignal) -> None:
    """Ask for the end when the parent is gone, however it went."""
    while True:
        await trio.lowlevel.wait_readable(sys.stdin)
        if not os.read(sys.stdin.fileno(), 1024):
            shutdown.request()
            return
