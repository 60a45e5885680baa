"""From an address to HTTP/2: addresses, trust, and what each failure is called."""

import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import trio
import trio.testing
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, PingFrame
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from cli.cli_builders import ScriptedServer, in_memory, on_tcp
from commucat_cli.errors import (
    AddressError,
    CliError,
    ConnectionLostError,
    NotCommuCatError,
    ServerBusyError,
    TrustError,
    UnknownHostError,
    UnreachableError,
)
from commucat_cli.transport import H2Client, ServerAddress, Timeouts, Trust, open_h2, running
from commucat_cli.transport.goaway import GoawayFilter
from server.listener_builders import write_certificate


@pytest.mark.parametrize(
    ("text", "host", "port", "url"),
    [
        ("https://chat.example", "chat.example", 443, "https://chat.example:443"),
        ("https://chat.example:8443/any/path?x", "chat.example", 8443, "https://chat.example:8443"),
        ("127.0.0.1:8443", "127.0.0.1", 8443, "https://127.0.0.1:8443"),
        ("https://[::1]:8443", "::1", 8443, "https://[::1]:8443"),
        ("localhost", "localhost", 443, "https://localhost:443"),
    ],
)
def test_addresses(text: str, host: str, port: int, url: str) -> None:
    address = ServerAddress.parse(text)
    assert (address.host, address.port, address.url) == (host, port, url)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://chat.example",
        "ftp://x",
        "https://",
        "https://x:99999",
        "https://x:0",
        "https://x:y",
        "https://me@x",
        "https://[::1",
        "a b",
        "a\x1bb",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressError):
        ServerAddress.parse(text)


async def fetch(url: str, trust: Trust) -> int:
    async with open_h2(ServerAddress.parse(url), trust) as client:
        return (await client.get("/api/server-info")).status


async def test_a_self_signed_certificate_is_its_own_anchor(tmp_path: Path) -> None:
    async with on_tcp(ScriptedServer(), tmp_path) as (url, cert):
        assert await fetch(url, Trust(ca_file=cert)) == 200
        assert await fetch(url, Trust(insecure=True)) == 200


async def test_an_untrusted_certificate_is_refused(tmp_path: Path) -> None:
    async with on_tcp(ScriptedServer(), tmp_path) as (url, _):
        with pytest.raises(TrustError, match=r"not trusted by the authorities of this system.*--tls-ca"):
            await fetch(url, Trust())
        other = tmp_path / "other"
        other.mkdir()
        write_certificate.__globals__["certificate_pem"].cache_clear()
        ca_file, _ = write_certificate(other)
        with pytest.raises(TrustError, match=r"not trusted by .*cert\.pem; is it the right file"):
            await fetch(url, Trust(ca_file=ca_file))


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    async with on_tcp(ScriptedServer(), tmp_path) as (url, cert):
        with pytest.raises(TrustError, match=r"not for '127\.0\.0\.2'"):
            await _handshake_as("127.0.0.2", url, cert)


async def _handshake_as(name: str, url: str, cert: Path) -> None:
    """Connect where the server is, and expect a name that is not in its certificate."""
    from commucat_cli.transport.open import tls_failure

    real = ServerAddress.parse(url)
    context = ssl.create_default_context(cafile=str(cert))
    tcp = await trio.open_tcp_stream(real.host, real.port)
    tls = trio.SSLStream(tcp, context, server_hostname=name)
    try:
        await tls.do_handshake()
    except trio.BrokenResourceError as exc:
        raise tls_failure(exc.__cause__, ServerAddress(name, real.port), Trust(ca_file=cert)) from exc
    finally:
        await trio.aclose_forcefully(tls)


@pytest.mark.parametrize(("content", "words"), [(None, "cannot read"), (b"no pem", "no certificate")])
async def test_an_unusable_ca_file_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TrustError, match=words):
        await fetch("https://127.0.0.1:1", Trust(ca_file=file))


async def test_nobody_listens() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(UnreachableError, match="connection refused; is the server running"):
        await fetch(f"https://127.0.0.1:{port}", Trust(insecure=True))


async def test_there_is_no_such_host() -> None:
    with pytest.raises((UnknownHostError, UnreachableError), match=r"nowhere\.invalid"):
        await fetch("https://nowhere.invalid", Trust(insecure=True))


