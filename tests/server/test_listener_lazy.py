"""HTTP/2 without the protocol library against the library: no peer can tell the two apart."""

from collections.abc import Callable
from typing import Any

import attrs
import h2.events
import h2.exceptions
import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commucat_server.listener import ListenerSettings
from commucat_server.listener.frame_intake import FrameIntake
from commucat_server.listener.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    data_frame,
    frame,
)
from commucat_server.listener.h2_lazy import LazyProtocol
from commucat_server.listener.h2_protocol import ServerProtocol

LIMITS = ListenerSettings(stream_window=70_000, connection_window=100_000, max_header_size=4_000)
HEAD = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/connect"), (b":authority", b"x")]
OTHER = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/healthz"), (b":authority", b"x")]
BROKEN = [(b":method", b"POST"), (b":path", b"/connect"), (b"x-no-scheme", b"1")]
HEADS = {
    "connect": HEAD,
    "named": [*HEAD, (b"user-agent", b"test")],
    "large": [*HEAD, *[(b"x-large", b"v" * 200)] * 8],
    "counted": [*HEAD, (b"content-length", b"10")],
    "secret": [*HEAD, (b"authorization", b"Bearer of a secret")],
    "other": OTHER,
    "broken": BROKEN,
}
ANSWERS = {
    200: [(b":status", b"200"), (b"content-type", b"application/octet-stream")],
    204: [(b":status", b"204")],
    103: [(b":status", b"103"), (b"link", b"</x>")],
}


def pairs(values: dict[int, int]) -> bytes:
    return b"".join(code.to_bytes(2, "big") + value.to_bytes(4, "big") for code, value in values.items())


@attrs.frozen
class Peer:
    """A frame of the peer, or several in one read."""

    kind: str
    stream: int = 0
    value: Any = None

    def frames(self, encoder: hpack.Encoder) -> bytes:
        stream, value = self.stream, self.value
        match self.kind:
            case "head":
                name, flags = value
                return frame(HEADERS, flags, stream, encoder.encode(HEADS[name]))
            case "data":
                size, flags = value
                return frame(DATA, flags, stream, b"x" * size)
            case "much":
                return frame(DATA, 0, stream, b"x" * 16_384) * value
            case "update":
                return frame(WINDOW_UPDATE, 0, stream, value.to_bytes(4, "big"))
            case "settings":
                return frame(SETTINGS, 0, 0, pairs(value))
            case "acknowledge":
                return frame(SETTINGS, ACK, stream)
            case "ping":
                return frame(PING, value, stream, b"12345678")
            case "reset":
                return frame(RST_STREAM, 0, stream, bytes(4))
            case "unknown":
                return frame(77, value, stream, b"what")
            case "short":
                return frame(value, 0, stream, b"1")
        raise AssertionError(self.kind)


@attrs.frozen
class Ours:
    """What the server does."""

    kind: str
    stream: int = 1
    value: Any = None

    def do(self, protocol: LazyProtocol | ServerProtocol) -> object:
        stream, value = self.stream, self.value
        match self.kind:
            case "answer":
                status, end = value
                return protocol.send_headers(stream, list(ANSWERS[status]), end_stream=end)
            case "send":
                size, end = value
                return protocol.send_data(stream, b"y" * size, end_stream=end)
            case "pass on":
                return protocol.frame_data(stream, b"y" * value)
            case "taken":
                return protocol.acknowledge_received_data(value, stream)
            case "ping":
                return protocol.ping(b"abcdefgh")
            case "reset":
                return protocol.reset_stream(stream, 8)
            case "close":
                return protocol.close_connection(0)
            case "window":
                return protocol.local_flow_control_window(stream)
            case "largest frame":
                return protocol.max_outbound_frame_size
        raise AssertionError(self.kind)


stream = st.sampled_from([1, 1, 1, 1, 3, 2, 0])
size = st.one_of(st.integers(0, 300), st.sampled_from([16_384, 16_385, 20_001]))
increment = st.one_of(
    st.integers(0, 100_000), st.sampled_from([2**31 - 1, 2**31 - 65_536, 2**31 - 65_535, 2**31, 2**32 - 1])
)
setting = st.sampled_from(
    [
        {},
        {},
        {4: 100},
        {4: 10_000_000},
        {3: 100},
        {5: 20_000},
        {1: 100},
        {1: 65_536},
        {1: 4_096, 4: 5},
        {2: 2},
        {99: 1},
    ]
)
flags_of_heads = st.sampled_from([END_HEADERS, END_HEADERS, END_HEADERS | END_STREAM])

