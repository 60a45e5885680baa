"""Runs the CCP-1 test vectors for the post-quantum hybrid.

The cryptography library takes no fixed randomness for ML-KEM encapsulation, signs with
ML-DSA in the hedged variant only, and hands out no expanded ML-KEM key. So the SHA-256
digests of such outputs in the file are not computed here. What stands in for them: the
shared secret is recomputed from the given m as FIPS 203, algorithm 17 does, ciphertexts
that are given are decapsulated, and a signature of our own is verified.
"""

import hashlib
from typing import Final

from commucat_crypto import (
    HybridRole,
    HybridSession,
    KemKeyPair,
    PqSigningKeyPair,
    combine_secrets,
    derive_key_material,
    derive_message_key,
    encapsulate,
    verify_pq_signature,
)

from .crypto_expectations import Case, expect, expect_error, expect_hex, expect_success, require_fields
from .failure import ConformanceFailure

_SESSION_FIELDS: Final = (
    "d_hex z_hex encapsulation_key_hex decapsulation_key_sha256 decapsulation_key_length m_hex "
    "ciphertext_hex kem_shared_hex classical_hex combined_hex okm_hex root_key_hex initiator_sending_hex "
    "initiator_receiving_hex initiator_message_keys_hex responder_message_keys_hex ratchet implicit_rejection"
)


def run_pq_hybrid(document: Case, case: Case) -> None:
    """Session with ratchet, key derivation, message key, refused material, or signature."""
    for marker, run in (
        ("m_hex", _run_session),
        ("okm_hex", _run_derivation),
        ("chain_hex", _run_message_key),
        ("combined_length", _run_refused_material),
        ("xi_hex", _run_signature),
    ):
        if marker in case:
            run(document, case)
            return
    raise ConformanceFailure(f"unknown kind of case: has {sorted(case)}")


def _run_session(document: Case, case: Case) -> None:
    require_fields(case, _SESSION_FIELDS)
    keys = KemKeyPair.from_seed(bytes.fromhex(case["d_hex"] + case["z_hex"]))
    ciphertext = bytes.fromhex(case["ciphertext_hex"])
    shared = keys.decapsulate(ciphertext)
    expect_hex("encapsulation key", keys.encapsulation_key, case["encapsulation_key_hex"])
    expect("decapsulation key length", case["decapsulation_key_length"], 2_400)
    expect_hex("shared secret", shared, case["kem_shared_hex"])
    expect_hex("shared secret of m", _shared_secret(keys, case["m_hex"]), case["kem_shared_hex"])
    fresh = encapsulate(keys.encapsulation_key)
    expect("shared secret of a fresh ciphertext", keys.decapsulate(fresh.ciphertext), fresh.shared_secret)
    _run_implicit_rejection(keys, ciphertext, case["implicit_rejection"])

    combined = combine_secrets(bytes.fromhex(case["classical_hex"]), shared)
    expect_hex("combined", combined, case["combined_hex"])
    material = derive_key_material(combined, info=document["session_info"].encode())
    expect_hex("key material", material, case["okm_hex"])
    expect_hex("root key", material[:32], case["root_key_hex"])
    expect_hex("first chain", material[32:64], case["initiator_sending_hex"])
    expect_hex("second chain", material[64:], case["initiator_receiving_hex"])
    initiator = HybridSession(combined, HybridRole.INITIATOR)
    responder = HybridSession(combined, HybridRole.RESPONDER)
    for expected in case["initiator_message_keys_hex"]:
        expect_hex("initiator's message key", initiator.next_sending_key(), expected)
        expect_hex("initiator's message key at the responder", responder.next_receiving_key(), expected)
    for expected in case["responder_message_keys_hex"]:
        expect_hex("responder's message key", responder.next_sending_key(), expected)
        expect_hex("responder's message key at the initiator", initiator.next_receiving_key(), expected)
    _run_ratchet(document, keys, bytes.fromhex(case["root_key_hex"]), (initiator, responder), case["ratchet"])


