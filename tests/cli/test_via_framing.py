"""The forms of a session's bytes: what the server's shells hold, and what is no shell."""

import base64
import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from commucat_cli.transport import WAYS, Form, Via
from commucat_cli.transport.framing import (
    MAX_MESSAGE_LEN,
    MAX_SHELL_LEN,
    EventFraming,
    Framing,
    FramingError,
    LineFraming,
    TextFraming,
    WebSocketFraming,
)

UPSTREAM = "0123456789abcdef" * 4


def events(*payloads: bytes) -> bytes:
    shells = [
        b"event: frame\nid: %d\ndata: %b\n\n" % (number, base64.b64encode(payload))
        for number, payload in enumerate(payloads)
    ]
    return b":ready\n\n" + b":keepalive\n\n".join(shells)


def lines(*payloads: bytes) -> bytes:
    shells = [
        b'{"channel":7,"data":"%b","sequence":1,"type":"msg"}\n' % base64.b64encode(payload)
        for payload in payloads
    ]
    return b'{"keepalive":true}\n' + b"".join(shells)


def messages(*payloads: bytes) -> bytes:
    server = FrameProtocol(client=False, extensions=[])
    return b"".join(bytes(server.send_data(payload)) + bytes(server.ping(b"alive")) for payload in payloads)


FORMS: dict[str, tuple[Callable[[], Framing], Callable[..., bytes]]] = {
    "events": (EventFraming, events),
    "lines": (LineFraming, lines),
    "messages": (WebSocketFraming, messages),
}


def unwrapped(framing: Framing, *pieces: bytes) -> bytes:
    return b"".join(framing.unwrap(piece)[0] for piece in pieces)


# -- ways -----------------------------------------------------------------------------------------


def test_there_is_every_form_over_both_versions_of_http_and_with_posts() -> None:
    assert {(way.form, way.http1, way.posts) for way in WAYS} == {
        *((form, http1, False) for form in Form for http1 in (False, True)),
        *((form, http1, True) for form in (Form.SSE, Form.LONG_POLL) for http1 in (False, True)),
    }
    assert len(WAYS) == 12
    assert set(Via) - set(WAYS) == {Via.AUTO}


# -- what comes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@given(payloads=st.lists(st.binary(min_size=1, max_size=200), max_size=5), data=st.data())
def test_any_split_of_the_stream_gives_the_same_bytes(
    form: str, payloads: list[bytes], data: st.DataObject
) -> None:
    framing, shells = FORMS[form]
    stream = shells(*payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert unwrapped(framing(), *pieces) == b"".join(payloads)


@pytest.mark.parametrize("form", FORMS)
@given(garbage=st.binary(max_size=200))
def test_garbage_gives_bytes_or_a_framing_error(form: str, garbage: bytes) -> None:
    with contextlib.suppress(FramingError):
        assert len(FORMS[form][0]().unwrap(garbage)[0]) <= len(garbage)


@pytest.mark.parametrize(
    ("framing", "shell"),
    [
        (EventFraming(), b"event: frame\ndata: !\n\n"),
        (EventFraming(), b"event: upstream\ndata: a b\n\n"),
        (LineFraming(), b"nothing\n"),
        (LineFraming(), b"[]\n"),
        (LineFraming(), b'{"data":"*"}\n'),
        (LineFraming(), b'{"upstream":"?x=/"}\n'),
        (WebSocketFraming(), b"\x81\x01x"),
        (WebSocketFraming(), b"\xff\xff\xff"),
    ],
)
def test_what_is_out_of_form_is_an_error(framing: Framing, shell: bytes) -> None:
    with pytest.raises(FramingError):
        framing.unwrap(shell)


@pytest.mark.parametrize("framing", [EventFraming(), LineFraming()])
def test_a_shell_that_never_ends_is_not_kept(framing: TextFraming) -> None:
    framing.unwrap(bytes(MAX_SHELL_LEN))
    with pytest.raises(FramingError, match="more than"):
        framing.unwrap(b"\0")


def test_events_nobody_knows_are_left_alone() -> None:
    assert unwrapped(EventFraming(), b"event: news\ndata: x\n\nretry: 5\n\n" + events(b"hi")) == b"hi"


@pytest.mark.parametrize(
    ("framing", "shell"),
    [
        (EventFraming(), b"event: upstream\ndata: %b\n\n" % UPSTREAM.encode()),
        (LineFraming(), b'{"upstream":"%b"}\n' % UPSTREAM.encode()),
    ],
)
def test_the_id_for_posts_is_told(framing: TextFraming, shell: bytes) -> None:
    told: list[str] = []
    framing.on_upstream = told.append
    assert framing.unwrap(shell) == (b"", b"")
    assert told == [UPSTREAM]


# -- what goes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", [EventFraming(), LineFraming()])
def test_our_side_of_text_is_plain(framing: TextFraming) -> None:
    assert (framing.wrap(b"bytes"), framing.farewell()) == (b"bytes", b"")


def received(stream: bytes) -> list[tuple[Opcode, bytes]]:
    server = FrameProtocol(client=False, extensions=[])
    server.receive_bytes(stream)
    return [(frame.opcode, bytes(frame.payload)) for frame in server.received_frames()]  # type: ignore[arg-type]  # no Close here


@pytest.mark.parametrize("size", [1, 200, MAX_MESSAGE_LEN, 2 * MAX_MESSAGE_LEN + 1])
def test_messages_are_short_enough_for_every_server(size: int) -> None:
    got = received(WebSocketFraming().wrap(bytes(size)))
    assert {opcode for opcode, _ in got} == {Opcode.BINARY}
    assert all(len(payload) <= MAX_MESSAGE_LEN for _, payload in got)
    assert sum(len(payload) for _, payload in got) == size


def test_a_ping_is_answered_with_its_own_words() -> None:
    server = FrameProtocol(client=False, extensions=[])
    out, reply = WebSocketFraming().unwrap(bytes(server.ping(b"12345678")))
    assert out == b""
    assert received(reply) == [(Opcode.PONG, b"12345678")]


def test_nothing_follows_a_close() -> None:
    server = FrameProtocol(client=False, extensions=[])
    framing = WebSocketFraming()
    stream = bytes(server.send_data(b"last")) + bytes(server.close(1000))
    assert framing.unwrap(stream)[0] == b"last"
    assert framing.ended
    assert framing.unwrap(messages(b"more"))[0] == b""