usual = st.one_of(
    st.builds(Peer, st.just("acknowledge"), st.just(0)),
    st.builds(Peer, st.just("data"), st.just(1), st.tuples(size, st.just(0))),
    st.builds(Peer, st.just("data"), st.just(1), st.tuples(st.integers(0, 300), st.just(END_STREAM))),
    st.builds(Peer, st.just("much"), st.just(1), st.integers(1, 4)),
    st.builds(Peer, st.just("update"), st.sampled_from([0, 1]), increment),
    st.builds(Peer, st.just("ping"), st.just(0), st.sampled_from([0, ACK])),
    st.builds(Ours, st.just("answer"), st.just(1), st.tuples(st.just(200), st.just(False))),
    st.builds(Ours, st.just("answer"), st.just(1), st.tuples(st.just(204), st.just(True))),
    st.builds(Ours, st.just("send"), st.just(1), st.tuples(size, st.just(False))),
    st.builds(Ours, st.just("send"), st.just(1), st.tuples(st.integers(0, 300), st.just(True))),
    st.builds(Ours, st.just("pass on"), st.just(1), size),
    st.builds(Ours, st.just("taken"), st.just(1), st.integers(0, 70_000)),
    st.builds(Ours, st.just("ping")),
)
unusual = st.one_of(
    st.builds(
        Peer,
        st.just("head"),
        stream,
        st.tuples(st.sampled_from([*HEADS]), st.one_of(flags_of_heads, st.sampled_from([0, 0x24]))),
    ),
    st.builds(Peer, st.just("acknowledge"), stream),
    st.builds(Peer, st.just("data"), stream, st.tuples(size, st.sampled_from([0, END_STREAM, 8, 0x81]))),
    st.builds(Peer, st.just("update"), stream, increment),
    st.builds(Peer, st.just("settings"), st.just(0), setting),
    st.builds(Peer, st.just("ping"), stream, st.sampled_from([0, ACK, 3])),
    st.builds(Peer, st.just("reset"), stream),
    st.builds(Peer, st.just("unknown"), stream, st.integers(0, 255)),
    st.builds(Peer, st.just("short"), stream, st.sampled_from([PING, SETTINGS, WINDOW_UPDATE, CONTINUATION])),
    st.builds(Ours, st.just("answer"), stream, st.tuples(st.sampled_from([*ANSWERS]), st.booleans())),
    st.builds(Ours, st.just("send"), stream, st.tuples(size, st.booleans())),
    st.builds(Ours, st.just("pass on"), stream, size),
    st.builds(Ours, st.just("taken"), stream, st.integers(0, 200_000)),
    st.builds(Ours, st.sampled_from(["reset", "close", "window"]), stream),
    st.builds(Ours, st.just("largest frame")),
)
script = st.builds(
    lambda first, turn, rest: [*first, *turn, *rest],
    st.lists(usual, max_size=10),
    st.lists(unusual, max_size=1),
    st.lists(st.one_of(usual, unusual), max_size=6),
)
first_head = st.builds(
    Peer,
    st.just("head"),
    st.sampled_from([1, 1, 1, 1, 1, 2, 3]),
    st.tuples(st.sampled_from(["connect", "connect", "named", *HEADS]), flags_of_heads),
)


class Side:
    """A server's protocol, and all that it has said."""

    def __init__(self, protocol: LazyProtocol | ServerProtocol) -> None:
        self.protocol = protocol
        if isinstance(protocol, LazyProtocol):
            protocol.open()
        else:
            protocol.open(LIMITS)
        self.intake = FrameIntake(LIMITS)
        self.said: list[object] = []
        self.over = False
        """The peer has broken the protocol, and the connection would end."""

    def take(self, data: bytes) -> None:
        """As the connection does it."""
        try:
            for stream_id, piece in self.intake.feed(data, 0):
                if stream_id and self.protocol.take_data(stream_id, piece):
                    self.said.append(("DataReceived", stream_id, piece, len(piece)))
                    continue
                for event in self.protocol.take_frames(data_frame(stream_id, piece) if stream_id else piece):
                    self._note(event)
        except Exception as exc:  # noqa: BLE001 - whatever the library raises, the other side must, too
            self.said.append((type(exc), getattr(exc, "error_code", None)))
            self.over = True

    def do(self, step: Ours) -> None:
        try:
            self.said.append(step.do(self.protocol))
        except (h2.exceptions.ProtocolError, KeyError, ValueError) as exc:
            self.said.append(type(exc))

    def _note(self, event: h2.events.Event) -> None:
        """Remember what a connection acts on; new settings open windows, which are compared at the end."""
        name = type(event).__name__
        match event:
            case h2.events.DataReceived():
                self.said.append((name, event.stream_id, event.data, event.flow_controlled_length))
            case h2.events.RequestReceived():
                self.said.append((name, event.stream_id, [tuple(field) for field in event.headers]))
            case h2.events.WindowUpdated():
                self.said.append((name, event.stream_id))
            case h2.events.StreamEnded():
                self.said.append((name, event.stream_id))
            case h2.events.StreamReset():
                self.said.append((name, event.stream_id, event.remote_reset))
            case h2.events.PingAckReceived():
                self.said.append((name, event.ping_data))


