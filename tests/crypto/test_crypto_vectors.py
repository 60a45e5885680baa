"""Every case of the CCP-1 vector files for cryptography, through the runners of the command line."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from commucat_cli.conformance.crypto_cases import RUNNERS
from commucat_cli.conformance.failure import ConformanceFailure

VECTORS = Path(__file__).parents[1] / "vectors"
DOCUMENTS: dict[str, dict[str, Any]] = {
    stem: json.loads((VECTORS / f"{stem}.json").read_text(encoding="utf-8")) for stem in RUNNERS
}
CASES = [
    pytest.param(stem, case, id=f"{stem}-{case['name']}")
    for stem, document in DOCUMENTS.items()
    for case in document["cases"]
]


@pytest.mark.parametrize(("stem", "case"), CASES)
def test_vector(stem: str, case: dict[str, Any]) -> None:
    RUNNERS[stem](DOCUMENTS[stem], case)


@pytest.mark.parametrize(("stem", "case"), CASES)
def test_a_case_with_an_unknown_field_fails(stem: str, case: dict[str, Any]) -> None:
    with pytest.raises(ConformanceFailure):
        RUNNERS[stem](DOCUMENTS[stem], {**case, "a_field_nobody_knows": 1})


@pytest.mark.parametrize("stem", RUNNERS)
def test_a_case_of_unknown_shape_fails(stem: str) -> None:
    for case in ({}, {"name": "x"}, {"name": "x", "valid": 1}, {"name": "x", "kind": "new", "valid": True}):
        with pytest.raises(ConformanceFailure):
            RUNNERS[stem](DOCUMENTS[stem], case)


def damaged(case: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """Flip the lowest bit of the hexadecimal text at a path of keys."""
    changed = copy.deepcopy(case)
    holder: Any = changed
    for key in path[:-1]:
        holder = holder[key]
    text = holder[path[-1]]
    holder[path[-1]] = f"{int(text[0], 16) ^ 1:x}{text[1:]}"
    return changed


@pytest.mark.parametrize(
    ("stem", "name", "path"),
    [
        ("device_keys", "zeros_32", ("signature_hex",)),
        ("device_keys", "zeros_32", ("scalar_mod_l_hex",)),
        ("certificates", "ca_signed", ("signature_hex",)),
        ("certificates", "ca_signed", ("canonical_hex",)),
        ("zkp", "basic", ("challenge_hex",)),
        ("zkp", "basic", ("response_hex",)),
        ("noise", "xk_auth_payload", ("handshake_hash_hex",)),
        ("noise", "xk_auth_payload", ("initiator_to_responder_key_hex",)),
        ("noise", "ik_auth_payload", ("messages", 1, "message_hex")),
        ("noise", "ik_auth_payload", ("transport", 2, "ciphertext_hex")),
        ("pq_hybrid", "session_0", ("kem_shared_hex",)),
        ("pq_hybrid", "session_0", ("m_hex",)),
        ("pq_hybrid", "session_0", ("ratchet", "initiator_receiving_hex")),
        ("pq_hybrid", "session_1", ("implicit_rejection", "kem_shared_hex")),
    ],
)
def test_a_runner_notices_a_damaged_value(stem: str, name: str, path: tuple[Any, ...]) -> None:
    [case] = [case for case in DOCUMENTS[stem]["cases"] if case["name"] == name]
    with pytest.raises(ConformanceFailure):
        RUNNERS[stem](DOCUMENTS[stem], damaged(case, path))


def test_a_runner_notices_an_error_that_does_not_come() -> None:
    cases = {stem: {case["name"]: case for case in document["cases"]} for stem, document in DOCUMENTS.items()}
    good_proof = cases["zkp"]["basic"]
    good_message = cases["noise"]["xk_auth_payload"]["messages"][0]["message_hex"]
    for stem, name, change in (
        ("device_keys", "seed_too_short_31", {"seed_hex": "00" * 32}),
        (
            "certificates",
            "signature_zero",
            {"signature_hex": cases["certificates"]["ca_signed"]["signature_hex"]},
        ),
        ("certificates", "wire_serial_float", {"wire": cases["certificates"]["ca_signed"]["wire_sorted"]}),
        ("zkp", "response_zero", {"response_hex": good_proof["response_hex"]}),
        ("noise", "xk_msg0_tag_flipped", {"message_hex": good_message}),
        ("pq_hybrid", "material_wrong_length_32", {"combined_length": 64}),
    ):
        with pytest.raises(ConformanceFailure, match="accepted"):
            RUNNERS[stem](DOCUMENTS[stem], {**cases[stem][name], **change})
