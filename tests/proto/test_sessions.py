"""Both sides of a session joined in memory: the handshake, the encrypted stream, and attacks."""

import random
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from commucat_crypto import DeviceKeyPair, NoiseHandshake, NoisePattern, StaticKeyPair
from commucat_proto import (
    AuthReceived,
    ClientProved,
    ClientState,
    Established,
    Frame,
    FrameRefused,
    FramesReceived,
    FrameType,
    HandshakeDetail,
    HandshakeFailed,
    HelloReceived,
    LocalProtocolError,
    PeerClosed,
    Refused,
    Resume,
    ServerKey,
    ServerState,
    SessionFailed,
    decode_frame,
    encode_frame,
    encode_varint,
    json_text,
)
from commucat_proto.hello import MAX_HELLO_LEN
from proto.frame_builders import UNREADABLE, raw_frame
from proto.session_builders import (
    CLIENT_STATIC,
    SERVER_KEYS,
    client_parameters,
    established_pair,
    new_client,
    new_server,
    send_auth,
)

PATTERNS = [NoisePattern.XK, NoisePattern.IK]


def hello_value(client: Any = None, **changes: Any) -> dict[str, Any]:
    frame, _ = decode_frame((client or new_client()).start())
    value = dict(frame.control)
    for name, change in changes.items():
        if change is None:
            del value[name]
        else:
            value[name] = change
    return value


def hello_bytes(value: Any, frame_type: FrameType = FrameType.HELLO) -> bytes:
    return encode_frame(frame_type, 0, 1, json_text.dumps(value))


def failure(events: list[Any]) -> HandshakeFailed:
    [event] = events
    assert isinstance(event, HandshakeFailed)
    return event


def error_of(reply: bytes) -> dict[str, Any]:
    frame, used = decode_frame(reply)
    assert used == len(reply)
    assert frame.type is FrameType.ERROR
    assert frame.channel == 0
    return dict(frame.control)


def message_payloads(events: list[Any]) -> list[bytes]:
    return [f.payload for e in events if isinstance(e, FramesReceived) for f in e.frames]


# -- the way it should go ---------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_handshake_gives_both_sides_one_encrypted_stream(pattern: NoisePattern) -> None:
    pair = established_pair(pattern)

    _, up = pair.client.frame(FrameType.MSG, 7, b"up")
    down = encode_frame(FrameType.MSG, 7, 1, b"down")

    assert message_payloads(pair.server.receive_data(pair.client.seal([up]))) == [b"up"]
    assert message_payloads(pair.client.receive_data(pair.server.seal([down]))) == [b"down"]


def test_welcome_and_ack_reach_the_client() -> None:
    client, server = new_client(), new_server()
    server.receive_data(client.start())
    [auth] = client.receive_data(send_auth(server))
    assert client.welcome["session"] == "token"
    assert client.welcome["user_id"] == "user-1"
    server.receive_data(auth.reply)

    ack = server.establish({"inbox": {"epoch": "e", "next": 1}})

    frame, _ = decode_frame(ack)
    assert (frame.type, frame.channel, frame.sequence) == (FrameType.ACK, 0, 2)
    [done] = client.receive_data(ack)
    assert isinstance(done, Established)
    assert done.ack == {"handshake": "ok", "inbox": {"epoch": "e", "next": 1}}


@pytest.mark.parametrize("pattern", PATTERNS)
@given(seed=st.integers(0, 2**32))
def test_any_split_of_the_stream_gives_the_same_events(pattern: NoisePattern, seed: int) -> None:
    client, server = new_client(pattern=pattern), new_server()
    sizes = random.Random(seed)

    def through(receive: Any, stream: bytes) -> list[Any]:
        events: list[Any] = []
        while stream:
            size = sizes.randint(1, sizes.choice([3, 100, len(stream) + 1]))
            events += receive(stream[:size])
            stream = stream[size:]
        return events

    [hello] = through(server.receive_data, client.start())
    assert isinstance(hello, HelloReceived)
    [auth] = through(client.receive_data, send_auth(server))
    [proved] = through(server.receive_data, auth.reply)
    assert isinstance(proved, ClientProved)
    payloads = [b"", b"x" * 300, b"y" * 70_000]
    frames = [encode_frame(FrameType.MSG, 1, n, payload) for n, payload in enumerate(payloads, 1)]
    down = server.establish({}) + server.seal(frames)
    assert message_payloads(through(client.receive_data, down)) == payloads
    up = client.seal([client.frame(FrameType.MSG, 1, payload)[1] for payload in payloads])
    assert message_payloads(through(server.receive_data, up)) == payloads


