"""Heads of ours, the same bytes on every connection, and the opening: as the library makes them."""

import h2.config
import h2.connection
import h2.events
import hpack
import pytest
from h2.settings import SettingCodes
from hyperframe.frame import Frame, SettingsFrame

from commucat_server.listener.h2_parts import HeadEncoder
from commucat_server.listener.h2_protocol import ServerProtocol
from commucat_server.listener.settings import ListenerSettings

HEAD = [(b":status", b"200"), (b"content-type", b"application/octet-stream"), (b"x-name", b"value")]


def request(path: bytes, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    head = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", path), (b":authority", b"example.org")]
    return [*head, (b"user-agent", b"test"), *more]


def decoded(decoder: hpack.Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    return [tuple(field) for field in decoder.decode(block, raw=True)]


def test_heads_are_read_as_they_were_written_and_change_no_table() -> None:
    encoder, decoder = HeadEncoder(), hpack.Decoder()
    for _ in range(3):
        assert decoded(decoder, encoder.encode(HEAD)) == HEAD
    assert not decoder.header_table.dynamic_entries
    assert not encoder.header_table.dynamic_entries
    assert HeadEncoder().encode(iter(HEAD)) == encoder.encode(HEAD)


@pytest.mark.parametrize("size", [0, 100])
def test_a_table_that_the_peer_has_changed_is_told_of(size: int) -> None:
    encoder, decoder = HeadEncoder(), hpack.Decoder()
    encoder.header_table_size = size
    decoder.max_allowed_table_size = size
    # A decoder refuses a block without the change.
    for _ in range(3):
        assert decoded(decoder, encoder.encode(HEAD)) == HEAD


def test_the_opening_has_one_settings_frame_in_force_when_it_is_acknowledged() -> None:
    settings = ListenerSettings(max_streams=3, stream_window=100_000, max_frame_size=20_000)
    ours = ServerProtocol()
    ours.open(settings)
    data = ours.data_to_send()
    frames = []
    rest = memoryview(data)
    while rest:
        frame, size = Frame.parse_frame_header(rest[:9])
        frame.parse_body(rest[9 : 9 + size])
        frames.append(frame)
        rest = rest[9 + size :]
    assert [type(frame).__name__ for frame in frames] == ["SettingsFrame", "WindowUpdateFrame"]
    assert isinstance(frames[0], SettingsFrame)
    assert frames[0].settings[SettingCodes.INITIAL_WINDOW_SIZE] == 100_000
    assert frames[0].settings[SettingCodes.MAX_FRAME_SIZE] == 20_000
    assert frames[0].settings[SettingCodes.MAX_CONCURRENT_STREAMS] == 3
    assert frames[0].settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] == 1
    assert ours.local_settings.initial_window_size == 65_535

    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    peer.initiate_connection()
    peer.send_headers(1, [(name.decode(), value.decode()) for name, value in request(b"/connect")])
    opening = peer.data_to_send()
    events = ours.receive_data(opening)
    assert any(isinstance(event, h2.events.RequestReceived) for event in events)
    assert ours.remote_flow_control_window(1) == 65_535
    peer.receive_data(data)
    assert peer.local_flow_control_window(1) == 100_000
    ours.receive_data(peer.data_to_send())
    assert ours.remote_flow_control_window(1) == 100_000
    assert ours.local_settings.initial_window_size == 100_000
