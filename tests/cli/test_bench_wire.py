"""The benchmark's HTTP/2 against the library's: both must mean the same."""

from contextlib import suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_cli.bench.http2_wire import PREFACE, STREAM, Http2Wire, WireError
from proto.frame_builders import split

cuts = st.lists(st.integers(0, 100_000), max_size=6)


class Peer:
    """The server's side, by the h2 library."""

    def __init__(self, **settings: int) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.h2.initiate_connection()
        codes = {getattr(h2.settings.SettingCodes, name): value for name, value in settings.items()}
        self.h2.update_settings(codes)
        self.body = b""
        self.events: list[h2.events.Event] = []

    def take(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived):
                self.body += event.data or b""
                self.h2.acknowledge_received_data(event.flow_controlled_length or 0, STREAM)

    def answer(self, status: str = "200", **more: Any) -> None:
        self.h2.send_headers(STREAM, [(":status", status), ("x-anything", "at all")], **more)

    def saw(self, kind: type[h2.events.Event]) -> bool:
        return any(isinstance(event, kind) for event in self.events)


def exchange(wire: Http2Wire, peer: Peer) -> bytes:
    """Carry bytes to and fro until both are silent; returns the answer's body."""
    body = b""
    while True:
        to_peer, to_wire = wire.take_outgoing(), peer.h2.data_to_send()
        if not to_peer and not to_wire:
            return body
        if to_peer:
            peer.take(to_peer)
        if to_wire:
            body += wire.receive(to_wire)


def opened(**settings: int) -> tuple[Http2Wire, Peer]:
    wire, peer = Http2Wire("/connect", "localhost:8443"), Peer(**settings)
    exchange(wire, peer)
    peer.answer()
    exchange(wire, peer)
    assert wire.accepted
    return wire, peer


def test_the_request_is_what_the_library_reads() -> None:
    wire, peer = Http2Wire("/connect", "localhost:8443"), Peer()
    data = wire.take_outgoing()
    assert data.startswith(PREFACE)
    peer.take(data)
    [request] = [event for event in peer.events if isinstance(event, h2.events.RequestReceived)]
    assert dict(request.headers or []) == {
        b":method": b"POST",
        b":scheme": b"https",
        b":authority": b"localhost:8443",
        b":path": b"/connect",
        b"user-agent": b"commucat-cli",
        b"content-type": b"application/octet-stream",
    }


@given(
    st.binary(max_size=200_000), st.sampled_from([16_384, 65_536]), st.sampled_from([0, 1, 65_535, 300_000])
)
def test_what_is_sent_arrives_within_the_limits_of_the_peer(data: bytes, frame: int, window: int) -> None:
    # The library raises when a limit is broken.
    wire, peer = opened(MAX_FRAME_SIZE=frame, INITIAL_WINDOW_SIZE=window)
    wire.send(data)
    if window == 0 and data:
        exchange(wire, peer)
        assert peer.body == b""
        peer.h2.increment_flow_control_window(len(data), STREAM)
    wire.end()
    exchange(wire, peer)
    assert peer.body == data
    assert peer.saw(h2.events.StreamEnded)


@given(st.lists(st.binary(min_size=1, max_size=16_000), max_size=8), cuts)
def test_what_the_peer_sends_arrives_however_the_network_splits_it(
    parts: list[bytes], places: list[int]
) -> None:
    wire, peer = opened()
    for number, part in enumerate(parts):
        peer.h2.send_data(STREAM, part, pad_length=3 if number % 2 else None)
    peer.h2.ping(b"whatever")
    peer.h2.end_stream(STREAM)
    pieces = split(peer.h2.data_to_send(), places)
    assert b"".join(wire.receive(piece) for piece in pieces) == b"".join(parts)
    assert wire.ended
    peer.take(wire.take_outgoing())
    assert peer.saw(h2.events.PingAckReceived)


def test_a_peer_may_send_more_than_the_window_in_all() -> None:
    wire, peer = opened()
    sent = received = 0
    while sent < 10 * 1024 * 1024:
        room = min(peer.h2.local_flow_control_window(STREAM), 16_000)
        assert room > 0, "the window was never opened again"
        peer.h2.send_data(STREAM, bytes(room))
        sent += room
        received += len(exchange(wire, peer))
    assert received == sent


@pytest.mark.parametrize("status", ["404", "503", "204"])
def test_another_status_is_a_refusal(status: str) -> None:
    wire, peer = Http2Wire("/connect", "localhost:8443"), Peer()
    peer.take(wire.take_outgoing())
    peer.answer(status)
    with pytest.raises(WireError, match="refuses"):
        exchange(wire, peer)


def test_a_reset_and_a_farewell_end_it() -> None:
    wire, peer = opened()
    peer.h2.reset_stream(STREAM, 8)
    with pytest.raises(WireError, match="code 8"):
        exchange(wire, peer)
    wire, peer = opened()
    peer.h2.close_connection()
    with pytest.raises(WireError, match="closing"):
        exchange(wire, peer)


@given(st.binary(max_size=400), cuts)
def test_garbage_gives_bytes_or_a_wire_error(garbage: bytes, places: list[int]) -> None:
    wire = Http2Wire("/connect", "localhost:8443")
    with suppress(WireError):
        for piece in split(garbage, places):
            wire.receive(piece)
        wire.take_outgoing()