def test_bytes_that_come_before_the_ack_are_kept_and_decrypted() -> None:
    pair = established_pair()  # gives a client whose stream is past the handshake
    client, server = new_client(), new_server()
    server.receive_data(client.start())
    [auth] = client.receive_data(send_auth(server))
    client.state = ClientState.ESTABLISHED  # an eager client: it sends without waiting for the Ack
    early = client.seal([client.frame(FrameType.MSG, 3, b"early")[1]])

    [proved] = server.receive_data(auth.reply + early)
    assert isinstance(proved, ClientProved)
    server.establish({})

    assert message_payloads(server.pending_events()) == [b"early"]
    assert pair.server.pending_events() == []


def test_a_large_frame_spans_several_noise_messages() -> None:
    pair = established_pair()
    payload = bytes(200_000)

    sealed = pair.server.seal([encode_frame(FrameType.MSG, 1, 1, payload)])

    assert len(sealed) > len(payload) + 3 * 16
    assert message_payloads(pair.client.receive_data(sealed)) == [payload]


def test_many_frames_share_one_noise_message() -> None:
    pair = established_pair()
    frames = [encode_frame(FrameType.MSG, 1, n, b"%d" % n) for n in range(1, 101)]

    sealed = pair.server.seal(frames)

    assert len(sealed) == sum(map(len, frames)) + 16 + len(encode_varint(sum(map(len, frames)) + 16))
    assert len(message_payloads(pair.client.receive_data(sealed))) == 100


def test_older_server_keys_still_work() -> None:
    newer = ServerKey(version=2, keys=StaticKeyPair.generate())
    server = new_server(keys=[newer, ServerKey(version=1, keys=SERVER_KEYS)])

    [hello] = server.receive_data(new_client().start())

    assert isinstance(hello, HelloReceived)
    assert hello.noise_key_version == 1
    assert server.key.version == 1


@pytest.mark.parametrize("pattern", PATTERNS)
def test_enrolment_code_arrives_and_never_in_clear(pattern: NoisePattern) -> None:
    client, server = new_client(pattern=pattern, code="ABCD-EFGH"), new_server()
    first = client.start()
    server.receive_data(first)
    [auth] = client.receive_data(send_auth(server))

    [proved] = server.receive_data(auth.reply)

    assert isinstance(proved, ClientProved)
    assert proved.code == "ABCD-EFGH"
    for sent in (first, auth.reply):
        assert b"ABCD" not in sent
        assert b"ABCD".hex().encode() not in sent


def test_resume_and_capabilities_are_read() -> None:
    client = new_client(capabilities=("delivery-ack",), resume=Resume("epoch", 41))

    [event] = new_server().receive_data(client.start())

    assert event.hello.resume == Resume("epoch", 41)
    assert "delivery-ack" in event.hello.capabilities


@pytest.mark.parametrize(
    "resume", ["x", {"epoch": 1, "ack": 1}, {"epoch": "e", "ack": -1}, {"epoch": "e", "ack": True}]
)
def test_malformed_resume_is_no_resume(resume: Any) -> None:
    [event] = new_server().receive_data(hello_bytes(hello_value(resume=resume)))

    assert event.hello.resume is None


def test_reference_client_with_an_empty_message_3_is_accepted() -> None:
    server = new_server()
    noise = NoiseHandshake(
        pattern=NoisePattern.XK,
        initiator=True,
        prologue=b"commucat",
        static=CLIENT_STATIC,
        remote_static=SERVER_KEYS.public,
    )
    server.receive_data(hello_bytes(hello_value(handshake=noise.write_message().hex())))
    auth, _ = decode_frame(send_auth(server))
    noise.read_message(bytes.fromhex(auth.control["handshake"]))

    [event] = server.receive_data(hello_bytes({"handshake": noise.write_message().hex()}, FrameType.AUTH))

    assert isinstance(event, ClientProved)
    assert not event.bound


