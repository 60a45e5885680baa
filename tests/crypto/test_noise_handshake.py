"""Noise handshakes: all three patterns, turns, limits and refusals."""

import gc
import hashlib
import hmac
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st
from noise.state import HandshakeState, SymmetricState

from commucat_crypto import (
    HANDSHAKE_OVERHEAD,
    MAX_NOISE_MESSAGE,
    NoiseError,
    NoiseHandshake,
    NoisePattern,
    StaticKeyPair,
)
from crypto.noise_builders import CLIENT, SERVER, handshake_pair, run_handshake

PATTERNS = list(NoisePattern)
PRIME = 2**255 - 19
# Every X25519 public key whose agreement is all zero: y of small order (RFC 7748, section 6.1,
# asks to detect the result), canonical, not reduced, and with the ignored top bit set.
SMALL_ORDER = [
    value.to_bytes(32, "little")
    for low in (
        0,
        1,
        int.from_bytes(
            bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"), "little"
        ),
        int.from_bytes(
            bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"), "little"
        ),
        PRIME - 1,
        PRIME,
        PRIME + 1,
    )
    for value in (low, low + 2**255)
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_both_sides_end_with_the_same_hash_and_matching_transports(pattern: NoisePattern) -> None:
    initiator, responder = handshake_pair(pattern)
    run_handshake(initiator, responder, pattern)
    assert initiator.is_complete
    assert responder.is_complete
    assert initiator.handshake_hash == responder.handshake_hash
    assert responder.remote_static == CLIENT.public
    assert initiator.remote_static == SERVER.public
    sending, receiving = initiator.split(), responder.split()
    assert receiving.decrypt(sending.encrypt(b"there")) == b"there"


@pytest.mark.parametrize("pattern", [NoisePattern.XK, NoisePattern.IK])
def test_interactive_patterns_carry_both_directions(pattern: NoisePattern) -> None:
    initiator, responder = handshake_pair(pattern)
    run_handshake(initiator, responder, pattern)
    left, right = initiator.split(), responder.split()
    assert left.decrypt(right.encrypt(b"back")) == b"back"
    # Two keys, not one: the same first plaintext looks different in each direction.
    assert left.encrypt(b"same") != right.encrypt(b"same")


def test_the_one_way_pattern_sends_in_one_direction_only() -> None:
    initiator, responder = handshake_pair(NoisePattern.X)
    run_handshake(initiator, responder, NoisePattern.X)
    sending, receiving = initiator.split(), responder.split()
    with pytest.raises(NoiseError):
        receiving.encrypt(b"answer")
    with pytest.raises(NoiseError):
        sending.decrypt(bytes(32))


def test_the_one_way_message_follows_the_noise_specification() -> None:
    """Noise_X assembled by hand from the Noise Protocol Framework, sections 4, 5 and 7.4."""
    ephemeral = StaticKeyPair.from_private(b"e" * 32)

    def agree(private: bytes, public: bytes) -> bytes:
        return X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )

    def mac(key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, hashlib.blake2s).digest()

    def derive(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
        temp = mac(chaining_key, material)
        first = mac(temp, b"\x01")
        return first, mac(temp, first + b"\x02")

    def mix(h: bytes, data: bytes) -> bytes:
        return hashlib.blake2s(h + data).digest()

    ck = b"Noise_X_25519_ChaChaPoly_BLAKE2s"
    assert len(ck) == 32  # exactly HASHLEN, so it is not hashed
    h = mix(mix(mix(ck, b"sealed"), SERVER.public), ephemeral.public)
    ck, key = derive(ck, agree(ephemeral.private, SERVER.public))
    encrypted_static = ChaCha20Poly1305(key).encrypt(bytes(12), CLIENT.public, h)
    h = mix(h, encrypted_static)
    ck, key = derive(ck, agree(CLIENT.private, SERVER.public))
    encrypted_payload = ChaCha20Poly1305(key).encrypt(bytes(12), b"body", h)
    h = mix(h, encrypted_payload)

    initiator, responder = handshake_pair(NoisePattern.X, prologue=b"sealed", ephemeral=ephemeral)
    message = initiator.write_message(b"body")

    assert message == ephemeral.public + encrypted_static + encrypted_payload
    assert initiator.handshake_hash == h
    assert responder.read_message(message) == b"body"
    first_key, _ = derive(ck, b"")
    assert initiator.split().encrypt(b"next") == ChaCha20Poly1305(first_key).encrypt(bytes(12), b"next", b"")


@pytest.mark.parametrize("pattern", PATTERNS)
@given(payload=st.binary(max_size=200))
def test_payloads_arrive_and_cost_the_stated_overhead(pattern: NoisePattern, payload: bytes) -> None:
    writer, reader = handshake_pair(pattern)
    for overhead in HANDSHAKE_OVERHEAD[pattern]:
        message = writer.write_message(payload)
        assert len(message) == overhead + len(payload)
        assert reader.read_message(message) == payload
        writer, reader = reader, writer


@pytest.mark.parametrize(
    ("pattern", "index"), [(p, i) for p in PATTERNS for i in range(len(HANDSHAKE_OVERHEAD[p]))]
)
@given(data=st.data())
def test_one_flipped_bit_ends_the_handshake(pattern: NoisePattern, index: int, data: st.DataObject) -> None:
    writer, reader = handshake_pair(pattern)
    for _ in range(index):
        reader.read_message(writer.write_message(b"payload"))
        writer, reader = reader, writer
    message = bytearray(writer.write_message(b"payload"))
    # X25519 ignores the top bit of a public key, but the hash covers it: refused as well.
    bit = data.draw(st.integers(min_value=0, max_value=len(message) * 8 - 1))
    message[bit // 8] ^= 1 << bit % 8
    with pytest.raises(NoiseError):
        reader.read_message(bytes(message))
    with pytest.raises(NoiseError, match="failed"):
        reader.read_message(bytes(message))
    with pytest.raises(NoiseError, match="failed"):
        reader.write_message()
    with pytest.raises(NoiseError):
        reader.split()


@pytest.mark.parametrize("pattern", PATTERNS)
@given(message=st.binary(max_size=200))
def test_garbage_is_refused_with_a_noise_error(pattern: NoisePattern, message: bytes) -> None:
    _, responder = handshake_pair(pattern)
    with pytest.raises(NoiseError):
        responder.read_message(message)
    assert responder.remote_static is None


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("point", SMALL_ORDER, ids=bytes.hex)
def test_an_ephemeral_key_of_small_order_is_refused(pattern: NoisePattern, point: bytes) -> None:
    _, responder = handshake_pair(pattern)
    with pytest.raises(NoiseError):
        responder.read_message(point + bytes(64))


@pytest.mark.parametrize("point", SMALL_ORDER, ids=bytes.hex)
def test_a_server_key_of_small_order_is_refused(point: bytes) -> None:
    initiator = NoiseHandshake(
        pattern=NoisePattern.XK, initiator=True, prologue=b"", static=CLIENT, remote_static=point
    )
    with pytest.raises(NoiseError):
        initiator.write_message()
    with pytest.raises(NoiseError, match="failed"):
        initiator.write_message()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_server_tries_its_keys_one_after_the_other(pattern: NoisePattern) -> None:
    initiator, right = handshake_pair(pattern)
    message = initiator.write_message()
    retired = StaticKeyPair.from_private(b"old server key".ljust(32))
    wrong = NoiseHandshake(pattern=pattern, initiator=False, prologue=b"commucat", static=retired)
    with pytest.raises(NoiseError):
        wrong.read_message(message)
    right.read_message(message)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_prologues_must_agree(pattern: NoisePattern) -> None:
    initiator, _ = handshake_pair(pattern)
    _, responder = handshake_pair(pattern, prologue=b"commucat2")
    with pytest.raises(NoiseError):
        responder.read_message(initiator.write_message())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_responder_can_insist_on_the_announced_static_key(pattern: NoisePattern) -> None:
    initiator, responder = handshake_pair(pattern, expected_client=CLIENT.public)
    run_handshake(initiator, responder, pattern)
    assert responder.is_complete

    initiator, responder = handshake_pair(pattern, expected_client=SERVER.public)
    with pytest.raises(NoiseError, match="another static key"):
        run_handshake(initiator, responder, pattern)
    assert not responder.is_complete
    assert responder.remote_static is None


def test_xk_delivers_the_client_key_with_the_last_message_only() -> None:
    initiator, responder = handshake_pair(NoisePattern.XK)
    responder.read_message(initiator.write_message())
    initiator.read_message(responder.write_message())
    assert responder.remote_static is None
    responder.read_message(initiator.write_message())
    assert responder.remote_static == CLIENT.public


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_call_out_of_turn_changes_nothing(pattern: NoisePattern) -> None:
    initiator, responder = handshake_pair(pattern)
    with pytest.raises(NoiseError, match="turn"):
        responder.write_message()
    with pytest.raises(NoiseError, match="turn"):
        initiator.read_message(bytes(100))
    with pytest.raises(NoiseError, match="not complete"):
        initiator.split()
    run_handshake(initiator, responder, pattern)
    with pytest.raises(NoiseError, match="complete"):
        initiator.write_message()
    with pytest.raises(NoiseError, match="complete"):
        responder.read_message(bytes(100))
    initiator.split()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_handshake_splits_once(pattern: NoisePattern) -> None:
    initiator, responder = handshake_pair(pattern)
    run_handshake(initiator, responder, pattern)
    initiator.split()
    with pytest.raises(NoiseError, match="already"):
        initiator.split()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_longest_payload_passes_and_a_longer_one_changes_nothing(pattern: NoisePattern) -> None:
    initiator, responder = handshake_pair(pattern)
    longest = MAX_NOISE_MESSAGE - HANDSHAKE_OVERHEAD[pattern][0]
    with pytest.raises(NoiseError):
        initiator.write_message(bytes(longest + 1))
    message = initiator.write_message(bytes(longest))
    assert len(message) == MAX_NOISE_MESSAGE
    with pytest.raises(NoiseError, match="length"):
        handshake_pair(pattern)[1].read_message(message + b"\0")
    assert responder.read_message(message) == bytes(longest)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ephemeral_keys_are_fresh(pattern: NoisePattern) -> None:
    assert handshake_pair(pattern)[0].write_message() != handshake_pair(pattern)[0].write_message()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_missing_or_malformed_keys_are_refused(pattern: NoisePattern) -> None:
    for initiator, static, remote in (
        (True, None, SERVER.public),
        (False, None, None),
        (True, CLIENT, None),
        (True, CLIENT, bytes(31)),
        (False, SERVER, bytes(33)),
    ):
        with pytest.raises(NoiseError):
            NoiseHandshake(
                pattern=pattern, initiator=initiator, prologue=b"", static=static, remote_static=remote
            )


def library_objects() -> int:
    return sum(isinstance(thing, HandshakeState | SymmetricState) for thing in gc.get_objects())


def accept() -> None:
    initiator, responder = handshake_pair(NoisePattern.XK)
    run_handshake(initiator, responder, NoisePattern.XK)
    initiator.split()
    responder.split()


def refuse() -> None:
    # Built alone: an initiator that is given up in mid-handshake does leave a cycle.
    responder = NoiseHandshake(pattern=NoisePattern.XK, initiator=False, prologue=b"", static=SERVER)
    with pytest.raises(NoiseError):
        responder.read_message(b"\x09" * 48)


def refuse_length() -> None:
    responder = NoiseHandshake(pattern=NoisePattern.XK, initiator=False, prologue=b"", static=SERVER)
    with pytest.raises(NoiseError):
        responder.read_message(b"")


@pytest.mark.parametrize("end", [accept, refuse, refuse_length])
def test_a_handshake_that_ended_leaves_nothing_to_the_cycle_collector(end: Callable[[], None]) -> None:
    end()
    gc.collect()
    gc.disable()
    try:
        before = library_objects()
        end()
        assert library_objects() == before
    finally:
        gc.enable()
