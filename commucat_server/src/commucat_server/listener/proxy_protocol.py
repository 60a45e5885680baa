"""The PROXY protocol, versions 1 and 2: what a proxy says before TLS of whom it passes on.

https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt. Nothing is guessed: whoever must send a header
and sends something else is refused.
"""

import ipaddress
import re
import socket
import struct
from typing import Final

from commucat_server.listener.errors import ListenerError
from commucat_server.listener.tcp_stream import TcpStream

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_LINE: Final = 107
"""Bytes of a header of version 1 with its CRLF (section 2.1)."""
MAX_BODY: Final = 4096
"""Bytes behind the head of version 2: addresses take up to 216, the rest are extensions, passed over here."""
_LINE: Final = re.compile(
    rb"PROXY (?:(TCP4|TCP6) ([0-9a-fA-F.:]{2,39}) ([0-9a-fA-F.:]{2,39})"
    rb" (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})"
    rb"|UNKNOWN(?: [^\r\n]*)?)\r\n"
)
_INET, _INET6 = 0x11, 0x21  # section 2.2: TCP over IPv4, TCP over IPv6

Address = tuple[str, int]


class ProxyHeaderError(ListenerError):
    """What a proxy sent first is no header of the PROXY protocol."""


async def read_proxy_header(stream: TcpStream) -> Address | None:
    """Take the header from the stream, and not one byte more.

    Returns the client's address and port; None where the header names none, as for a proxy's own checks:
    the proxy itself is meant then.

    Raises:
        ProxyHeaderError: it is none, or too long.
        trio.BrokenResourceError: the connection is lost.
    """
    start = await _exactly(stream, len(_SIGNATURE))
    if start == _SIGNATURE:
        head = await _exactly(stream, 4)
        (length,) = struct.unpack(">H", head[2:])
        if length > MAX_BODY:
            raise ProxyHeaderError(f"a header of {length} bytes")
        return parse_binary(head[0], head[1], await _exactly(stream, length))
    if not start.startswith(b"PROXY "):
        raise ProxyHeaderError("no header")
    line = start
    while not line.endswith(b"\n"):
        if len(line) >= MAX_LINE:
            raise ProxyHeaderError("a line without end")
        line += await stream.receive_through(b"\n", MAX_LINE - len(line)) or _missing()
    return parse_line(line)


def parse_line(line: bytes) -> Address | None:
    """Version 1, a line with its CRLF. Raises :class:`ProxyHeaderError`."""
    found = _LINE.fullmatch(line)
    if found is None or len(line) > MAX_LINE:
        raise ProxyHeaderError("a malformed line")
    family, source, destination, port, other = found.groups()
    if family is None:
        return None
    version = 4 if family == b"TCP4" else 6
    _address(destination.decode(), version)
    if max(int(port), int(other)) > 65535:
        raise ProxyHeaderError("a port out of range")
    return _address(source.decode(), version), int(port)


def parse_binary(command: int, family: int, body: bytes) -> Address | None:
    """Version 2, without its signature and length. Raises :class:`ProxyHeaderError`."""
    if command == 0x20:  # LOCAL: the proxy's own connection
        return None
    if command != 0x21:
        raise ProxyHeaderError("an unknown version or command")
    if family == _INET:
        size, kind = 4, socket.AF_INET
    elif family == _INET6:
        size, kind = 16, socket.AF_INET6
    elif family >> 4 > 3 or family & 15 > 2:
        raise ProxyHeaderError("an unknown kind of address")
    else:
        return None  # A Unix socket, UDP or unspecified: nobody's IP address.
    if len(body) < 2 * size + 4:
        raise ProxyHeaderError("addresses cut short")
    (port,) = struct.unpack_from(">H", body, 2 * size)
    return _address(socket.inet_ntop(kind, body[:size]), 4 if size == 4 else 6), port


def _address(text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as exc:
        raise ProxyHeaderError("a malformed address") from exc
    if address.version != version:
        raise ProxyHeaderError("an address of the other family")
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return str(address)


async def _exactly(stream: TcpStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive_some(size - len(data)) or _missing()
    return data


def _missing() -> bytes:
    raise ProxyHeaderError("ended within the header")
