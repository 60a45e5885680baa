"""The PROXY protocol: who is passed on, and what is no header."""

import socket
import struct
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from commucat_server.listener.proxy_protocol import (
    MAX_BODY,
    ProxyHeaderError,
    parse_binary,
    parse_line,
    read_proxy_header,
)
from commucat_server.listener.tcp_stream import TcpStream

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
IPV4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + struct.pack(">HH", 40000, 443)
IPV6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + struct.pack(">HH", 40000, 443)
)


def binary(family: int, body: bytes, command: int = 0x21) -> bytes:
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(body)) + body


@pytest.fixture
async def pair() -> AsyncIterator[tuple[socket.socket, TcpStream]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
    stream = TcpStream(accepted)
    yield peer, stream
    peer.close()
    stream.close()


@pytest.mark.parametrize(
    ("line", "client"),
    [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n", ("192.0.2.7", 40000)),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 443\r\n", ("2001:db8::7", 40000)),
        (b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 0 65535\r\n", ("192.0.2.7", 0)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    ],
)
def test_a_line_names_the_client(line: bytes, client: tuple[str, int] | None) -> None:
    assert parse_line(line) == client


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 40000\r\n",
        b"PROXY TCP4  192.0.2.7 198.51.100.1 40000 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443 \r\n",
        b"PROXY TCP4 192.0.2.07 198.51.100.1 40000 443\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.1 40000 443\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 40000 443\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.1 40000 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 65536\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 040 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.1 40000 443\r\n",
        b"proxy TCP4 192.0.2.7 198.51.100.1 40000 443\r\n",
        b"PROXY TCP4 192.0.2.7%lo 198.51.100.1 40000 443\r\n",
        b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",
        b"PROXY UNKNOWN a\rb\r\n",
        b"PROXYUNKNOWN\r\n",
    ],
)
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse_line(line)


@pytest.mark.parametrize(
    ("command", "family", "body", "client"),
    [
        (0x21, 0x11, IPV4, ("192.0.2.7", 40000)),
        (0x21, 0x21, IPV6, ("2001:db8::7", 40000)),
        (0x21, 0x11, IPV4 + b"\x03\0\x04abcd", ("192.0.2.7", 40000)),
        (0x20, 0x00, b"", None),
        (0x20, 0x11, IPV4, None),
        (0x21, 0x00, b"", None),
        (0x21, 0x12, IPV4, None),
        (0x21, 0x31, bytes(216), None),
    ],
)
def test_a_binary_header_names_the_client(
    command: int, family: int, body: bytes, client: tuple[str, int] | None
) -> None:
    assert parse_binary(command, family, body) == client


@pytest.mark.parametrize(
    ("command", "family", "body"),
    [
        (0x11, 0x11, IPV4),
        (0x22, 0x11, IPV4),
        (0x01, 0x11, IPV4),
        (0x21, 0x11, IPV4[:-1]),
        (0x21, 0x21, IPV4),
        (0x21, 0x41, IPV6),
        (0x21, 0x13, IPV4),
    ],
)
def test_other_binary_headers_are_refused(command: int, family: int, body: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse_binary(command, family, body)


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=64))
def test_garbage_is_refused_or_names_an_address(command: int, family: int, body: bytes) -> None:
    try:
        client = parse_binary(command, family, body)
    except ProxyHeaderError:
        return
    assert client is None or (client[0] and 0 <= client[1] <= 65535)


@given(st.binary(max_size=120))
def test_garbage_is_no_line(garbage: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse_line(b"PROXY TCP4 " + garbage.replace(b"\r", b""))


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n", ("192.0.2.7", 40000)),
        (binary(0x21, IPV6), ("2001:db8::7", 40000)),
        (binary(0x11, IPV4 + bytes(500)), ("192.0.2.7", 40000)),
        (binary(0, b"", command=0x20), None),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
async def test_nothing_behind_the_header_is_taken(
    pair: tuple[socket.socket, TcpStream], header: bytes, client: tuple[str, int] | None, bytewise: bool
) -> None:
    peer, stream = pair
    found: list[tuple[str, int] | None] = []

    async def read() -> None:
        found.append(await read_proxy_header(stream))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        if bytewise:
            for position in range(len(header)):
                peer.send(header[position : position + 1])
                await trio.testing.wait_all_tasks_blocked()
            peer.send(b"\x16TLS")
        else:
            peer.send(header + b"\x16TLS")

    assert found == [client]
    assert await stream.receive_some() == b"\x16TLS"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"PROXY ",
        b"PROXY TCP4 192.0.2.7 198",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(100),
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY " + b"x" * 300,
        SIGNATURE,
        SIGNATURE + b"\x21\x11",
        SIGNATURE + b"\x21\x11\0\x0c" + IPV4[:5],
        SIGNATURE + b"\x21\x11" + struct.pack(">H", MAX_BODY + 1) + bytes(MAX_BODY + 1),
        SIGNATURE[:-1] + b"x" + b"\x21\x11\0\x0c" + IPV4,
    ],
)
async def test_whatever_else_comes_first_is_refused(
    pair: tuple[socket.socket, TcpStream], sent: bytes
) -> None:
    peer, stream = pair
    peer.sendall(sent)
    peer.shutdown(socket.SHUT_WR)

    with pytest.raises(ProxyHeaderError):
        await read_proxy_header(stream)
