"""What ends a connection, and what ends only a stream: limits, garbage, floods, deadlines, shutdown."""

import contextlib
import struct

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest
import structlog.testing
import trio
import trio.testing
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import strategies as st

from commucat_server.listener import ConnectStream, ListenerSettings, StreamLostError
from commucat_server.listener.h2_frames import PREFACE
from server.listener_builders import Served, echo, hello_app, served

SETTINGS = SettingsFrame(0).serialize()


async def send_raw(test: Served, data: bytes) -> None:
    await test.peer.transport.send_all(data)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\0" * 100,
        PREFACE + b"\0" * 9 + b"\xff" * 100,
        PREFACE + SETTINGS + b"\xff" * 100,
        PREFACE + SETTINGS + DataFrame(1, b"no such stream").serialize(),
        PREFACE + SETTINGS + HeadersFrame(1, b"\xff\xff\xff", flags=["END_HEADERS"]).serialize(),
        PREFACE + SETTINGS + HeadersFrame(2, b"\x83", flags=["END_HEADERS"]).serialize(),
        PREFACE + SETTINGS + ContinuationFrame(1, b"x").serialize(),
        PREFACE + SETTINGS + SettingsFrame(0, {5: 1}).serialize(),
        PREFACE + SETTINGS + SettingsFrame(0, {4: 2**31}).serialize(),
        PREFACE + SETTINGS + WindowUpdateFrame(0, window_increment=2**31 - 1).serialize() * 2,
        # CONNECT has no path.
        PREFACE + SETTINGS + HeadersFrame(1, b"\x02\x07CONNECT\x01\x01x", flags=["END_HEADERS"]).serialize(),
    ],
)
async def test_garbage_ends_the_connection(garbage: bytes) -> None:
    with structlog.testing.capture_logs() as logs:
        async with served(begin=False) as test:
            await send_raw(test, garbage)
            await test.done.wait()
    assert [entry["event"] for entry in logs] == ["peer violated http/2"]
    assert [entry["log_level"] for entry in logs] == ["info"]


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_served_or_refused(garbage: bytes, valid_start: bool) -> None:
    async def main() -> None:
        async with served(begin=False) as test:
            await send_raw(test, PREFACE + SETTINGS + garbage if valid_start else garbage)
            await trio.testing.wait_all_tasks_blocked()
        await test.done.wait()

    with structlog.testing.capture_logs() as logs:
        trio.run(main)
    assert {entry["log_level"] for entry in logs} <= {"info"}


FRAMES = st.lists(
    st.one_of(
        st.builds(
            DataFrame, st.integers(1, 5), st.binary(max_size=20), flags=st.sampled_from([[], ["END_STREAM"]])
        ),
        st.builds(
            HeadersFrame,
            st.integers(1, 7),
            # :method POST, :scheme https, :path / and an :authority, or something else.
            st.sampled_from(
                [b"\x83\x87\x84\x01\x01x", b"\x83\x87\x04\x08/connect\x01\x01x", b"\x82", b"\xff"]
            ),
            flags=st.sampled_from([["END_HEADERS"], ["END_HEADERS", "END_STREAM"], []]),
        ),
        st.builds(RstStreamFrame, st.integers(1, 5), error_code=st.integers(0, 14)),
        st.builds(WindowUpdateFrame, st.integers(0, 5), window_increment=st.integers(1, 2**31 - 1)),
        st.builds(
            lambda code, value: SettingsFrame(0, {code: value}), st.integers(0, 9), st.integers(0, 2**32 - 1)
        ),
        st.just(SettingsFrame(0, flags=["ACK"])),
        st.builds(PingFrame, st.just(0), opaque_data=st.binary(min_size=8, max_size=8)),
        st.just(PingFrame(0, b"\0\0\0\0\0\0\0\1", flags=["ACK"])),
        st.builds(GoAwayFrame, st.just(0), last_stream_id=st.integers(0, 9)),
        st.builds(ContinuationFrame, st.integers(1, 5), st.binary(max_size=20)),
        st.builds(PriorityFrame, st.integers(1, 5), depends_on=st.integers(0, 5)),
    ),
    max_size=12,
)