# -- what a Hello must be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"pattern": "xk"},
        {"pattern": "XX"},
        {"pattern": None},
        {"device_id": None},
        {"device_id": ""},
        {"device_id": "a" * 129},
        {"device_id": "a\nb"},
        {"device_id": 7},
        {"handshake": None},
        {"handshake": "zz"},
        {"handshake": "00" * 48},
        {"client_static": "00" * 31},
        {"client_static": " " + "00" * 31 + " "},
        {"device_public": "00" * 32},
        {"zkp": None},
        {"zkp": {"commitment": "00" * 32}},
        {"certificate": 1},
        {"certificate": {"serial": 1}},
    ],
    ids=str,
)
def test_malformed_hello_is_refused(changes: dict[str, Any]) -> None:
    server = new_server()

    failed = failure(server.receive_data(hello_bytes(hello_value(**changes))))

    assert failed.detail is HandshakeDetail.INVALID
    assert error_of(failed.reply) == {"error": "handshake", "detail": "invalid request"}
    assert server.state is ServerState.CLOSED


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"supported_versions": 1}, "supported_versions must be an array"),
        ({"supported_versions": ["1"]}, "supported_versions entries must be unsigned integers"),
        ({"supported_versions": [True]}, "supported_versions entries must be unsigned integers"),
        ({"supported_versions": [70000]}, "protocol version 70000 out of range"),
        ({"supported_versions": []}, "supported_versions cannot be empty"),
        ({"supported_versions": [2, 3]}, "no common protocol version; peer=[2, 3]; supported=[1]"),
        (
            {"supported_versions": None, "protocol_version": "1"},
            "protocol_version must be an unsigned integer",
        ),
        (
            {"supported_versions": None, "protocol_version": 2},
            "unsupported protocol version 2; supported=[1]",
        ),
    ],
    ids=str,
)
def test_version_trouble_is_told(changes: dict[str, Any], text: str) -> None:
    failed = failure(new_server().receive_data(hello_bytes(hello_value(**changes))))

    assert error_of(failed.reply)["detail"] == f"protocol negotiation failed: {text}"


def test_no_version_at_all_means_version_1() -> None:
    [event] = new_server().receive_data(hello_bytes(hello_value(supported_versions=None)))

    assert event.hello.version == 1


def test_proof_for_another_domain_is_refused() -> None:
    failed = failure(new_server(domain="example.net").receive_data(new_client().start()))

    assert failed.detail is HandshakeDetail.INVALID
    assert "proof" in failed.reason


@pytest.mark.parametrize("name", ["device_id", "client_static", "device_public"])
def test_proof_does_not_carry_over_to_other_values(name: str) -> None:
    other = {
        "device_id": "device-2",
        "client_static": StaticKeyPair.generate().public.hex(),
        "device_public": DeviceKeyPair.generate().public.hex(),
    }

    failed = failure(new_server().receive_data(hello_bytes(hello_value(**{name: other[name]}))))

    assert "proof" in failed.reason


def test_wrong_server_key_is_refused() -> None:
    server = new_server(keys=[ServerKey(version=1, keys=StaticKeyPair.generate())])

    assert "message 1" in failure(server.receive_data(new_client().start())).reason


def test_unsupported_pattern_is_refused() -> None:
    server = new_server(patterns=[NoisePattern.XK])

    failed = failure(server.receive_data(new_client(pattern=NoisePattern.IK).start()))

    assert failed.detail is HandshakeDetail.INVALID


def test_hello_of_more_than_64_kib_is_refused_before_it_is_kept() -> None:
    failed = failure(new_server().receive_data(encode_varint(MAX_HELLO_LEN + 1) + b"\x01"))

    assert failed.undecodable
    assert error_of(failed.reply) == {"error": "decode"}


def test_frame_of_16_mib_and_one_byte_is_refused_by_its_length_alone() -> None:
    assert failure(new_server().receive_data(encode_varint(16 * 2**20 + 1))).undecodable


@given(st.binary(min_size=1, max_size=400))
def test_garbage_before_the_handshake_is_waited_for_or_refused(garbage: bytes) -> None:
    for event in new_server().receive_data(garbage):
        assert isinstance(event, HandshakeFailed)


