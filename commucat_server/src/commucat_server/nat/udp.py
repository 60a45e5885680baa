"""The UDP socket of the STUN responder: reads, asks the responder, writes. Owns no rules of STUN."""

import errno
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Final

import structlog
import trio

from commucat_proto import stun
from commucat_server.config import BindAddress
from commucat_server.listener import ListenerError
from commucat_server.nat.responder import MAX_DATAGRAM, Responder

_log = structlog.get_logger("commucat.nat")
_PER_TURN: Final = 64
"""Datagrams between two turns of other tasks: somebody may send faster than they are answered."""


class StunBindError(ListenerError):
    """The address of the responder cannot be had; the text says which and why."""


def open_stun(bind: BindAddress) -> socket.socket:
    """A UDP socket of the address; ``[::]`` takes IPv4, too. Whoever takes it closes it.

    Raises:
        StunBindError: somebody else has it, or the machine has not.
    """
    family = socket.AF_INET6 if ipaddress.ip_address(bind.host).version == 6 else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Without SO_REUSEADDR: two servers on one UDP port would take each other's datagrams unnoticed.
        opened.bind((bind.host, bind.port))
    except OSError as exc:
        opened.close()
        reason = exc.strerror or str(exc)
        if exc.errno == errno.EADDRINUSE:
            reason = "another program (a TURN server?) has this UDP port"
        raise StunBindError(
            f"the STUN responder cannot use {bind}: {reason}; choose another address with ice.lite_bind"
        ) from exc
    return opened


@contextmanager
def stun_socket(bind: BindAddress | None, given: socket.socket | None) -> Iterator[socket.socket | None]:
    """The socket that was given, or one of the address, or none; closed at the end.

    Raises:
        StunBindError: as :func:`open_stun`.
    """
    opened = open_stun(bind) if given is None and bind is not None else given
    with nullcontext() if opened is None else opened:
        yield opened


async def serve_stun(opened: socket.socket, responder: Responder) -> None:
    """Answer datagrams until cancelled.

    The socket may be shared with other processes: each datagram is taken by one of them, which can answer it.
    """
    opened.setblocking(False)
    while True:
        await trio.lowlevel.wait_readable(opened)
        for _ in range(_PER_TURN):
            try:
                datagram, source = opened.recvfrom(MAX_DATAGRAM + 1)
            except BlockingIOError:
                break  # Another process was faster, or all are answered.
            except OSError as exc:
                # Of a datagram sent before (ICMP: nobody listens there), not of this socket.
                _log.debug("stun datagram lost", reason=str(exc))
                continue
            _respond(opened, responder, datagram, source)


def _respond(opened: socket.socket, responder: Responder, datagram: bytes, source: tuple[str, int]) -> None:
    if len(datagram) > MAX_DATAGRAM or source[1] == 0:
        return
    answer = responder.answer(datagram, stun.SocketAddress.of(source[0], source[1]))
    if answer is None:
        return
    try:
        opened.sendto(answer, source)
    except OSError as exc:
        # No room, or no way there: the client asks again.
        _log.debug("stun answer lost", reason=str(exc))