@asynccontextmanager
async def listening(handler: Any) -> AsyncIterator[str]:
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        try:
            yield f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the group
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def server_context(folder: Path, *alpn: str) -> ssl.SSLContext:
    cert, key = write_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


async def test_what_does_not_speak_tls() -> None:
    async def http(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listening(http) as url:
        with pytest.raises(NotCommuCatError, match="does not speak TLS"):
            await fetch(url, Trust(insecure=True))


async def test_what_hangs_up_during_tls() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()

    async with listening(hang_up) as url:
        with pytest.raises(ConnectionLostError, match="during the TLS handshake"):
            await fetch(url, Trust(insecure=True))


async def test_what_stays_silent_during_tls(autojump_clock: MockClock) -> None:
    async def silence(stream: trio.SocketStream) -> None:
        async with stream:
            await trio.sleep_forever()

    # The mock clock jumps while real sockets are still connecting: not before everything waits.
    autojump_clock.autojump_threshold = 0.05
    async with listening(silence) as url:
        with pytest.raises(UnreachableError, match="does not answer within 10 s"):
            await fetch(url, Trust(insecure=True))


async def test_tls_that_is_too_old_is_refused(tmp_path: Path) -> None:
    context = server_context(tmp_path, "h2")
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def handshake(raw: socket.socket) -> None:
        # Not through Trio, which does not send the alert that tells the client why.
        with raw, contextlib.suppress(ssl.SSLError):
            raw.setblocking(True)
            context.wrap_socket(raw, server_side=True)

    async def old(stream: trio.SocketStream) -> None:
        async with stream:
            await trio.to_thread.run_sync(handshake, socket.socket(fileno=os.dup(stream.socket.fileno())))

    async with listening(old) as url:
        with pytest.raises(NotCommuCatError, match=r"does not speak TLS 1\.3"):
            await fetch(url, Trust(insecure=True))


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
async def test_what_does_not_offer_h2(tmp_path: Path, alpn: tuple[str, ...]) -> None:
    context = server_context(tmp_path, *alpn)

    async def h1(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True)
        try:
            await tls.do_handshake()
            await tls.receive_some()
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(tls)

    async with listening(h1) as url:
        with pytest.raises(NotCommuCatError, match="does not offer HTTP/2"):
            await fetch(url, Trust(insecure=True))


# -- HTTP/2 in memory -------------------------------------------------------------------------------


@asynccontextmanager
async def raw_peer(timeouts: Timeouts = Timeouts()) -> AsyncIterator[tuple[H2Client, trio.abc.Stream]]:  # noqa: B008
    client_end, server_end = trio.testing.memory_stream_pair()
    async with running(H2Client(client_end, "x:1"), timeouts) as client:
        yield client, server_end


async def test_what_speaks_no_h2() -> None:
    async with raw_peer() as (client, peer):
        await peer.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3)
        await peer.aclose()
        with pytest.raises(NotCommuCatError):
            await client.get("/")


async def test_a_server_that_ends_before_it_says_anything_may_come_again() -> None:
    async with raw_peer() as (client, peer):
        await peer.aclose()
        with pytest.raises(ConnectionLostError, match="closed the connection at once"):
            await client.get("/")


async def test_rest_answers_that_never_end_are_cut_off() -> None:
    async with in_memory(ScriptedServer()) as client:
        with pytest.raises(NotCommuCatError, match="longer than"):
            await client.get("/endless")


