"""Breaking the listener: what one peer may do to itself must not end its connection, cost others, or leak."""

import contextlib
from pathlib import Path
from typing import Any

import h2.events
import h2.settings
import pytest
import structlog.testing
import trio
import trio.testing
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame, WindowUpdateFrame

from commucat_server.listener import ConnectStream, ListenerSettings, StreamLostError, tls_context
from commucat_server.listener.errors import PeerViolationError
from commucat_server.listener.frame_intake import FrameIntake
from commucat_server.listener.tls_stream import TlsStream
from server.listener_builders import client_tls, served, write_certificate


async def test_a_stream_reset_while_it_was_blocked_does_not_end_the_connection() -> None:
    """RST_STREAM of a stream without window, and new window for the connection, in one segment."""
    payload = b"x" * 100_000

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(payload)
        with contextlib.suppress(StreamLostError):
            await stream.flushed()
        # Still at work when the peer's next frames come.
        await trio.testing.wait_all_tasks_blocked()

    with structlog.testing.capture_logs() as logs:
        async with served(handler) as test:
            test.peer.reads_bodies = False
            first = await test.peer.request()
            await test.peer.until(lambda: len(test.peer.body(first)) == 65_535)
            test.peer.protocol.reset_stream(first)
            test.peer.protocol.increment_flow_control_window(100_000)
            test.peer.protocol.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100_000})
            second = await test.peer.request("/x", method="GET", end=True)
            with trio.fail_after(60):
                status, _, body = await test.peer.answer(second)
    assert (status, body) == (200, b"hello")
    assert logs == []


async def test_a_request_with_too_many_headers_that_is_reset_at_once_ends_nothing_else() -> None:
    with structlog.testing.capture_logs() as logs:
        async with served() as test:
            encoder = test.peer.protocol.encoder
            fields = [(":method", "GET"), (":path", "/x"), (":scheme", "https"), (":authority", "a")]
            block = encoder.encode(fields + [("x", "y")] * 101)
            head = HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"])
            await test.peer.transport.send_all(head.serialize() + RstStreamFrame(1, 8).serialize())
            test.peer.protocol.ping(b"answered")
            await test.peer.flush()
            with trio.fail_after(60):
                await test.peer.until(lambda: test.peer.count(h2.events.PingAckReceived))
    assert logs == []


async def test_a_peer_that_accepts_huge_frames_gets_writes_of_bounded_size() -> None:
    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(bytes(5_000_000))

    async with served(handler, begin=False) as test:
        codes = h2.settings.SettingCodes
        test.peer.protocol.local_settings.update({codes.MAX_FRAME_SIZE: 2**24 - 1})
        test.peer.protocol.local_settings.acknowledge()
        test.peer.protocol.max_inbound_frame_size = 2**24 - 1
        await test.peer.begin()
        test.peer.protocol.update_settings({codes.INITIAL_WINDOW_SIZE: 2**31 - 1})
        test.peer.protocol.increment_flow_control_window(2**30)
        stream_id = await test.peer.request()
        await test.peer.until(lambda: test.peer.ended(stream_id))
    sizes = [len(event.data) for event in test.peer.of(h2.events.DataReceived, stream_id)]
    assert sum(sizes) == 5_000_000
    assert max(sizes) == ListenerSettings().write_size


def intake() -> FrameIntake:
    started = FrameIntake(ListenerSettings())
    started.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0)
    return started


def test_small_frames_of_streams_in_turn_become_one_for_each() -> None:
    in_turn = b"".join(DataFrame(1 + 2 * (n % 4), bytes([n])).serialize() for n in range(200))
    out = intake().feed(in_turn, 0)
    assert out == [(1 + 2 * k, bytes(range(k, 200, 4))) for k in range(4)]


def test_small_frames_that_cannot_be_joined_are_a_flood() -> None:
    one = DataFrame(1, b"x", flags=["PADDED"]).serialize()
    with pytest.raises(PeerViolationError, match="control"):
        intake().feed(one * 1001, 0)


def test_frames_padded_for_privacy_are_none() -> None:
    one = DataFrame(1, b"x", pad_length=200, flags=["PADDED"]).serialize()
    assert intake().feed(one * 5_000, 0) == [(0, one * 5_000)]


def test_window_updates_that_nothing_caused_are_a_flood() -> None:
    update = WindowUpdateFrame(0, window_increment=1).serialize()
    with pytest.raises(PeerViolationError, match="control"):
        intake().feed(update * 1001, 0)


def test_window_updates_for_bytes_and_requests_are_none() -> None:
    update = WindowUpdateFrame(1, window_increment=1).serialize()
    assert intake().feed(update * 20_000, 0, 2_000) == [(0, update * 20_000)]
    request = HeadersFrame(1, b"\x82", flags=["END_HEADERS"]).serialize()
    assert intake().feed((request + update + update) * 5_000, 0)


async def test_a_reader_that_gives_credit_for_every_frame_is_served() -> None:
    """Twice as many WINDOW_UPDATEs as DATA frames, at once: what a simple client sends."""

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        for _ in range(1_500):
            await stream.send(b"x")
            await stream.flushed()

    async with served(handler) as test:
        test.peer.reads_bodies = False
        stream_id = await test.peer.request()
        taken = 0
        while not test.peer.ended(stream_id):
            await test.peer.read()
            bodies = test.peer.of(h2.events.DataReceived, stream_id)
            for event in bodies[taken:]:
                if event.flow_controlled_length and not test.peer.ended(stream_id):
                    test.peer.protocol.increment_flow_control_window(1)
                    test.peer.protocol.increment_flow_control_window(1, stream_id)
            taken = len(bodies)
            await test.peer.flush()
        assert len(test.peer.body(stream_id)) == 1_500


@pytest.mark.parametrize("too_large", [False, True])
async def test_application_that_gives_up_after_its_peer_is_no_error(too_large: bool) -> None:
    asked = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.testing.wait_all_tasks_blocked()
        while (message := await receive())["type"] == "http.request":
            asked.append(message)
        asked.append(message)

    with structlog.testing.capture_logs() as logs:
        async with served(app=app, settings=ListenerSettings(max_body=10)) as test:
            stream_id = await test.peer.request("/x")
            body = bytes(11 if too_large else 5)
            test.peer.protocol.send_data(stream_id, body)
            test.peer.protocol.reset_stream(stream_id)
            await test.peer.flush()
            await trio.testing.wait_all_tasks_blocked()
    assert asked[-1] == {"type": "http.disconnect"}
    assert logs == []


async def test_a_peer_that_only_renews_its_keys_is_dropped(tmp_path: Path) -> None:
    """Each KeyUpdate with a request makes OpenSSL queue an answer, which waits for our next write."""
    client_end, server_end = trio.testing.memory_stream_pair()
    client = trio.SSLStream(client_end, client_tls("h2"), server_hostname="localhost")
    server = TlsStream(server_end, tls_context(*write_certificate(tmp_path)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        await server.do_handshake()
    server._outgoing.write(bytes(27) * 152)  # Python has no call to send them; these are the answers.
    with pytest.raises(trio.BrokenResourceError, match="key updates"):
        await server.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")
    await trio.aclose_forcefully(client)
    await server.aclose()
