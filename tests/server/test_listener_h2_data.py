"""DATA frames written by hand are those of the protocol library, and count against the same windows."""

from typing import Any

import h2.config
import h2.connection
import h2.exceptions
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_server.listener import ListenerSettings
from commucat_server.listener.h2_protocol import ServerProtocol

STREAMS = (1, 3, 5)
REQUEST = [(":method", "POST"), (":path", "/connect"), (":scheme", "https"), (":authority", "localhost")]

step = st.one_of(
    st.tuples(st.just("data"), st.sampled_from(STREAMS), st.binary(max_size=20_000)),
    st.tuples(st.just("end"), st.sampled_from(STREAMS), st.just(b"")),
    st.tuples(st.just("window"), st.sampled_from((0, *STREAMS)), st.integers(1, 30_000)),
    st.tuples(st.just("initial"), st.just(0), st.integers(0, 100_000)),
    st.tuples(st.just("frame size"), st.just(0), st.integers(16_384, 18_000)),
    st.tuples(st.just("peer ends"), st.sampled_from(STREAMS), st.none()),
    st.tuples(st.just("peer resets"), st.sampled_from(STREAMS), st.none()),
    st.tuples(st.just("reset"), st.sampled_from(STREAMS), st.none()),
)


class Pair:
    """A server's protocol and a peer that checks every frame of it."""

    def __init__(self) -> None:
        self.server = ServerProtocol()
        self.server.open(ListenerSettings())
        self.peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.peer.initiate_connection()
        for stream in STREAMS:
            self.peer.send_headers(stream, REQUEST)
        self.exchange(self.server.data_to_send())
        for stream in STREAMS:
            self.server.send_headers(stream, [(":status", "200")])

    def exchange(self, data: bytes) -> None:
        """The server's bytes to the peer, which raises if it may not have sent them; and back."""
        self.peer.receive_data(data)
        self.server.receive_data(self.peer.data_to_send())

    def of_peer(self, kind: str, stream: int, value: Any) -> None:
        settings = h2.settings.SettingCodes
        try:
            if kind == "window":
                self.peer.increment_flow_control_window(value, stream or None)
            elif kind == "initial":
                self.peer.update_settings({settings.INITIAL_WINDOW_SIZE: value})
            elif kind == "frame size":
                self.peer.update_settings({settings.MAX_FRAME_SIZE: value})
            elif kind == "peer ends":
                self.peer.end_stream(stream)
            elif kind == "peer resets":
                self.peer.reset_stream(stream)
        except h2.exceptions.ProtocolError:
            pass  # The stream has ended: the peer's library does not let it.

    @property
    def windows(self) -> list[int]:
        streams = self.server.streams
        return [
            self.server.outbound_flow_control_window,
            *(streams[each].outbound_flow_control_window for each in STREAMS if each in streams),
        ]


def by_library(protocol: ServerProtocol, stream: int, chunk: bytes) -> bytes | None:
    try:
        protocol.send_data(stream, chunk)
    except h2.exceptions.ProtocolError:
        return None
    return protocol.data_to_send()


@given(st.lists(step, max_size=40))
def test_any_sequence_of_frames_gives_what_the_library_gives(steps: list[tuple[str, int, Any]]) -> None:
    ours, theirs = Pair(), Pair()
    for kind, stream, value in steps:
        before = ours.server.data_to_send(), theirs.server.data_to_send()
        assert before[0] == before[1]
        written: bytes | None = b""
        if kind == "data":
            written = ours.server.frame_data(stream, value)
            assert written == by_library(theirs.server, stream, value)
            if written is None:
                assert by_library(ours.server, stream, value) is None
        for pair in (ours, theirs):
            try:
                if kind == "end":
                    pair.server.end_stream(stream)
                elif kind == "reset":
                    pair.server.reset_stream(stream)
            except h2.exceptions.ProtocolError:
                assert kind in ("end", "reset")
            pair.of_peer(kind, stream, value)
        assert ours.windows == theirs.windows
        for pair, earlier in ((ours, before[0]), (theirs, before[1])):
            pair.exchange(earlier + (written or b"") + pair.server.data_to_send())
        assert ours.windows == theirs.windows


@pytest.mark.parametrize("size", [0, 1, 255, 256, 16_384])
def test_the_head_has_length_type_and_stream(size: int) -> None:
    pair = Pair()
    pair.exchange(pair.server.data_to_send())
    frame = pair.server.frame_data(3, bytes(size))
    assert frame == size.to_bytes(3, "big") + bytes((0, 0)) + (3).to_bytes(4, "big") + bytes(size)


def test_neither_the_streams_nor_the_connections_window_is_overdrawn() -> None:
    pair = Pair()
    assert pair.windows[0] == 65_535  # RFC 9113, section 6.9.2
    for _ in range(3):
        assert pair.server.frame_data(1, bytes(16_384)) is not None
    assert pair.server.frame_data(1, bytes(16_384)) is None
    assert pair.server.frame_data(3, bytes(16_384)) is None, "the connection's window is for all"
    assert pair.server.frame_data(1, bytes(16_383)) is not None
    assert pair.windows == [0, 0, 65_535, 65_535]
    assert pair.server.frame_data(1, b"x") is None


def test_nothing_goes_out_on_streams_that_are_over() -> None:
    pair = Pair()
    pair.server.end_stream(1)
    pair.server.reset_stream(3)
    for stream in (1, 3, 7):
        assert pair.server.frame_data(stream, b"x") is None
    pair.server.close_connection()
    assert pair.server.frame_data(5, b"x") is None


def test_no_frame_is_larger_than_the_peer_takes() -> None:
    pair = Pair()
    pair.exchange(pair.server.data_to_send())
    assert pair.server.frame_data(1, bytes(16_385)) is None  # RFC 9113, section 6.5.2
    pair.of_peer("frame size", 0, 16_385)
    pair.exchange(b"")
    assert pair.server.frame_data(1, bytes(16_385)) is not None