@given(FRAMES)
def test_any_frames_are_served_or_refused(frames: list[DataFrame]) -> None:
    async def answering(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(b"x" * 70_000)
        await stream.confirm()
        await stream.receive()

    async def main() -> None:
        async with served(answering, begin=False) as test:
            await send_raw(test, PREFACE + SETTINGS)
            with contextlib.suppress(trio.BrokenResourceError):
                for frame in frames:
                    await send_raw(test, frame.serialize())
                    await trio.testing.wait_all_tasks_blocked()
        await test.done.wait()

    with structlog.testing.capture_logs() as logs:
        trio.run(main)
    assert {entry["log_level"] for entry in logs} <= {"info"}


async def test_goaway_names_the_violation() -> None:
    async with served() as test:
        # The header alone is enough: 100,000 bytes of a frame of an unknown type.
        await send_raw(test, struct.pack(">BHBBL", 100_000 >> 16, 100_000 & 0xFFFF, 250, 0, 0))
        await test.peer.until_closed()
    assert test.peer.goaway().error_code == h2.errors.ErrorCodes.FRAME_SIZE_ERROR


@pytest.mark.parametrize(
    "frame",
    [
        PingFrame(0, b"12345678"),
        PingFrame(0, b"12345678", flags=["ACK"]),
        SettingsFrame(0),
        SettingsFrame(0, flags=["ACK"]),
        PriorityFrame(1, depends_on=0, stream_weight=1),
        DataFrame(1, b""),
        ExtensionFrame(250, 0, flag_byte=0, body=b""),
    ],
    ids=lambda frame: f"{type(frame).__name__}{frame.flags or ''}",
)
async def test_floods_of_control_frames_end_the_connection(frame: PingFrame) -> None:
    async with served(settings=ListenerSettings(max_control_frames=50)) as test:
        await test.peer.request()
        await test.peer.until(lambda: test.peer.count(h2.events.ResponseReceived))
        await send_raw(test, frame.serialize() * 60)
        await test.peer.until_closed()
    assert test.peer.goaway().error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


async def test_counters_start_anew_after_the_interval(autojump_clock: trio.testing.MockClock) -> None:
    settings = ListenerSettings(max_control_frames=50, flood_interval=5)
    async with served(settings=settings) as test:
        for _ in range(4):
            await send_raw(test, PingFrame(0, b"12345678").serialize() * 40)
            await trio.sleep(5)
        stream_id = await test.peer.request("/")
        assert (await test.peer.answer(stream_id))[0] == 200


async def test_rapid_resets_end_the_connection() -> None:
    async with served(settings=ListenerSettings(max_resets=20)) as test:
        for _ in range(21):
            stream_id = await test.peer.request()
            test.peer.protocol.reset_stream(stream_id)
            await test.peer.flush()
            await trio.testing.wait_all_tasks_blocked()
        await test.done.wait()


async def test_resets_the_peer_provokes_count_too() -> None:
    async with served(settings=ListenerSettings(max_resets=5)) as test:
        overflow = b""
        for _ in range(7):
            stream_id = await test.peer.request()
            overflow += WindowUpdateFrame(stream_id, window_increment=2**31 - 1).serialize()
        await send_raw(test, overflow)
        await test.peer.until_closed()
    assert test.peer.goaway().error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


async def test_handlers_that_linger_after_a_reset_count_as_streams() -> None:
    running = 0
    most = 0
    go = trio.Event()

    async def handler(stream: ConnectStream) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1
        raise StreamLostError("gone")

    async with served(handler, settings=ListenerSettings(max_streams=5)) as test:
        for _ in range(12):
            stream_id = await test.peer.request()
            await trio.testing.wait_all_tasks_blocked()
            test.peer.protocol.reset_stream(stream_id)
            await test.peer.flush()
        go.set()
    assert most == 5


async def test_more_streams_than_announced_end_the_connection() -> None:
    async with served(settings=ListenerSettings(max_streams=3)) as test:
        assert test.peer.protocol.remote_settings.max_concurrent_streams == 3
        for stream_id in (1, 3, 5, 7):
            block = b"\x83\x87\x04\x08/connect\x01\x01x"
            await send_raw(test, HeadersFrame(stream_id, block, flags=["END_HEADERS"]).serialize())
        await test.done.wait()


async def test_too_many_headers_are_answered_with_431() -> None:
    async with served(settings=ListenerSettings(max_header_count=10)) as test:
        stream_id = await test.peer.request(headers=[(f"x-{n}", "v") for n in range(20)])
        assert (await test.peer.answer(stream_id))[0] == 431
        other = await test.peer.request("/", end=True)
        assert (await test.peer.answer(other))[0] == 200


@pytest.mark.parametrize("size", [20_000, 60_000])
async def test_large_header_blocks_end_the_connection(size: int) -> None:
    async with served() as test:
        await test.peer.request(headers=[("x-large", "v" * size)])
        await test.done.wait()


async def test_header_bomb_ends_the_connection() -> None:
    async with served() as test:
        # One entry of 4000 bytes in the dynamic table, then named again and again by one byte each.
        first = b"\x83\x87\x84\x01\x01x" + b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4000
        block = first + b"\xbe" * 100
        await send_raw(test, HeadersFrame(1, block, flags=["END_HEADERS"]).serialize())
        await test.peer.until_closed()
    assert test.peer.goaway().error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("payload", [b"x", PingFrame(0, opaque_data=b"12345678").serialize() * 1_000])
async def test_data_without_a_stream_is_refused_and_not_read(payload: bytes) -> None:
    async with served() as test:
        await send_raw(
            test, struct.pack(">BHBBL", len(payload) >> 16, len(payload) & 0xFFFF, 0, 0, 0) + payload
        )
        await test.peer.until_closed()
    assert test.peer.goaway().error_code == h2.errors.ErrorCodes.PROTOCOL_ERROR
    assert not any(isinstance(event, h2.events.PingAckReceived) for event in test.peer.events)


async def test_header_block_without_end_is_cut() -> None:
    async with served() as test:
        await send_raw(test, HeadersFrame(1, b"x" * 1_000).serialize())
        await send_raw(test, ContinuationFrame(1, b"x" * 1_000).serialize() * 16)
        await test.peer.until_closed()
    assert test.peer.goaway().error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


async def test_made_up_settings_are_ignored() -> None:
    async with served() as test:
        pairs = b"".join(struct.pack(">HL", code, 1) for code in range(10, 10_000))
        await send_raw(test, struct.pack(">BHBBL", len(pairs) >> 16, len(pairs) & 0xFFFF, 4, 0, 0) + pairs)
        stream_id = await test.peer.request("/", end=True)
        assert (await test.peer.answer(stream_id))[0] == 200
        assert len(test.connection._protocol.library().remote_settings) < 10


async def test_compression_table_the_peer_offers_is_not_all_used() -> None:
    async with served() as test:
        test.peer.protocol.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 2**32 - 1})
        stream_id = await test.peer.request("/", end=True)
        assert (await test.peer.answer(stream_id))[0] == 200
        assert test.connection._protocol.library().encoder.header_table_size == 4096