def _shared_secret(keys: KemKeyPair, m_hex: str) -> bytes:
    """K of FIPS 203, algorithm 17: the first half of G(m | H(ek))."""
    digest = hashlib.sha3_256(keys.encapsulation_key).digest()
    return hashlib.sha3_512(bytes.fromhex(m_hex) + digest).digest()[:32]


def _run_implicit_rejection(keys: KemKeyPair, ciphertext: bytes, rejection: Case) -> None:
    require_fields(rejection, "ciphertext_first_byte_xor kem_shared_hex")
    damaged = bytes([ciphertext[0] ^ rejection["ciphertext_first_byte_xor"]]) + ciphertext[1:]
    expect_hex("secret of a damaged ciphertext", keys.decapsulate(damaged), rejection["kem_shared_hex"])


def _run_ratchet(
    document: Case, keys: KemKeyPair, root: bytes, peers: tuple[HybridSession, HybridSession], ratchet: Case
) -> None:
    require_fields(
        ratchet,
        "m_hex ciphertext_sha256 kem_shared_hex classical_hex root_key_hex initiator_sending_hex "
        "initiator_receiving_hex initiator_first_key_hex",
    )
    shared = _shared_secret(keys, ratchet["m_hex"])
    expect_hex("ratchet's shared secret", shared, ratchet["kem_shared_hex"])
    combined = combine_secrets(bytes.fromhex(ratchet["classical_hex"]), shared)
    material = derive_key_material(combined, salt=root, info=document["ratchet_info"].encode())
    expect_hex("ratchet's root key", material[:32], ratchet["root_key_hex"])
    expect_hex("ratchet's first chain", material[32:64], ratchet["initiator_sending_hex"])
    expect_hex("ratchet's second chain", material[64:], ratchet["initiator_receiving_hex"])
    initiator, responder = peers
    initiator.ratchet(combined, HybridRole.INITIATOR)
    responder.ratchet(combined, HybridRole.RESPONDER)
    expect_hex("first key", initiator.next_sending_key(), ratchet["initiator_first_key_hex"])
    expect_hex(
        "first key at the responder", responder.next_receiving_key(), ratchet["initiator_first_key_hex"]
    )
    expected = derive_message_key(bytes.fromhex(ratchet["initiator_receiving_hex"]), 0)
    expect("responder's first key", responder.next_sending_key(), expected)
    expect("responder's first key at the initiator", initiator.next_receiving_key(), expected)


def _run_derivation(_document: Case, case: Case) -> None:
    require_fields(case, "salt_hex info_hex combined_hex okm_hex")
    salt, info = bytes.fromhex(case["salt_hex"]), bytes.fromhex(case["info_hex"])
    material = derive_key_material(bytes.fromhex(case["combined_hex"]), salt=salt, info=info)
    expect_hex("key material", material, case["okm_hex"])


def _run_message_key(_document: Case, case: Case) -> None:
    require_fields(case, "chain_hex counter message_key_hex")
    key = derive_message_key(bytes.fromhex(case["chain_hex"]), case["counter"])
    expect_hex("message key", key, case["message_key_hex"])


def _run_refused_material(_document: Case, case: Case) -> None:
    require_fields(case, "combined_length error")
    combined = bytes(case["combined_length"])
    expect_error(case["error"], lambda: derive_key_material(combined))
    expect_error(case["error"], lambda: HybridSession(combined, HybridRole.INITIATOR))


def _run_signature(_document: Case, case: Case) -> None:
    require_fields(
        case, "xi_hex verifying_key_sha256 verifying_key_length message_hex signature_sha256 signature_length"
    )
    keys = PqSigningKeyPair.from_seed(bytes.fromhex(case["xi_hex"]))
    digest = hashlib.sha256(keys.verifying_key).digest()
    expect("verifying key length", len(keys.verifying_key), case["verifying_key_length"])
    expect_hex("verifying key digest", digest, case["verifying_key_sha256"])
    message = bytes.fromhex(case["message_hex"])
    signature = keys.sign(message)
    expect("signature length", len(signature), case["signature_length"])
    expect_success(lambda: verify_pq_signature(keys.verifying_key, message, signature))
