"""Listening sockets that a service manager holds and hands to each server it starts (sd_listen_fds(3)).

The socket outlives the server: whoever connects while one ends and the next one starts waits in its queue
instead of being refused.
"""

import os
import socket
from collections.abc import MutableMapping
from typing import Final

from commucat_server.listener.errors import ListenerError

FIRST_DESCRIPTOR: Final = 3
_MOST: Final = 64
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class ActivationError(ListenerError):
    """What was handed over is no listening TCP socket."""


def activated_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets for this process; none if nobody handed it any. Whoever takes them closes them.

    The variables are removed: they are not for processes that this one starts.

    Raises:
        ActivationError: the text says what is wrong.
    """
    pid, count, _ = [environ.pop(name, "") for name in _VARIABLES]
    if pid != str(os.getpid()):
        return []  # they were for another process, which started this one
    if not (count.isascii() and count.isdigit() and 0 < int(count) <= _MOST):
        raise ActivationError(f"LISTEN_FDS is {count!r}, and must be 1 to {_MOST}; see the socket unit")
    return [_listening(number) for number in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))]


def _listening(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        found = socket.socket(fileno=descriptor)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as exc:
        raise ActivationError(f"descriptor {descriptor} of LISTEN_FDS is no socket: {exc.strerror}") from exc
    if (
        found.family not in (socket.AF_INET, socket.AF_INET6)
        or found.type != socket.SOCK_STREAM
        or not listens
    ):
        raise ActivationError(
            f"descriptor {descriptor} of LISTEN_FDS is no listening TCP socket; the socket unit needs "
            "ListenStream= with a port, and Accept=no"
        )
    return found