async def test_smaller_window_of_the_peer_is_obeyed() -> None:
    async with served() as test:
        test.peer.protocol.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
        stream_id = await test.peer.request()
        await test.peer.send(stream_id, b"x" * 1_000, end=True)
        assert (await test.peer.answer(stream_id))[2] == b"x" * 1_000


async def test_window_that_turns_negative_is_obeyed() -> None:
    async with served() as test:
        test.peer.reads_bodies = False
        stream_id = await test.peer.request()
        await test.peer.send(stream_id, b"x" * 100_000, end=True)
        await test.peer.until(lambda: len(test.peer.body(stream_id)) == 65_535)
        test.peer.protocol.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 5})
        await test.peer.flush()
        await trio.testing.wait_all_tasks_blocked()
        test.peer.reads_bodies = True
        test.peer.protocol.increment_flow_control_window(200_000)
        test.peer.protocol.increment_flow_control_window(200_000, stream_id)
        await test.peer.flush()
        assert (await test.peer.answer(stream_id))[2] == b"x" * 100_000


async def test_larger_frames_are_used_if_the_peer_takes_them() -> None:
    async with served() as test:
        settings = h2.settings.SettingCodes
        test.peer.protocol.update_settings(
            {settings.MAX_FRAME_SIZE: 2**20, settings.INITIAL_WINDOW_SIZE: 2**20}
        )
        test.peer.protocol.increment_flow_control_window(2**20)
        await test.peer.flush()
        await test.peer.until(lambda: test.peer.count(h2.events.SettingsAcknowledged) == 2)
        stream_id = await test.peer.request()
        await test.peer.send(stream_id, b"x" * 60_000, end=True)
        assert len((await test.peer.answer(stream_id))[2]) == 60_000
        assert max(len(event.data) for event in test.peer.of(h2.events.DataReceived, stream_id)) > 16_384