def known() -> None:
    """Let every head be known that can be."""
    for name in HEADS:
        for flags in (END_HEADERS, END_HEADERS | END_STREAM):
            side = Side(LazyProtocol(LIMITS))
            head = Peer("head", 1, (name, flags)).frames(hpack.Encoder())
            side.take(PREFACE + frame(SETTINGS, 0, 0) + head)


def state(library: ServerProtocol) -> object:
    """What the library will decide by."""
    managers = [library._inbound_flow_control_window_manager]
    outbound = [library.outbound_flow_control_window]
    for number in sorted(library.streams):
        each = library.streams[number]
        managers.append(each._inbound_window_manager)
        outbound.append(each.outbound_flow_control_window)
    return (
        [(each.current_window_size, each.max_window_size, each._bytes_processed) for each in managers],
        outbound,
        {number: each.state_machine.state for number, each in library.streams.items()},
        dict(library.local_settings),
        dict(library.remote_settings),
        library.max_outbound_frame_size,
        library.decoder.max_header_list_size,
        list(library.decoder.header_table.dynamic_entries),
        library.state_machine.state,
        library.highest_inbound_stream_id,
    )


def compare(
    opening: dict[int, int],
    head: Peer | None,
    steps: list[Peer | Ours],
    *,
    in_one: bool = True,
    acknowledged_first: bool = False,
) -> None:
    """Let both sides take the same steps, and assert that they do the same."""
    known()
    lazy, eager = Side(LazyProtocol(LIMITS)), Side(ServerProtocol())
    encoder = hpack.Encoder()
    reads = [PREFACE + frame(SETTINGS, 0, 0, pairs(opening))]
    if acknowledged_first:
        reads.append(frame(SETTINGS, ACK, 0))
    if head is not None:
        reads.append(head.frames(encoder))
    for data in [b"".join(reads)] if in_one else reads:
        for side in (lazy, eager):
            side.take(data)
    for step in steps:
        data = step.frames(encoder) if isinstance(step, Peer) else b""
        for side in (lazy, eager):
            if isinstance(step, Peer):
                side.take(data)
            else:
                side.do(step)
        assert lazy.said == eager.said
        assert lazy.protocol.data_to_send() == eager.protocol.data_to_send()
        if lazy.over:
            break
    assert lazy.said == eager.said
    assert isinstance(lazy.protocol, LazyProtocol)
    assert isinstance(eager.protocol, ServerProtocol)
    assert state(lazy.protocol.library()) == state(eager.protocol)
    assert lazy.protocol.data_to_send() == eager.protocol.data_to_send()


@settings(deadline=None, max_examples=1_000)
@given(setting, st.one_of(first_head, first_head, st.none()), script, st.booleans(), st.booleans())
def test_any_sequence_gives_what_the_library_gives(
    opening: dict[int, int],
    head: Peer | None,
    steps: list[Peer | Ours],
    in_one: bool,
    acknowledged_first: bool,
) -> None:
    compare(opening, head, steps, in_one=in_one, acknowledged_first=acknowledged_first)


ANSWER, LAST = Ours("answer", 1, (200, False)), Ours("send", 1, (0, True))
CONNECT = Peer("head", 1, ("connect", END_HEADERS))


@pytest.mark.parametrize(
    "steps",
    [
        [Peer("much", 1, 4), Peer("data", 1, (1, END_STREAM)), ANSWER, LAST, Ours("taken", 1, 65_537)],
        [ANSWER, LAST, Peer("much", 1, 4), Ours("taken", 1, 65_536), Peer("data", 1, (0, END_STREAM))],
        [Peer("update", 1, 2**31 - 65_535)],
        [Peer("update", 1, 2**31 - 65_536), Peer("update", 0, 2**31 - 65_536), Peer("update", 0, 1)],
        [Peer("update", 1, 0)],
        [Peer("much", 1, 2), Peer("acknowledge")],
        [Ours("answer", 1, (103, False)), ANSWER],
        [ANSWER, ANSWER],
        [ANSWER, LAST, Peer("update", 1, 5), LAST],
        [ANSWER, LAST, Peer("data", 1, (0, END_STREAM)), Peer("update", 1, 5)],
        [ANSWER, Ours("send", 1, (16_385, False))],
        [Ours("pass on", 1, 16_384)] * 5,
    ],
)
def test_the_edges_are_where_the_library_has_them(steps: list[Peer | Ours]) -> None:
    compare({}, CONNECT, steps)
    compare({5: 20_000}, CONNECT, steps, acknowledged_first=True)
    compare({1: 100}, CONNECT, steps)