class Peer:
    """The library's server side, driven by hand over a memory stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []

    async def until(self, kind: type[h2.events.Event]) -> Any:
        while not any(isinstance(event, kind) for event in self.events):
            await self.flush()
            self.events += self.h2.receive_data(await self.stream.receive_some())
        await self.flush()
        return next(event for event in self.events if isinstance(event, kind))

    async def flush(self, extra: bytes = b"") -> None:
        if data := self.h2.data_to_send() + extra:
            await self.stream.send_all(data)


async def test_streams_go_on_after_a_graceful_goaway_but_new_ones_are_refused() -> None:
    goaway = GoAwayFrame(0, last_stream_id=1).serialize()
    async with raw_peer() as (client, stream):
        peer = Peer(stream)
        request = await client.open_stream("POST", "/connect")
        await peer.until(h2.events.RequestReceived)
        peer.h2.send_headers(1, [(":status", "200")])
        peer.h2.send_data(1, b"before")
        await peer.flush(goaway)
        peer.h2.send_data(1, b" after", end_stream=True)
        await peer.flush()
        body = b""
        while data := await request.receive():
            body += data
        assert body == b"before after"
        request.send(b"more")
        event = await peer.until(h2.events.DataReceived)
        assert event.data == b"more"
        with pytest.raises(ServerBusyError, match="shutting down"):
            await client.get("/")


async def test_a_goaway_with_an_error_ends_everything() -> None:
    async with raw_peer() as (client, stream):
        peer = Peer(stream)
        request = await client.open_stream("POST", "/connect")
        await peer.until(h2.events.RequestReceived)
        peer.h2.close_connection(error_code=11)
        await peer.flush()
        with pytest.raises(CliError, match="closing the connection"):
            await request.response()


async def test_an_aborted_request_is_told() -> None:
    async with raw_peer() as (client, stream):
        peer = Peer(stream)
        request = await client.open_stream("POST", "/connect")
        await peer.until(h2.events.RequestReceived)
        peer.h2.reset_stream(1, error_code=7)
        await peer.flush()
        with pytest.raises(ConnectionLostError, match="code 7"):
            await request.response()
        request.send(b"into the void")


async def test_a_request_that_ends_without_an_answer_is_told() -> None:
    async with raw_peer() as (client, stream):
        request = await client.open_stream("POST", "/connect")
        await Peer(stream).until(h2.events.RequestReceived)
        await stream.aclose()
        with pytest.raises(ConnectionLostError):
            await request.response()


@pytest.mark.parametrize("begun", [False, True])
async def test_a_request_that_is_given_up_is_taken_back(begun: bool) -> None:
    """Otherwise its answer would fill the window of the connection, and nothing else would come any more."""
    async with raw_peer() as (client, stream):
        peer = Peer(stream)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.get, "/slow")
                await peer.until(h2.events.RequestReceived)
                if begun:
                    peer.h2.send_headers(1, [(":status", "200")])
                    peer.h2.send_data(1, bytes(10_000))
                    await peer.flush()
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()

            assert (await peer.until(h2.events.StreamReset)).stream_id == 1
            assert not client._streams


async def test_a_dead_network_is_noticed(autojump_clock: MockClock) -> None:
    async with raw_peer(Timeouts(quiet=60, sign_of_life=20)) as (client, stream):
        peer = Peer(stream)
        request = await client.open_stream("POST", "/connect")
        await peer.until(h2.events.RequestReceived)
        started = trio.current_time()
        with pytest.raises(ConnectionLostError, match="does not answer any more"):
            await request.response()
        assert trio.current_time() - started == pytest.approx(80)


async def test_a_quiet_server_that_answers_pings_is_kept(autojump_clock: MockClock) -> None:
    async with in_memory(ScriptedServer(silent=True)) as client:
        request = await client.open_stream("POST", "/connect")
        await request.response()
        with trio.move_on_after(3600) as waiting:
            await request.receive()
        assert waiting.cancelled_caught


def frames() -> st.SearchStrategy[Frame]:
    return st.one_of(
        st.builds(lambda data: DataFrame(1, data), st.binary(max_size=40)),
        st.just(PingFrame(0, b"12345678")),
        st.builds(
            lambda code, data: GoAwayFrame(0, last_stream_id=1, error_code=code, additional_data=data),
            st.sampled_from([0, 11]),
            st.binary(max_size=20),
        ),
    )


@given(st.lists(frames(), max_size=6), st.data())
def test_the_filter_takes_out_graceful_goaways_only_however_bytes_are_split(
    sent: list[Frame], data: st.DataObject
) -> None:
    stream = b"".join(frame.serialize() for frame in sent)
    graceful = [frame for frame in sent if isinstance(frame, GoAwayFrame) and frame.error_code == 0]
    expected = b"".join(frame.serialize() for frame in sent if frame not in graceful)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    intake = GoawayFilter()
    assert b"".join(map(intake.feed, pieces)) == expected
    assert intake.going_away == bool(graceful)
