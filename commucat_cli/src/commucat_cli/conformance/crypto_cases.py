"""Runs the CCP-1 test vectors for cryptography against commucat_crypto.

A vector file is a JSON object with ``cases``. Each runner takes the whole document
and one case, and raises :class:`ConformanceFailure` when our code disagrees with the
case or when the case is of a kind the runner does not know: a case is never skipped.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from commucat_crypto import (
    DeviceCertificate,
    DeviceKeyPair,
    HandshakeProof,
    StaticKeyPair,
    challenge,
    handshake_context,
    is_proper_public_key,
    prove_handshake,
    verify_context,
    verify_handshake,
    verify_signature,
)

from .crypto_expectations import (
    Case,
    expect,
    expect_error,
    expect_hex,
    expect_success,
    reporting,
    require_fields,
)
from .failure import ConformanceFailure
from .noise_cases import run_noise
from .pq_cases import run_pq_hybrid


def run_device_keys(_document: Case, case: Case) -> None:
    """Key derivation from a seed, scalar, signature; or the refusal of a short seed."""
    seed = bytes.fromhex(case["seed_hex"])
    if "error" in case:
        require_fields(case, "seed_hex error")
        expect_error(case["error"], lambda: DeviceKeyPair.from_seed(seed))
        return
    require_fields(
        case,
        "seed_hex private_hex public_hex scalar_mod_l_hex message_hex signature_hex "
        "x25519_public_of_private_hex",
    )
    pair = DeviceKeyPair.from_seed(seed)
    message = bytes.fromhex(case["message_hex"])
    expect_hex("private", pair.private, case["private_hex"])
    expect_hex("public", pair.public, case["public_hex"])
    expect_hex("scalar", pair.scalar(), case["scalar_mod_l_hex"])
    expect_hex("signature", pair.sign(message), case["signature_hex"])
    expect_success(lambda: verify_signature(pair.public, message, bytes.fromhex(case["signature_hex"])))
    expect("proper public key", is_proper_public_key(pair.public), True)
    x25519 = StaticKeyPair.from_private(pair.private)
    expect_hex("X25519 public", x25519.public, case["x25519_public_of_private_hex"])


def run_certificates(document: Case, case: Case) -> None:
    """Canonical bytes, signature, issuing and wire form of device certificates."""
    expect("valid", type(case["valid"]), bool)
    authority = bytes.fromhex(case["authority_hex"])
    if not case["valid"] and "wire" in case:
        require_fields(case, "valid error authority_hex wire")
        expect_error(case["error"], lambda: DeviceCertificate.from_wire(json.loads(case["wire"])))
        return
    if not case["valid"]:
        require_fields(case, "valid error authority_hex data signature_hex")
        refused = _certificate(case)
        expect_error(case["error"], lambda: refused.verify(authority))
        return
    texts = [name for name in ("wire", "wire_sorted", "wire_declared_order") if name in case]
    require_fields(
        case, "valid data canonical_hex authority_hex signature_hex", "canonical_text " + " ".join(texts)
    )
    if not texts:
        raise ConformanceFailure("a valid case needs a wire form")
    certificate = _certificate(case)
    expect_hex("canonical bytes", certificate.canonical_bytes(), case["canonical_hex"])
    if "canonical_text" in case:
        expect("canonical text", certificate.canonical_bytes().decode(), case["canonical_text"])
    expect_success(lambda: certificate.verify(authority))
    for name in texts:
        parsed = json.loads(case[name])
        expect(name, DeviceCertificate.from_wire(parsed), certificate)
    members = {**case["data"], "signature": case["signature_hex"]}
    expect("wire members", certificate.to_wire(), members)
    issuers = [
        DeviceKeyPair.from_seed(bytes.fromhex(document[name])) for name in ("ca_seed_hex", "device_seed_hex")
    ]
    [issuer] = [pair for pair in issuers if pair.public == certificate.issuer]
    issued = DeviceCertificate.issue(
        issuer,
        serial=certificate.serial,
        user_id=certificate.user_id,
        device_id=certificate.device_id,
        public_key=certificate.public_key,
        issued_at=certificate.issued_at,
        expires_at=certificate.expires_at,
    )
    expect("issued certificate", issued, certificate)


def _certificate(case: Case) -> DeviceCertificate:
    data = case["data"]
    return DeviceCertificate(
        serial=data["serial"],
        user_id=data["user_id"],
        device_id=data["device_id"],
        public_key=bytes.fromhex(data["public_key"]),
        issuer=bytes.fromhex(data["issuer"]),
        issued_at=data["issued_at"],
        expires_at=data["expires_at"],
        signature=bytes.fromhex(case["signature_hex"]),
    )


def run_zkp(_document: Case, case: Case) -> None:
    """Handshake proofs: exact values for valid cases, refusal for all others.

    ``reference_accepts`` marks invalid proofs that a lenient verifier takes; ours is strict.
    """
    device_public = bytes.fromhex(case["device_public_hex"])
    context = bytes.fromhex(case["context_hex"])
    proof = HandshakeProof.from_wire({"commitment": case["commitment_hex"], "response": case["response_hex"]})
    if case["valid"] is False:
        require_fields(
            case, "valid device_public_hex context_hex commitment_hex response_hex reference_accepts"
        )
        expect_error("Proof", lambda: verify_context(proof, context=context, device_public=device_public))
        return
    require_fields(
        case,
        "valid domain device_id seed_hex device_public_hex client_static_hex context_hex randomness_hex "
        "challenge_hex commitment_hex response_hex",
    )
    expect("valid", case["valid"], True)
    pair = DeviceKeyPair.from_seed(bytes.fromhex(case["seed_hex"]))
    expect("device public", pair.public, device_public)
    client_static = bytes.fromhex(case["client_static_hex"])
    domain, device_id = case["domain"], case["device_id"]
    computed_context = handshake_context(
        domain=domain, device_id=device_id, device_public=device_public, client_static=client_static
    )
    expect("context", computed_context, context)
    c = challenge(context=context, device_public=device_public, commitment=proof.commitment)
    expect_hex("challenge", c, case["challenge_hex"])
    made = prove_handshake(
        pair,
        domain=domain,
        device_id=device_id,
        client_static=client_static,
        randomness=bytes.fromhex(case["randomness_hex"]),
    )
    expect("proof", made, proof)
    expect_success(
        lambda: verify_handshake(
            proof,
            domain=domain,
            device_id=device_id,
            device_public=device_public,
            client_static=client_static,
        )
    )


RUNNERS: Final[dict[str, Callable[[dict[str, Any], dict[str, Any]], None]]] = {
    "device_keys": reporting(run_device_keys),
    "certificates": reporting(run_certificates),
    "zkp": reporting(run_zkp),
    "noise": reporting(run_noise),
    "pq_hybrid": reporting(run_pq_hybrid),
}
"""Runner of each vector file, by the file's name without ``.json``."""