@given(st.binary(min_size=1, max_size=400))
def test_garbage_instead_of_the_proof_is_waited_for_or_refused(garbage: bytes) -> None:
    server = new_server()
    server.receive_data(new_client().start())
    send_auth(server)

    for event in server.receive_data(garbage):
        assert isinstance(event, HandshakeFailed)


# -- thieves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_recorded_hello_proves_nothing(pattern: NoisePattern) -> None:
    """Message 1 of IK and the proof can be replayed; the thief lacks the Noise private key."""
    recorded = new_client(pattern=pattern).start()
    server = new_server()
    [hello] = server.receive_data(recorded)
    assert isinstance(hello, HelloReceived)
    send_auth(server)

    guess = (
        b"\x10" + bytes(16)
        if pattern is NoisePattern.IK
        else hello_bytes({"handshake": "00" * 64}, FrameType.AUTH)
    )

    failed = failure(server.receive_data(guess))
    assert failed.detail is HandshakeDetail.CRYPTO


def test_recorded_hello_with_the_thiefs_own_noise_key_is_refused_at_message_3() -> None:
    """The defect of the reference: the static key that Noise delivers was never compared."""
    thief = NoiseHandshake(
        pattern=NoisePattern.XK,
        initiator=True,
        prologue=b"commucat",
        static=StaticKeyPair.generate(),
        remote_static=SERVER_KEYS.public,
    )
    server = new_server()
    server.receive_data(hello_bytes(hello_value(handshake=thief.write_message().hex())))
    auth, _ = decode_frame(send_auth(server))
    thief.read_message(bytes.fromhex(auth.control["handshake"]))

    failed = failure(
        server.receive_data(hello_bytes({"handshake": thief.write_message().hex()}, FrameType.AUTH))
    )

    assert failed.detail is HandshakeDetail.CRYPTO
    assert "client_static" in failed.reason


def test_recorded_hello_with_the_thiefs_own_ik_message_is_refused_at_once() -> None:
    thief = NoiseHandshake(
        pattern=NoisePattern.IK,
        initiator=True,
        prologue=b"commucat",
        static=StaticKeyPair.generate(),
        remote_static=SERVER_KEYS.public,
    )
    value = hello_value(pattern="IK", handshake=thief.write_message().hex())

    failed = failure(new_server().receive_data(hello_bytes(value)))

    assert failed.detail is HandshakeDetail.CRYPTO


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    "change",
    [{"capabilities": ["noise"]}, {"resume": {"epoch": "e", "ack": 9}}, {"user": {"handle": "eve"}}],
    ids=str,
)
def test_changed_hello_is_noticed(pattern: NoisePattern, change: dict[str, Any]) -> None:
    """Somebody inside TLS may change what the proof does not cover."""
    client, server = new_client(pattern=pattern, capabilities=("delivery-ack",)), new_server()
    frame, _ = decode_frame(client.start())
    events = server.receive_data(hello_bytes(dict(frame.control) | change))
    if pattern is NoisePattern.XK:
        [auth] = client.receive_data(send_auth(server))
        events = server.receive_data(auth.reply)

    failed = failure(events)

    assert failed.detail is HandshakeDetail.CRYPTO
    assert "Hello was changed" in failed.reason


@pytest.mark.parametrize("pattern", PATTERNS)
def test_our_client_vouches_for_its_hello(pattern: NoisePattern) -> None:
    client, server = new_client(pattern=pattern), new_server()
    server.receive_data(client.start())
    [auth] = client.receive_data(send_auth(server))

    [proved] = server.receive_data(auth.reply)

    assert isinstance(proved, ClientProved)
    assert proved.bound


@pytest.mark.parametrize("payload", [b"x", b"x" * 31, b"x" * 200, bytes(32) + b"\xff"])
def test_malformed_payload_of_message_3_is_refused(payload: bytes) -> None:
    noise = NoiseHandshake(
        pattern=NoisePattern.XK,
        initiator=True,
        prologue=b"commucat",
        static=CLIENT_STATIC,
        remote_static=SERVER_KEYS.public,
    )
    server = new_server()
    server.receive_data(hello_bytes(hello_value(handshake=noise.write_message().hex())))
    auth, _ = decode_frame(send_auth(server))
    noise.read_message(bytes.fromhex(auth.control["handshake"]))

    events = server.receive_data(
        hello_bytes({"handshake": noise.write_message(payload).hex()}, FrameType.AUTH)
    )

    assert isinstance(failure(events), HandshakeFailed)


