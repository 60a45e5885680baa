"""Noise transport messages: order, counters, limits."""

import gc

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from commucat_crypto import MAX_NOISE_MESSAGE, MAX_NOISE_PLAINTEXT, TAG_LEN, NoiseError, NoiseTransport
from crypto.noise_builders import transport_pair

KEY = bytes(range(32))


def one_way() -> tuple[NoiseTransport, NoiseTransport]:
    return NoiseTransport(send_key=KEY, receive_key=None), NoiseTransport(send_key=None, receive_key=KEY)


@given(messages=st.lists(st.tuples(st.booleans(), st.binary(max_size=100)), max_size=20))
def test_any_interleaving_of_both_directions_arrives(messages: list[tuple[bool, bytes]]) -> None:
    left, right = transport_pair()
    for to_right, plaintext in messages:
        sender, reader = (left, right) if to_right else (right, left)
        assert reader.decrypt(sender.encrypt(plaintext)) == plaintext
    assert left.sent == right.received == sum(to_right for to_right, _ in messages)
    assert right.sent == left.received == sum(not to_right for to_right, _ in messages)


def test_the_nonce_is_four_zero_bytes_and_the_little_endian_counter() -> None:
    sender, _ = one_way()
    for counter in range(300):
        nonce = bytes(4) + counter.to_bytes(8, "little")
        assert sender.encrypt(b"x") == ChaCha20Poly1305(KEY).encrypt(nonce, b"x", b"")


@given(bit=st.integers(min_value=0, max_value=(5 + TAG_LEN) * 8 - 1))
def test_a_flipped_bit_is_refused_and_does_not_advance_the_counter(bit: int) -> None:
    sender, reader = one_way()
    good = sender.encrypt(b"hello")
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    with pytest.raises(NoiseError):
        reader.decrypt(bad)
    assert reader.received == 0
    assert reader.decrypt(good) == b"hello"


def test_replayed_and_reordered_messages_are_refused() -> None:
    sender, reader = one_way()
    first, second = sender.encrypt(b"1"), sender.encrypt(b"2")
    with pytest.raises(NoiseError):
        reader.decrypt(second)
    assert reader.decrypt(first) == b"1"
    with pytest.raises(NoiseError):
        reader.decrypt(first)
    assert reader.decrypt(second) == b"2"


@given(ciphertext=st.binary(max_size=100))
def test_garbage_is_refused_with_a_noise_error(ciphertext: bytes) -> None:
    _, reader = one_way()
    with pytest.raises(NoiseError):
        reader.decrypt(ciphertext)


def test_an_empty_message_is_a_tag() -> None:
    sender, reader = one_way()
    message = sender.encrypt(b"")
    assert len(message) == TAG_LEN
    assert reader.decrypt(message) == b""


def test_the_longest_message_passes_and_a_longer_one_changes_nothing() -> None:
    sender, reader = one_way()
    with pytest.raises(NoiseError):
        sender.encrypt(bytes(MAX_NOISE_PLAINTEXT + 1))
    message = sender.encrypt(bytes(MAX_NOISE_PLAINTEXT))
    assert len(message) == MAX_NOISE_MESSAGE
    with pytest.raises(NoiseError):
        reader.decrypt(message + b"\0")
    assert reader.decrypt(message) == bytes(MAX_NOISE_PLAINTEXT)


@pytest.mark.parametrize("view", [bytes, bytearray, memoryview])
def test_any_bytes_like_object_is_taken(view: type[bytes]) -> None:
    sender, reader = one_way()
    assert reader.decrypt(view(sender.encrypt(view(b"hello")))) == b"hello"


def test_a_missing_direction_is_refused() -> None:
    sender, reader = one_way()
    with pytest.raises(NoiseError):
        sender.decrypt(bytes(16))
    with pytest.raises(NoiseError):
        reader.encrypt(b"")


def test_the_reserved_last_counter_is_never_used() -> None:
    sender, reader = one_way()
    sender._sent = reader._received = 2**64 - 2
    last = sender.encrypt(b"last")
    assert reader.decrypt(last) == b"last"
    with pytest.raises(NoiseError):
        sender.encrypt(b"one more")
    with pytest.raises(NoiseError):
        reader.decrypt(last)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(NoiseError):
        NoiseTransport(send_key=bytes(length), receive_key=None)
    with pytest.raises(NoiseError):
        NoiseTransport(send_key=None, receive_key=bytes(length))


def ciphers(transport: NoiseTransport) -> int:
    """How many the transport keeps."""
    return sum(
        type(getattr(each, "__self__", None)) is ChaCha20Poly1305 for each in gc.get_referents(transport)
    )


def test_ciphers_are_kept_only_while_they_are_used() -> None:
    left, right = transport_pair()
    assert ciphers(left) == ciphers(right) == 0
    assert right.decrypt(left.encrypt(b"1")) == b"1"
    assert ciphers(left) == ciphers(right) == 1
    left.rest()
    assert ciphers(left) == 1
    left.rest()
    right.rest()
    right.rest()
    assert ciphers(left) == ciphers(right) == 0
    assert right.decrypt(left.encrypt(b"2")) == b"2"
    assert left.decrypt(right.encrypt(b"3")) == b"3"
    assert (left.sent, left.received) == (2, 1)
