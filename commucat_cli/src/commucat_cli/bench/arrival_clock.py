"""When bytes came to a socket, as the kernel noted it: before the process that reads them was woken.

A load client on the server's machine is woken late by the very load it makes, and one with hundreds of
sessions reads them one after the other. Both are the client's time, not the server's.
"""

import socket
import struct
import sys
import time
from contextlib import suppress
from typing import Final

_SO_TIMESTAMPNS: Final = 35
"""Option and control message, of Linux (asm-generic/socket.h). Python has no name for it."""
_TIMESPEC: Final = struct.Struct("@ll")
_ROOM: Final = socket.CMSG_SPACE(_TIMESPEC.size)
_TRIES: Final = 5
_SURE: Final = 20_000
"""Nanoseconds between two looks at one clock, within which the other is known well enough."""


def note_arrivals(sock: socket.socket) -> None:
    """Have the kernel note when bytes come; nothing happens where it cannot."""
    if sys.platform == "linux":
        # Not every kernel that calls itself so knows it.
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def receive(sock: socket.socket, length: int) -> tuple[bytes, float]:
    """As ``sock.recv``, and when the last of these bytes came, by the monotonic clock (seconds).

    That is the time of the call's end where the kernel notes nothing.

    Raises:
        OSError: as ``sock.recv``.
    """
    data, control, _, _ = sock.recvmsg(length, _ROOM)
    for level, kind, value in control:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(value) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(value)
            return data, monotonic_time(seconds * 1_000_000_000 + nanoseconds)
    return data, time.monotonic()


def monotonic_time(moment: int) -> float:
    """A moment of the wall clock (nanoseconds) by the monotonic one (seconds); never after now."""
    for _ in range(_TRIES):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        # Otherwise the process was interrupted between the two.
        if after - before <= _SURE:
            break
    return (after - max(wall - moment, 0)) / 1e9
