"""Joining of DATA frames: never another meaning, whatever the frames and however the network splits them."""

import h2.config
import h2.connection
import h2.events
import pytest
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, PingFrame, WindowUpdateFrame
from hypothesis import given
from hypothesis import strategies as st

from commucat_server.listener import ListenerSettings
from commucat_server.listener.errors import PeerViolationError
from commucat_server.listener.frame_intake import JOINED_SIZE, FrameIntake
from commucat_server.listener.h2_frames import PREFACE, data_frame

frames = st.lists(
    st.one_of(
        st.builds(
            DataFrame,
            st.integers(1, 3),
            st.binary(min_size=1, max_size=50),
            flags=st.sampled_from([[], [], [], ["END_STREAM"], ["PADDED"]]),
        ),
        st.builds(PingFrame, st.just(0), opaque_data=st.just(b"12345678")),
        st.builds(WindowUpdateFrame, st.integers(0, 3), window_increment=st.integers(1, 100)),
    ),
    max_size=20,
)


def parse(data: bytes) -> list[Frame]:
    """Split bytes into frames."""
    parsed = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        data = data[9 + length :]
        parsed.append(frame)
    return parsed


def joined(intake: FrameIntake, data: bytes) -> bytes:
    """What the library would get of it."""
    return b"".join(data_frame(stream, piece) if stream else piece for stream, piece in intake.feed(data, 0))


def meaning(frames: list[Frame]) -> list[object]:
    """What frames say, with the borders of plain DATA frames removed, and streams apart."""
    said: list[object] = []
    plain: dict[int, bytes] = {}
    for frame in frames:
        if isinstance(frame, DataFrame) and not set(frame.flags):
            plain[frame.stream_id] = plain.get(frame.stream_id, b"") + frame.data
        else:
            said += [plain, frame.serialize()]
            plain = {}
    return [*said, plain]


@given(frames, st.lists(st.integers(1, 40)))
def test_meaning_is_kept_however_bytes_are_split(sent: list[Frame], cuts: list[int]) -> None:
    data = PREFACE + b"".join(frame.serialize() for frame in sent)
    intake = FrameIntake(ListenerSettings())
    out = b""
    for cut in cuts:
        out += joined(intake, data[:cut])
        data = data[cut:]
    out += joined(intake, data)
    assert out[:24] == PREFACE
    assert meaning(parse(out[24:])) == meaning(sent)


def test_small_frames_become_one() -> None:
    intake = FrameIntake(ListenerSettings())
    intake.feed(PREFACE, 0)
    [(stream, payload)] = intake.feed(DataFrame(1, b"x" * 300).serialize() * 500, 0)
    assert (stream, len(payload)) == (1, 150_000)


def test_joined_frames_have_a_limit() -> None:
    intake = FrameIntake(ListenerSettings())
    intake.feed(PREFACE, 0)
    pieces = intake.feed(DataFrame(1, b"x" * 65_536).serialize() * 40, 0)
    sizes = [len(payload) for _, payload in pieces]
    assert sum(sizes) == 65_536 * 40
    assert max(sizes) == JOINED_SIZE


def test_unfinished_frame_waits_for_its_rest() -> None:
    intake = FrameIntake(ListenerSettings())
    intake.feed(PREFACE, 0)
    whole = DataFrame(1, b"payload").serialize()
    assert intake.feed(whole[:10], 0) == []
    assert intake.feed(whole[10:], 0) == [(1, b"payload")]


def test_farewell_of_the_peer_is_kept_from_the_library() -> None:
    intake = FrameIntake(ListenerSettings())
    intake.feed(PREFACE, 0)
    ping = PingFrame(0, b"12345678").serialize()
    assert intake.feed(GoAwayFrame(0).serialize() + ping, 0) == [(0, ping)]
    assert intake.peer_going_away


def test_frame_larger_than_announced_is_refused_by_its_header() -> None:
    intake = FrameIntake(ListenerSettings(max_frame_size=20_000))
    intake.feed(PREFACE, 0)
    intake.feed(DataFrame(1, b"x" * 20_000).serialize()[:9], 0)
    intake = FrameIntake(ListenerSettings(max_frame_size=20_000))
    intake.feed(PREFACE, 0)
    with pytest.raises(PeerViolationError, match="20001 bytes"):
        intake.feed(DataFrame(1, b"x" * 20_001).serialize()[:9], 0)


@given(st.lists(st.integers(1, 3_000), max_size=30))
def test_library_counts_windows_alike(sizes: list[int]) -> None:
    def server() -> h2.connection.H2Connection:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        return connection

    client = h2.connection.H2Connection(h2.config.H2Configuration())
    client.initiate_connection()
    names = [(":method", "POST"), (":scheme", "https"), (":path", "/"), (":authority", "x")]
    client.send_headers(1, names)
    for size in sizes:
        if client.local_flow_control_window(1) >= size:
            client.send_data(1, b"x" * size)
    data = client.data_to_send()
    plain, fewer = server(), server()
    fewer.max_inbound_frame_size = JOINED_SIZE
    plain.receive_data(data)
    fewer.receive_data(joined(FrameIntake(ListenerSettings()), data))
    assert fewer.remote_flow_control_window(1) == plain.remote_flow_control_window(1)


@pytest.mark.parametrize("payload", [b"x", b"x" * 8, PingFrame(0, opaque_data=b"12345678").serialize() * 3])
def test_data_without_a_stream_is_passed_on_as_it_came(payload: bytes) -> None:
    # What it carries must not be taken for frames: nobody has counted them.
    intake = FrameIntake(ListenerSettings())
    intake.feed(PREFACE, 0)
    assert intake.feed(data_frame(0, payload), 0) == [(0, data_frame(0, payload))]