# -- the established stream ---------------------------------------------------------------------------


def test_intact_frames_before_a_broken_one_are_kept() -> None:
    pair = established_pair()
    good = pair.client.seal([pair.client.frame(FrameType.MSG, 1, b"kept")[1]])

    events = pair.server.receive_data(good + b"\x10" + bytes(16))

    assert message_payloads(events) == [b"kept"]
    assert isinstance(events[-1], SessionFailed)
    assert events[-1].code == "decrypt"
    assert pair.server.state is ServerState.CLOSED


def test_malformed_frame_inside_intact_encryption_is_a_decode_failure() -> None:
    pair = established_pair()
    good = pair.client.frame(FrameType.MSG, 1, b"kept")[1]

    events = pair.server.receive_data(pair.client.seal([good, b"\x03\xff\x00\x00"]))

    assert message_payloads(events) == [b"kept"]
    assert isinstance(events[-1], SessionFailed)
    assert events[-1].code == "decode"


@pytest.mark.parametrize("why", UNREADABLE)
def test_frame_with_unreadable_json_is_refused_between_those_around_it(why: str) -> None:
    pair = established_pair()
    payload, code = UNREADABLE[why]
    good = [pair.client.frame(FrameType.MSG, 1, b"%d" % n)[1] for n in range(3)]
    bad = raw_frame(FrameType.JOIN, 7, 99, payload)

    events = pair.server.receive_data(pair.client.seal([good[0], bad, bad, *good[1:]]))

    first, refused, again, rest = events
    assert message_payloads([first, rest]) == [b"0", b"1", b"2"]
    assert isinstance(refused, FrameRefused)
    assert isinstance(again, FrameRefused)
    frame = refused.frame
    assert (frame.type, frame.channel, frame.sequence) == (FrameType.JOIN, 7, 99)
    assert frame.code is code
    assert pair.server.state is ServerState.ESTABLISHED


def test_refused_frame_before_a_broken_one_is_kept() -> None:
    pair = established_pair()

    events = pair.server.receive_data(
        pair.client.seal([raw_frame(FrameType.JOIN, 7, 9, b"{"), b"\x03\xff\x00\x00"])
    )

    assert [type(event) for event in events] == [FrameRefused, SessionFailed]


def test_unreadable_json_right_behind_the_first_ik_message_is_refused_after_admission() -> None:
    client, server = new_client(pattern=NoisePattern.IK), new_server()
    server.receive_data(client.start())
    [auth] = client.receive_data(send_auth(server))
    assert isinstance(auth, AuthReceived)
    assert client._stream is not None

    early = client._stream.seal([raw_frame(FrameType.JOIN, 7, 9, b"{")])
    [proved] = server.receive_data(auth.reply + early)
    assert isinstance(proved, ClientProved)
    server.establish({})

    [refused] = server.pending_events()
    assert isinstance(refused, FrameRefused)


def test_handshake_frames_with_unreadable_json_end_the_handshake() -> None:
    server = new_server()

    failed = failure(server.receive_data(raw_frame(FrameType.HELLO, 0, 1, b"{")))

    assert failed.undecodable
    assert error_of(failed.reply) == {"error": "decode"}


def test_client_gives_a_server_with_unreadable_json_up() -> None:
    pair = established_pair()

    [failed] = pair.client.receive_data(pair.server.seal([raw_frame(FrameType.ACK, 7, 9, b"{")]))

    assert isinstance(failed, SessionFailed)
    assert failed.code == "decode"


@pytest.mark.parametrize("announced", [b"\x00", b"\x0f", b"\x80\x80\x04", b"\xff\xff\xff\xff\x01"])
def test_impossible_message_length_is_refused_at_once(announced: bytes) -> None:
    [failed] = established_pair().server.receive_data(announced)

    assert isinstance(failed, SessionFailed)
    assert failed.code == "decrypt"


def test_frame_above_the_configured_ceiling_ends_the_session() -> None:
    pair = established_pair(max_frame_len=1000)

    [failed] = pair.server.receive_data(
        pair.client.seal([pair.client.frame(FrameType.MSG, 1, bytes(1000))[1]])
    )

    assert isinstance(failed, SessionFailed)
    assert failed.code == "decode"