@pytest.mark.parametrize("stream_id", [0, 2, 3, 2**31 - 1, 2**31 + 1])
def test_a_request_has_the_number_that_the_library_takes(stream_id: int) -> None:
    compare({}, Peer("head", stream_id, ("connect", END_HEADERS)), [])


@pytest.mark.parametrize("first", ["connect", "other"])
def test_a_block_that_refers_to_another_is_not_known(first: str) -> None:
    known()
    side, encoder = Side(LazyProtocol(LIMITS)), hpack.Encoder()
    side.take(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, encoder.encode(HEADS[first])))
    second = encoder.encode(HEADS["named"])
    side.take(frame(HEADERS, END_HEADERS, 3, second))
    assert side.said[-1] == ("RequestReceived", 3, HEADS["named"])
    assert not any(request.block == second for request in LazyProtocol._known.values())


def without_library(side: Side) -> bool:
    assert isinstance(side.protocol, LazyProtocol)
    return side.protocol._library is None


def test_a_session_needs_no_library() -> None:
    known()
    side, encoder = Side(LazyProtocol(LIMITS)), hpack.Encoder()
    head = Peer("head", 1, ("named", END_HEADERS)).frames(encoder)
    side.take(
        PREFACE
        + frame(SETTINGS, 0, 0, pairs({4: 1_000_000}))
        + frame(WINDOW_UPDATE, 0, 0, b"\0\0\1\0")
        + head
    )
    side.take(data_frame(1, b"hello"))
    side.do(Ours("answer", 1, (200, False)))
    side.take(frame(SETTINGS, ACK, 0) + data_frame(1, b"x" * 16_000))
    side.do(Ours("send", 1, (100, False)))
    side.do(Ours("pass on", 1, 200))
    side.do(Ours("taken", 1, 5))
    side.do(Ours("ping"))
    assert without_library(side)


@pytest.mark.parametrize("end", [(0, END_STREAM), (5, END_STREAM)])
def test_a_session_that_ends_in_order_needs_none_either(end: tuple[int, int]) -> None:
    known()
    side = Side(LazyProtocol(LIMITS))
    side.take(
        PREFACE + frame(SETTINGS, 0, 0) + Peer("head", 1, ("connect", END_HEADERS)).frames(hpack.Encoder())
    )
    side.do(Ours("answer", 1, (200, False)))
    side.take(Peer("data", 1, end).frames(hpack.Encoder()))
    side.do(Ours("send", 1, (0, True)))
    assert without_library(side)
    assert side.said[-2] == ("StreamEnded", 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda side: side.take(frame(77, 0, 0)),
        lambda side: side.take(Peer("head", 3, ("connect", END_HEADERS)).frames(hpack.Encoder())),
        lambda side: side.do(Ours("reset")),
        lambda side: side.do(Ours("close")),
    ],
)
def test_what_is_not_usual_calls_the_library_in(call: Callable[[Side], None]) -> None:
    known()
    side = Side(LazyProtocol(LIMITS))
    side.take(
        PREFACE + frame(SETTINGS, 0, 0) + Peer("head", 1, ("connect", END_HEADERS)).frames(hpack.Encoder())
    )
    assert without_library(side)
    call(side)
    assert not without_library(side)


def test_only_plain_requests_for_connect_are_known() -> None:
    LazyProtocol._known.clear()
    known()
    fields = [request.fields for request in LazyProtocol._known.values()]
    assert {dict(each)[b":path"] for each in fields} == {b"/connect"}
    assert not any(name in dict(each) for each in fields for name in (b"authorization", b"content-length"))
    assert len(fields) == 6


def test_a_known_request_is_no_way_past_the_limit_of_another_listener() -> None:
    known()
    small = ListenerSettings(max_header_size=1_024)
    sides = [LazyProtocol(small), ServerProtocol()]
    head = frame(HEADERS, END_HEADERS, 1, hpack.Encoder().encode(HEADS["large"]))
    errors = []
    for protocol in sides:
        protocol.open(small) if isinstance(protocol, ServerProtocol) else protocol.open()
        with pytest.raises(h2.exceptions.ProtocolError) as refused:
            protocol.take_frames(PREFACE + frame(SETTINGS, 0, 0) + head)
        errors.append(refused.type)
    assert errors[0] is errors[1]
    assert sides[0].data_to_send() == sides[1].data_to_send()


def test_kinds_of_requests_beyond_some_are_forgotten() -> None:
    for number in range(1000):
        block = hpack.Encoder().encode([*HEAD, (b"x-number", b"%d" % number)])
        side = Side(LazyProtocol(LIMITS))
        side.take(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, block))
    assert len(LazyProtocol._known) <= 64
