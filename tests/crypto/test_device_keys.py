"""Device keys, conversion to X25519 and Ed25519 signatures."""

import nacl.bindings as sodium
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_crypto import (
    DeviceKeyPair,
    InvalidKeyError,
    SignatureError,
    StaticKeyPair,
    agreement_public,
    is_proper_public_key,
    sign_event,
    verify_event,
    verify_signature,
)

KEYS = st.binary(min_size=32, max_size=32)
ORDER = 2**252 + 27742317777372353535851937790883648493
PRIME = 2**255 - 19

# Canonical encodings of the eight points of small order, then other spellings of them
# (y >= p, and x = 0 with the sign bit set).
IMPROPER_POINTS = [
    (1).to_bytes(32, "little"),
    (PRIME - 1).to_bytes(32, "little"),
    bytes(32),
    bytes(31) + b"\x80",
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
    PRIME.to_bytes(32, "little"),
    (PRIME + 1).to_bytes(32, "little"),
    bytes([1]) + bytes(30) + b"\x80",
    b"\xff" * 32,
    # y = 2 is on no point of the curve.
    bytes([2]) + bytes(31),
]


def with_order_8_part(public: bytes) -> bytes:
    """Add a point of order 8 to an honest key."""
    return sodium.crypto_core_ed25519_add(public, IMPROPER_POINTS[4])


@pytest.mark.parametrize(
    ("private", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
    ids=["test_1", "test_2"],
)
def test_signatures_of_rfc_8032_section_7_1(private: str, public: str, message: str, signature: str) -> None:
    pair = DeviceKeyPair.from_private(bytes.fromhex(private))
    assert pair.public.hex() == public
    assert pair.sign(bytes.fromhex(message)).hex() == signature
    verify_signature(pair.public, bytes.fromhex(message), bytes.fromhex(signature))


@pytest.mark.parametrize(
    ("private", "public"),
    [
        (
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        ),
        (
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        ),
    ],
    ids=["alice", "bob"],
)
def test_x25519_keys_of_rfc_7748_section_6_1(private: str, public: str) -> None:
    assert StaticKeyPair.from_private(bytes.fromhex(private)).public.hex() == public


@given(private=KEYS, message=st.binary(max_size=300))
def test_what_is_signed_verifies(private: bytes, message: bytes) -> None:
    pair = DeviceKeyPair.from_private(private)
    verify_signature(pair.public, message, pair.sign(message))
    assert is_proper_public_key(pair.public)


@given(bit=st.integers(min_value=0, max_value=511))
def test_a_signature_with_one_bit_flipped_is_refused(bit: int) -> None:
    pair = DeviceKeyPair.from_seed(bytes(32))
    signature = bytearray(pair.sign(b"message"))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        verify_signature(pair.public, b"message", bytes(signature))


@given(bit=st.integers(min_value=0, max_value=255))
def test_a_signature_under_a_public_key_with_one_bit_flipped_is_refused(bit: int) -> None:
    pair = DeviceKeyPair.from_seed(bytes(32))
    public = bytearray(pair.public)
    public[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        verify_signature(bytes(public), b"message", pair.sign(b"message"))


@given(public=st.binary(max_size=40), signature=st.binary(max_size=70))
def test_garbage_is_refused_with_a_signature_error(public: bytes, signature: bytes) -> None:
    with pytest.raises(SignatureError):
        verify_signature(public, b"message", signature)


def test_a_signature_whose_s_is_not_reduced_is_refused() -> None:
    pair = DeviceKeyPair.from_seed(bytes(32))
    signature = pair.sign(b"message")
    s = int.from_bytes(signature[32:], "little") + ORDER
    with pytest.raises(SignatureError):
        verify_signature(pair.public, b"message", signature[:32] + s.to_bytes(32, "little"))


@pytest.mark.parametrize("public", IMPROPER_POINTS, ids=bytes.hex)
def test_improper_points_are_no_public_keys(public: bytes) -> None:
    assert not is_proper_public_key(public)
    with pytest.raises(InvalidKeyError):
        agreement_public(public)


@pytest.mark.parametrize("public", IMPROPER_POINTS, ids=bytes.hex)
def test_nothing_verifies_under_an_improper_point(public: bytes) -> None:
    # R = B and s = 1 satisfy the bare equation whenever c*A vanishes.
    base = sodium.crypto_scalarmult_ed25519_base_noclamp((1).to_bytes(32, "little"))
    with pytest.raises(SignatureError):
        verify_signature(public, b"message", base + (1).to_bytes(32, "little"))


def test_a_key_with_a_small_order_part_is_no_public_key() -> None:
    mixed = with_order_8_part(DeviceKeyPair.from_seed(bytes(32)).public)
    assert not is_proper_public_key(mixed)
    with pytest.raises(InvalidKeyError):
        agreement_public(mixed)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_public_key_of_wrong_length_is_improper(length: int) -> None:
    assert not is_proper_public_key(bytes(length))


@given(private=KEYS)
def test_both_halves_of_the_conversion_to_x25519_match(private: bytes) -> None:
    pair = DeviceKeyPair.from_private(private)
    converted = StaticKeyPair.from_private(pair.agreement_private())
    assert converted.public == agreement_public(pair.public)
    assert pair.agreement_private() == sodium.crypto_sign_ed25519_sk_to_curve25519(private + pair.public)


@given(private=KEYS)
def test_the_scalar_times_the_base_point_is_the_public_key(private: bytes) -> None:
    pair = DeviceKeyPair.from_private(private)
    assert sodium.crypto_scalarmult_ed25519_base_noclamp(pair.scalar()) == pair.public
    assert int.from_bytes(pair.scalar(), "little") < ORDER


@pytest.mark.parametrize("length", [0, 1, 31])
def test_a_short_seed_is_refused(length: int) -> None:
    with pytest.raises(InvalidKeyError):
        DeviceKeyPair.from_seed(bytes(length))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_private_keys_of_wrong_length_are_refused(length: int) -> None:
    with pytest.raises(InvalidKeyError):
        DeviceKeyPair.from_private(bytes(length))
    with pytest.raises(InvalidKeyError):
        StaticKeyPair.from_private(bytes(length))


def test_generated_pairs_differ_and_hide_their_private_key() -> None:
    for kind in (DeviceKeyPair, StaticKeyPair):
        first, second = kind.generate(), kind.generate()
        assert first.public != second.public
        assert first.private.hex() not in repr(first)
        assert repr(first.private) not in repr(first)
        assert kind.from_private(first.private) == first


def test_event_signatures_cover_the_digest() -> None:
    pair = DeviceKeyPair.from_seed(b"f" * 32)
    digest = bytes(range(32))
    signature = sign_event(pair, digest)
    assert signature == pair.sign(digest)
    verify_event(pair.public, digest, signature)
    with pytest.raises(SignatureError):
        verify_event(pair.public, bytes(32), signature)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_an_event_digest_of_wrong_length_is_refused(length: int) -> None:
    pair = DeviceKeyPair.from_seed(b"f" * 32)
    with pytest.raises(SignatureError):
        sign_event(pair, bytes(length))
    with pytest.raises(SignatureError):
        verify_event(pair.public, bytes(length), pair.sign(bytes(length)))
