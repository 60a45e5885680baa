"""DATA that is accounted for without the library against the same DATA through the library: no difference."""

import attrs
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame, SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from commucat_server.listener import ListenerSettings
from commucat_server.listener.frame_intake import FrameIntake
from commucat_server.listener.h2_frames import PREFACE, data_frame
from commucat_server.listener.h2_protocol import ServerProtocol

WINDOW = 65_535
SETTINGS = ListenerSettings(stream_window=WINDOW, connection_window=100_000)


@attrs.frozen
class Open:
    """The peer opens a stream, and may say how much it will send."""

    stream: int
    length: int | None


@attrs.frozen
class Data:
    """The peer sends DATA, on a stream that may not be open."""

    stream: int
    size: int
    flags: tuple[str, ...]
    times: int = 1


@attrs.frozen
class Reset:
    """The peer breaks a stream off."""

    stream: int


@attrs.frozen
class Taken:
    """The handler has taken some of what came."""

    stream: int
    size: int


@attrs.frozen
class Ends:
    """The server answers, and ends or resets its side."""

    stream: int
    reset: bool


streams = st.sampled_from([1, 3, 5])
steps = st.lists(
    st.one_of(
        st.builds(Open, streams, st.sampled_from([None, None, 10, 1_000])),
        st.builds(
            Data, streams, st.integers(1, 400), st.sampled_from([(), (), (), ("END_STREAM",), ("PADDED",)])
        ),
        st.builds(Data, streams, st.sampled_from([10_000, 16_384]), st.just(()), st.integers(1, 7)),
        st.builds(Reset, streams),
        st.builds(Taken, streams, st.integers(1, 70_000)),
        st.builds(Ends, streams, st.booleans()),
    ),
    max_size=30,
)


class Side:
    """A server that takes plain DATA in one of the two ways."""

    def __init__(self, *, past_the_library: bool) -> None:
        self.past_the_library = past_the_library
        self.past = 0
        self.protocol = ServerProtocol()
        self.protocol.open(SETTINGS)
        self.intake = FrameIntake(SETTINGS)
        self.said: list[object] = []

    def feed(self, data: bytes) -> None:
        for stream, piece in self.intake.feed(data, 0):
            if stream and self.past_the_library and self.protocol.take_data(stream, piece):
                self.past += 1
                self.said.append((stream, piece, len(piece)))
            else:
                frames = data_frame(stream, piece) if stream else piece
                for event in self.protocol.take_frames(frames):
                    self.note(event)

    def note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.said.append((event.stream_id, event.data, event.flow_controlled_length))
        elif isinstance(event, h2.events.StreamReset):
            self.said.append(("reset", event.stream_id, event.error_code, event.remote_reset))
        else:
            self.said.append((type(event).__name__, getattr(event, "stream_id", None)))

    def act(self, step: Taken | Ends) -> None:
        try:
            if isinstance(step, Taken):
                self.protocol.acknowledge_received_data(step.size, step.stream)
            elif step.reset:
                self.protocol.reset_stream(step.stream)
            else:
                self.protocol.send_headers(step.stream, [(b":status", b"200")], end_stream=True)
        except (h2.exceptions.ProtocolError, KeyError) as exc:
            self.said.append(type(exc))

    def state(self, stream: int) -> object:
        try:
            return self.protocol.remote_flow_control_window(stream)
        except h2.exceptions.ProtocolError as exc:
            return type(exc)


def frames_of(step: Open | Data | Reset, encoder: Encoder) -> list[Frame]:
    """The peer's step, as it looks on the wire."""
    match step:
        case Open(stream, length):
            fields = [(":method", "POST"), (":scheme", "https"), (":path", "/"), (":authority", "x")]
            if length is not None:
                fields.append(("content-length", str(length)))
            return [HeadersFrame(stream, encoder.encode(fields), flags=["END_HEADERS"])]
        case Data(stream, size, flags, times):
            return [DataFrame(stream, b"x" * size, flags=list(flags)) for _ in range(times)]
        case Reset(stream):
            return [RstStreamFrame(stream, 8)]


@settings(deadline=None)
@given(steps)
def test_both_ways_say_the_same(script: list[Open | Data | Reset | Taken | Ends]) -> None:
    sides = [Side(past_the_library=True), Side(past_the_library=False)]
    encoder = Encoder()
    for side in sides:
        side.feed(PREFACE + SettingsFrame(0).serialize())
    for step in script:
        if isinstance(step, Taken | Ends):
            for side in sides:
                side.act(step)
        else:
            data = b"".join(frame.serialize() for frame in frames_of(step, encoder))
            ended = []
            for side in sides:
                try:
                    side.feed(data)
                except h2.exceptions.ProtocolError as exc:
                    ended.append((type(exc), str(exc)))
            assert len(set(ended)) <= 1
            assert len(ended) in (0, 2)
            if ended:
                break
        assert sides[0].protocol.data_to_send() == sides[1].protocol.data_to_send()
        assert [sides[0].state(stream) for stream in (1, 3, 5)] == [
            sides[1].state(stream) for stream in (1, 3, 5)
        ]
    assert sides[0].said == sides[1].said
    assert sides[0].protocol.data_to_send() == sides[1].protocol.data_to_send()


@pytest.mark.parametrize("size", [1, 16_384])
def test_plain_data_of_an_open_stream_goes_past_the_library(size: int) -> None:
    side = Side(past_the_library=True)
    [head] = frames_of(Open(1, None), Encoder())
    side.feed(PREFACE + SettingsFrame(0).serialize() + head.serialize())
    side.feed(DataFrame(1, b"x" * size).serialize())
    assert side.past == 1
    assert side.protocol.remote_flow_control_window(1) == WINDOW - size
