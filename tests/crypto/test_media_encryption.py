"""Encrypted media packets: known answers, one bit flipped, repeated and late packets."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt

from commucat_crypto import (
    MEDIA_HEADER_LEN,
    MEDIA_KEY_LEN,
    MEDIA_TAG_LEN,
    InvalidKeyError,
    MediaDecryptionError,
    MediaDecryptor,
    MediaEncryptor,
    MediaReplayError,
)
from commucat_crypto.media_encryption import MAX_STREAMS, REPLAY_WINDOW

KEY = bytes(range(MEDIA_KEY_LEN))


def header_of(number: int, stream: int = 0x01020304, timestamp: int = 0) -> bytes:
    """As of an encrypted Opus packet (docs/protocol.md, "Media packet")."""
    return bytes((2, 0, 0, 0b10, 23)) + struct.pack(">III", stream, number, timestamp)


def test_it_is_the_documented_cipher_as_another_library_computes_it() -> None:
    header = header_of(7, timestamp=6720)
    nonce = bytes.fromhex("010203040000000700000000")
    expected = crypto_aead_chacha20poly1305_ietf_encrypt(b"a voice", header, nonce, KEY)
    assert MediaEncryptor(KEY).encrypt(header, b"a voice") == expected
    assert MediaDecryptor(KEY).decrypt(header, expected) == b"a voice"


def test_the_example_of_the_protocol() -> None:
    """Computed with libsodium and with OpenSSL; stands in docs/protocol.md."""
    header = bytes.fromhex("0200000217010203040000000700001a40")
    assert header == header_of(7, timestamp=6720)
    encrypted = MediaEncryptor(KEY).encrypt(header, bytes.fromhex("f8fffe"))
    assert encrypted.hex() == "691d29dc634c74e0679688bc970ccae941e9bd"


@given(data=st.binary(max_size=300), stream=st.integers(0, 2**32 - 1), number=st.integers(0, 2**32 - 1))
def test_round_trip(data: bytes, stream: int, number: int) -> None:
    header = header_of(number, stream)
    encrypted = MediaEncryptor(KEY).encrypt(header, data)
    assert len(encrypted) == len(data) + MEDIA_TAG_LEN
    assert MediaDecryptor(KEY).decrypt(header, encrypted) == data


@given(bit=st.integers(0, 8 * (MEDIA_HEADER_LEN + 5 + MEDIA_TAG_LEN) - 1))
def test_one_bit_flipped_anywhere_is_noticed(bit: int) -> None:
    header = header_of(3)
    packet = bytearray(header + MediaEncryptor(KEY).encrypt(header, b"voice"))
    packet[bit // 8] ^= 1 << bit % 8
    decryptor = MediaDecryptor(KEY)
    with pytest.raises(MediaDecryptionError):
        decryptor.decrypt(bytes(packet[:MEDIA_HEADER_LEN]), bytes(packet[MEDIA_HEADER_LEN:]))
    assert decryptor.decrypt(header, MediaEncryptor(KEY).encrypt(header, b"voice")) == b"voice"


def test_a_sender_never_uses_a_number_twice() -> None:
    encryptor = MediaEncryptor(KEY)
    encryptor.encrypt(header_of(5), b"")
    for number in (5, 4, 0):
        with pytest.raises(ValueError, match="used once"):
            encryptor.encrypt(header_of(number), b"")
    encryptor.encrypt(header_of(0, stream=9), b"")


@given(
    order=st.lists(
        st.integers(0, 40) | st.integers(2**32 - 2000, 2**32 - 1) | st.integers(0, 3000), max_size=60
    )
)
def test_each_packet_is_taken_once_and_none_that_is_too_old(order: list[int]) -> None:
    decryptor = MediaDecryptor(KEY)
    taken: set[int] = set()
    for number in order:
        header = header_of(number)
        encrypted = MediaEncryptor(KEY).encrypt(header, b"x")
        if number in taken or (taken and number <= max(taken) - REPLAY_WINDOW):
            with pytest.raises(MediaReplayError):
                decryptor.decrypt(header, encrypted)
        else:
            assert decryptor.decrypt(header, encrypted) == b"x"
            taken.add(number)


def test_forged_packets_use_up_neither_numbers_nor_streams() -> None:
    decryptor = MediaDecryptor(KEY)
    for stream in range(10 * MAX_STREAMS):
        with pytest.raises(MediaDecryptionError):
            decryptor.decrypt(header_of(0, stream), bytes(20))
    encryptor = MediaEncryptor(KEY)
    for stream in range(MAX_STREAMS):
        header = header_of(0, stream)
        assert decryptor.decrypt(header, encryptor.encrypt(header, b"x")) == b"x"
    with pytest.raises(MediaDecryptionError, match="streams"):
        decryptor.decrypt(header_of(0, MAX_STREAMS), encryptor.encrypt(header_of(0, MAX_STREAMS), b"x"))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_have_32_bytes(length: int) -> None:
    with pytest.raises(InvalidKeyError):
        MediaEncryptor(bytes(length))
    with pytest.raises(InvalidKeyError):
        MediaDecryptor(bytes(length))


@pytest.mark.parametrize("length", [0, MEDIA_HEADER_LEN - 1, MEDIA_HEADER_LEN + 1])
def test_headers_have_17_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="17 bytes"):
        MediaEncryptor(KEY).encrypt(bytes(length), b"")
    with pytest.raises(ValueError, match="17 bytes"):
        MediaDecryptor(KEY).decrypt(bytes(length), bytes(16))