@given(garbage=st.binary(min_size=1, max_size=300))
def test_garbage_after_the_handshake_gives_a_failure_or_nothing(garbage: bytes) -> None:
    pair = established_pair()

    for event in pair.server.receive_data(garbage):
        assert isinstance(event, SessionFailed)


def test_empty_message_is_a_no_op() -> None:
    pair = established_pair()

    assert pair.server.receive_data(pair.client.seal([])) == []


def test_replayed_ciphertext_ends_the_session() -> None:
    pair = established_pair()
    sealed = pair.client.seal([pair.client.frame(FrameType.MSG, 1, b"once")[1]])
    pair.server.receive_data(sealed)

    [failed] = pair.server.receive_data(sealed)

    assert isinstance(failed, SessionFailed)


# -- the ends ---------------------------------------------------------------------------------------


def test_end_of_stream_is_reported_in_every_state() -> None:
    fresh = new_server()
    waiting = new_server()
    waiting.receive_data(new_client().start())
    for server in (fresh, waiting, established_pair().server):
        assert server.receive_data(b"") == [PeerClosed()]
        with pytest.raises(LocalProtocolError):
            server.receive_data(b"x")


def test_refusal_reaches_the_client_as_error() -> None:
    client, server = new_client(), new_server()
    server.receive_data(client.start())

    [event] = client.receive_data(server.refuse(HandshakeDetail.PAIRING, reason="handle_taken"))

    assert event == Refused(
        {
            "error": "handshake",
            "detail": "pairing required",
            "title": "PairingRequired",
            "pairing_required": True,
            "reason": "handle_taken",
        }
    )
    assert client.state is ClientState.CLOSED


def test_commands_out_of_order_are_our_own_mistake() -> None:
    server = new_server()
    with pytest.raises(LocalProtocolError):
        server.establish({})
    with pytest.raises(LocalProtocolError):
        send_auth(server)
    with pytest.raises(LocalProtocolError):
        server.seal([b""])
    with pytest.raises(LocalProtocolError):
        established_pair().server.refuse(HandshakeDetail.INVALID)


def test_flood_while_the_server_decides_is_bounded() -> None:
    server = new_server()
    server.receive_data(new_client().start())

    assert isinstance(failure(server.receive_data(bytes(MAX_HELLO_LEN + 1))), HandshakeFailed)


def test_client_refuses_a_server_with_another_key() -> None:
    client = new_client()
    server = new_server()
    server.receive_data(client.start())
    forged = Frame.of_control(FrameType.AUTH, 0, 1, {"handshake": "00" * 64, "session": "x"}).encode()

    [failed] = client.receive_data(forged)

    assert isinstance(failed, HandshakeFailed)
    assert failed.detail is HandshakeDetail.CRYPTO


def test_client_refuses_a_server_of_another_domain() -> None:
    client = new_client(domain="example.org")
    server = new_server()
    server.receive_data(client.start())
    object.__setattr__(server._parameters, "domain", "evil.example")

    [failed] = client.receive_data(send_auth(server))

    assert isinstance(failed, HandshakeFailed)


def test_secrets_do_not_show_in_repr() -> None:
    shown = repr(client_parameters(code="SECRET-CODE"))
    assert "SECRET" not in shown
    assert CLIENT_STATIC.private.hex() not in shown
    pair = established_pair(client={"code": "SECRET-CODE"})
    assert "SECRET" not in repr(pair.server) + repr(pair.client)


def test_binding_is_blake3_of_the_hello_payload() -> None:
    client, server = new_client(), new_server()
    first = client.start()
    frame, _ = decode_frame(first)

    [event] = server.receive_data(first)

    assert event.hello.binding == blake3(frame.payload).digest()


def test_auth_answer_has_the_documented_members() -> None:
    client, server = new_client(), new_server()
    server.receive_data(client.start())

    frame, _ = decode_frame(send_auth(server))

    assert frame.type is FrameType.AUTH
    assert frame.sequence == 1
    assert set(frame.control) == {
        "session",
        "device_id",
        "handshake",
        "server_static",
        "protocol_version",
        "supported_versions",
    }
    [event] = client.receive_data(frame.encode())
    assert isinstance(event, AuthReceived)