async def test_silent_peer_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with served(begin=False, settings=ListenerSettings(handshake_timeout=3)) as test:
        await test.done.wait()
    assert trio.current_time() == 3


async def test_connection_without_streams_ends(autojump_clock: trio.testing.MockClock) -> None:
    async with served(settings=ListenerSettings(idle_timeout=20)) as test:
        stream_id = await test.peer.request("/", end=True)
        await test.peer.answer(stream_id)
        for _ in range(5):
            # Frames of the connection do not prolong it.
            await trio.sleep(3)
            await send_raw(test, PingFrame(0, b"12345678").serialize())
        await test.peer.until_closed()
    assert trio.current_time() == 20
    assert test.peer.goaway().error_code == h2.errors.ErrorCodes.NO_ERROR


async def test_connection_with_a_stream_lives(autojump_clock: trio.testing.MockClock) -> None:
    async with served(settings=ListenerSettings(idle_timeout=20)) as test:
        stream_id = await test.peer.request()
        await trio.sleep(10_000)
        await test.peer.send(stream_id, b"still here", end=True)
        assert (await test.peer.answer(stream_id))[2] == b"still here"


async def test_going_away_finishes_what_is_open() -> None:
    async with served() as test:
        stream_id = await test.peer.request()
        await test.peer.until(lambda: test.peer.count(h2.events.ResponseReceived))
        test.connection.go_away()
        test.connection.go_away()
        late = HeadersFrame(3, b"\x83\x87\x84\x01\x01x", flags=["END_HEADERS"]).serialize()
        await send_raw(test, late)
        await send_raw(test, DataFrame(stream_id, b"bye", flags=["END_STREAM"]).serialize())
        await test.done.wait()
        received = await drain(test)
    # Only then: a peer's library may drop what comes behind it.
    assert received.index(b"bye") < received.index(GoAwayFrame(0, last_stream_id=3).serialize())
    refusal = RstStreamFrame(3, error_code=h2.errors.ErrorCodes.REFUSED_STREAM).serialize()
    assert refusal in received


async def drain(test: Served) -> bytes:
    received = b""
    while data := await test.peer.transport.receive_some():
        received += data
    return received


async def test_unused_connection_goes_away_at_once() -> None:
    async with served() as test:
        test.connection.go_away()
        await test.peer.until_closed()
    assert test.peer.goaway().last_stream_id == 0


async def test_going_away_before_serving() -> None:
    async with served(begin=False) as test:
        test.connection.go_away()
        await test.done.wait()


async def test_peer_going_away_still_gets_its_answers() -> None:
    go = trio.Event()

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await go.wait()
        await stream.send(b"late answer")

    async with served(handler) as test:
        stream_id = await test.peer.request(end=True)
        await test.peer.until(lambda: test.peer.count(h2.events.ResponseReceived))
        await send_raw(test, GoAwayFrame(0).serialize())
        await trio.testing.wait_all_tasks_blocked()
        go.set()
        assert (await test.peer.answer(stream_id))[2] == b"late answer"
        await test.done.wait()


async def test_trouble_of_one_connection_is_its_own() -> None:
    async with served(echo, hello_app) as good, served(echo, hello_app) as bad:
        stream_id = await good.peer.request()
        await send_raw(bad, b"\xff" * 1_000)
        await bad.done.wait()
        await good.peer.send(stream_id, b"alive", end=True)
        assert (await good.peer.answer(stream_id))[2] == b"alive"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_connections", 0),
        ("idle_timeout", 0),
        ("stream_window", 1),
        ("max_frame_size", 100),
        ("max_body", -1),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        ListenerSettings(**{name: value})  # type: ignore[arg-type]
