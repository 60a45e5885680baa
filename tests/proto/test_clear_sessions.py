"""Sessions of clients that drop their keys after the handshake: plain frames in both directions."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_crypto import NoisePattern
from commucat_proto import (
    AuthReceived,
    Frame,
    FrameDecoder,
    FramesReceived,
    FrameType,
    LocalProtocolError,
    PeerClosed,
    ServerSession,
    SessionFailed,
    encode_frame,
)
from commucat_proto.events import ServerEvent
from proto.session_builders import new_client, new_server, send_auth


def proved(pattern: NoisePattern = NoisePattern.XK, early: bytes = b"", **changes: int) -> ServerSession:
    client, server = new_client(pattern=pattern), new_server(**changes)
    server.receive_data(client.start())
    [auth] = client.receive_data(send_auth(server))
    assert isinstance(auth, AuthReceived)
    server.receive_data(auth.reply + early)
    return server


def clear_session(**changes: int) -> ServerSession:
    server = proved(**changes)
    server.establish({}, clear=True)
    return server


def received(events: list[ServerEvent]) -> list[Frame]:
    return [frame for event in events if isinstance(event, FramesReceived) for frame in event.frames]


def message(sequence: int, payload: bytes) -> bytes:
    return encode_frame(FrameType.MSG, 7, sequence, payload)


@given(st.lists(st.binary(max_size=200), max_size=10), st.randoms(use_true_random=False))
def test_plain_frames_in_any_split(payloads: list[bytes], sizes: random.Random) -> None:
    server = clear_session()
    stream = b"".join(message(number, payload) for number, payload in enumerate(payloads, 3))
    frames: list[Frame] = []
    while stream:
        size = sizes.randint(1, len(stream))
        frames += received(server.receive_data(stream[:size]))
        stream = stream[size:]

    assert [(frame.sequence, frame.payload) for frame in frames] == list(enumerate(payloads, 3))


def test_the_ack_and_everything_after_it_are_plain_frames() -> None:
    server = proved()
    decoder = FrameDecoder()

    decoder.feed(server.establish({"session": "token"}, clear=True))
    decoder.feed(server.seal([message(1, b"meow"), message(2, bytes(70_000))]))

    ack, first, second = decoder.frames()
    assert ack.control == {"handshake": "ok", "session": "token"}
    assert (first.payload, second.payload) == (b"meow", bytes(70_000))


def test_frames_that_come_with_the_proof_are_read_in_clear() -> None:
    server = proved(early=message(3, b"early"))

    server.establish({}, clear=True)

    [frame] = received(server.pending_events())
    assert frame.payload == b"early"


def test_intact_frames_before_a_malformed_one_are_kept() -> None:
    server = clear_session()

    events = server.receive_data(message(3, b"kept") + b"\x03\xff\x00\x00")

    assert [frame.payload for frame in received(events)] == [b"kept"]
    assert isinstance(events[-1], SessionFailed)
    assert events[-1].code == "decode"
    with pytest.raises(LocalProtocolError):
        server.receive_data(message(4, b""))


def test_a_frame_above_the_ceiling_is_refused_before_it_is_there() -> None:
    [failed] = clear_session(max_frame_len=1000).receive_data(message(3, bytes(1000))[:2])

    assert isinstance(failed, SessionFailed)
    assert failed.code == "decode"


@given(garbage=st.binary(min_size=1, max_size=300))
def test_garbage_gives_frames_a_failure_or_nothing(garbage: bytes) -> None:
    server = clear_session()

    for event in server.receive_data(garbage):
        assert isinstance(event, FramesReceived | SessionFailed)


def test_the_end_of_the_stream_is_reported() -> None:
    assert clear_session().receive_data(b"") == [PeerClosed()]


def test_a_client_that_has_encrypted_already_cannot_stop_doing_so() -> None:
    server = proved(NoisePattern.IK)

    with pytest.raises(LocalProtocolError, match="encrypted already"):
        server.establish({}, clear=True)

    assert server.establish({})
