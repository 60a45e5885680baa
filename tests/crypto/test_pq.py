"""ML-KEM-768, ML-DSA-65 and prekey bundles, against a second implementation and the vectors."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commucat_crypto import (
    DeviceKeyPair,
    InvalidKeyError,
    KemKeyPair,
    PqDecapsulationError,
    PqEncapsulationError,
    PqSignatureError,
    PqSigningKeyPair,
    PrekeyBundle,
    check_expanded_key,
    encapsulate,
    verify_pq_signature,
)
from crypto.fips203_reference import encapsulate_with, expand_key
from crypto.fips204_reference import sign_deterministically

VECTORS = Path(__file__).parents[1] / "vectors" / "pq_hybrid.json"
CASES: dict[str, dict[str, Any]] = {
    case["name"]: case for case in json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
}
SESSIONS = [case for name, case in CASES.items() if name.startswith("session_")]
KEM = KemKeyPair.from_seed(bytes(range(64)))
SIGNING = PqSigningKeyPair.from_seed(bytes(range(32)))


def seed_of(case: dict[str, Any]) -> bytes:
    return bytes.fromhex(case["d_hex"] + case["z_hex"])


@pytest.mark.parametrize("case", SESSIONS, ids=lambda case: case["name"])
def test_expanded_key_of_the_vectors(case: dict[str, Any]) -> None:
    expanded = expand_key(seed_of(case))
    assert len(expanded) == case["decapsulation_key_length"]
    assert hashlib.sha256(expanded).hexdigest() == case["decapsulation_key_sha256"]
    check_expanded_key(expanded, KemKeyPair.from_seed(seed_of(case)).encapsulation_key)


@pytest.mark.parametrize("case", SESSIONS, ids=lambda case: case["name"])
def test_encapsulation_of_the_vectors(case: dict[str, Any]) -> None:
    keys = KemKeyPair.from_seed(seed_of(case))
    shared, ciphertext = encapsulate_with(keys.encapsulation_key, bytes.fromhex(case["m_hex"]))
    assert ciphertext.hex() == case["ciphertext_hex"]
    assert keys.decapsulate(ciphertext) == shared


@pytest.mark.parametrize("case", SESSIONS, ids=lambda case: case["name"])
def test_ratchet_ciphertext_of_the_vectors(case: dict[str, Any]) -> None:
    ratchet = case["ratchet"]
    keys = KemKeyPair.from_seed(seed_of(case))
    shared, ciphertext = encapsulate_with(keys.encapsulation_key, bytes.fromhex(ratchet["m_hex"]))
    assert hashlib.sha256(ciphertext).hexdigest() == ratchet["ciphertext_sha256"]
    assert keys.decapsulate(ciphertext) == shared
    assert shared.hex() == ratchet["kem_shared_hex"]


def test_deterministic_signature_of_the_vectors_verifies() -> None:
    case = CASES["ml_dsa_65_deterministic_empty_context"]
    xi, message = bytes.fromhex(case["xi_hex"]), bytes.fromhex(case["message_hex"])
    verifying_key, signature = sign_deterministically(xi, message)
    assert hashlib.sha256(signature).hexdigest() == case["signature_sha256"]
    assert verifying_key == PqSigningKeyPair.from_seed(xi).verifying_key
    verify_pq_signature(verifying_key, message, signature)


@settings(max_examples=10)
@given(seed=st.binary(min_size=64, max_size=64), m=st.binary(min_size=32, max_size=32))
def test_both_implementations_of_ml_kem_agree(seed: bytes, m: bytes) -> None:
    keys = KemKeyPair.from_seed(seed)
    assert expand_key(seed)[1152:2336] == keys.encapsulation_key
    shared, ciphertext = encapsulate_with(keys.encapsulation_key, m)
    assert keys.decapsulate(ciphertext) == shared


@given(seed=st.binary(min_size=64, max_size=64))
def test_what_is_encapsulated_decapsulates(seed: bytes) -> None:
    keys = KemKeyPair.from_seed(seed)
    made = encapsulate(keys.encapsulation_key)
    assert len(made.ciphertext) == 1088
    assert keys.decapsulate(made.ciphertext) == made.shared_secret
    assert made.shared_secret.hex() not in repr(made)


@given(bit=st.integers(min_value=0, max_value=1088 * 8 - 1))
def test_a_damaged_ciphertext_gives_another_secret(bit: int) -> None:
    made = encapsulate(KEM.encapsulation_key)
    ciphertext = bytearray(made.ciphertext)
    ciphertext[bit // 8] ^= 1 << bit % 8
    assert KEM.decapsulate(bytes(ciphertext)) != made.shared_secret


@pytest.mark.parametrize("length", [0, 1087, 1089])
def test_a_ciphertext_of_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(PqDecapsulationError):
        KEM.decapsulate(bytes(length))


@pytest.mark.parametrize(
    "key", [b"", bytes(1183), bytes(1185), b"\xff" * 1184], ids=["0", "1183", "1185", "ff"]
)
def test_an_unusable_encapsulation_key_is_refused(key: bytes) -> None:
    with pytest.raises(PqEncapsulationError):
        encapsulate(key)


@pytest.mark.parametrize("length", [0, 32, 63, 65, 2400])
def test_seeds_of_wrong_length_are_refused(length: int) -> None:
    with pytest.raises(InvalidKeyError):
        KemKeyPair.from_seed(bytes(length))
    if length != 32:
        with pytest.raises(InvalidKeyError):
            PqSigningKeyPair.from_seed(bytes(length))


def test_an_expanded_key_of_another_pair_is_refused() -> None:
    expanded = expand_key(KEM.seed)
    check_expanded_key(expanded, KEM.encapsulation_key)
    other = KemKeyPair.generate().encapsulation_key
    for secret, public in (
        (expanded, other),
        (expanded[:-1], KEM.encapsulation_key),
        (expanded, KEM.encapsulation_key[:-1]),
        (expanded[:1152] + other + expanded[2336:], other),
    ):
        with pytest.raises(InvalidKeyError):
            check_expanded_key(secret, public)


@settings(max_examples=20)
@given(message=st.binary(max_size=200), bit=st.integers(min_value=0, max_value=3309 * 8 - 1))
def test_signatures_verify_unless_a_bit_is_flipped(message: bytes, bit: int) -> None:
    signature = bytearray(SIGNING.sign(message))
    assert len(signature) == 3309
    verify_pq_signature(SIGNING.verifying_key, message, bytes(signature))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PqSignatureError):
        verify_pq_signature(SIGNING.verifying_key, message, bytes(signature))


@pytest.mark.parametrize(
    ("key", "signature"),
    [(b"", bytes(3309)), (SIGNING.verifying_key[:-1], bytes(3309)), (SIGNING.verifying_key, b"")],
    ids=["no key", "short key", "no signature"],
)
def test_malformed_signature_input_is_refused(key: bytes, signature: bytes) -> None:
    with pytest.raises(PqSignatureError):
        verify_pq_signature(key, b"message", signature)


def test_generated_pairs_differ_and_hide_their_seed() -> None:
    kem, other_kem = KemKeyPair.generate(), KemKeyPair.generate()
    assert kem.encapsulation_key != other_kem.encapsulation_key
    assert repr(kem.seed) not in repr(kem)
    signing, other_signing = PqSigningKeyPair.generate(), PqSigningKeyPair.generate()
    assert signing.verifying_key != other_signing.verifying_key
    assert repr(signing.seed) not in repr(signing)


def test_a_bundle_publishes_its_public_halves() -> None:
    identity = DeviceKeyPair.from_seed(bytes(32))
    bundle = PrekeyBundle.generate(identity, one_time_prekeys=3, one_time_kem_keys=2)
    public = bundle.public()
    assert public.identity == identity.public
    assert public.signed_prekey == bundle.signed_prekey.public
    assert len(set(public.one_time_prekeys)) == 3
    assert len(set(public.one_time_kem_keys)) == 2
    made = encapsulate(public.one_time_kem_keys[1])
    assert bundle.one_time_kem_keys[1].decapsulate(made.ciphertext) == made.shared_secret
    assert len(public.kem_identity_key) == 1184
    verify_pq_signature(public.verifying_key, b"m", bundle.signing.sign(b"m"))
