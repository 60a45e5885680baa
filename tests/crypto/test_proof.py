"""The handshake proof: what an honest prover makes passes, everything else is refused."""

from typing import Any

import nacl.bindings as sodium
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_crypto import (
    DeviceKeyPair,
    HandshakeProof,
    ProofError,
    handshake_context,
    prove_handshake,
    verify_handshake,
)
from commucat_crypto.proof import challenge

PAIR = DeviceKeyPair.from_seed(b"prover " * 5)
STATIC = bytes(range(32))
ORDER = 2**252 + 27742317777372353535851937790883648493
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def prove(**changes: Any) -> HandshakeProof:
    values: dict[str, Any] = {"domain": "example.org", "device_id": "device", "client_static": STATIC}
    return prove_handshake(PAIR, **(values | changes))


def verify(proof: HandshakeProof, **changes: Any) -> None:
    values: dict[str, Any] = {
        "domain": "example.org",
        "device_id": "device",
        "device_public": PAIR.public,
        "client_static": STATIC,
    }
    verify_handshake(proof, **(values | changes))


@given(
    private=st.binary(min_size=32, max_size=32),
    domain=UNICODE,
    device_id=UNICODE,
    static=st.binary(min_size=32, max_size=32),
)
def test_an_honest_proof_passes_and_survives_the_wire(
    private: bytes, domain: str, device_id: str, static: bytes
) -> None:
    pair = DeviceKeyPair.from_private(private)
    proof = prove_handshake(pair, domain=domain, device_id=device_id, client_static=static)
    received = HandshakeProof.from_wire(proof.to_wire())
    assert received == proof
    verify_handshake(
        received, domain=domain, device_id=device_id, device_public=pair.public, client_static=static
    )


@given(bit=st.integers(min_value=0, max_value=511))
def test_one_flipped_bit_is_refused(bit: int) -> None:
    proof = prove(randomness=bytes(range(64)))
    both = bytearray(proof.commitment + proof.response)
    both[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProofError):
        verify(HandshakeProof(commitment=bytes(both[:32]), response=bytes(both[32:])))


@pytest.mark.parametrize(
    "change",
    [
        {"domain": "example.com"},
        {"device_id": "device2"},
        {"domain": "example.orgd", "device_id": "evice"},
        {"client_static": bytes(32)},
        {"device_public": DeviceKeyPair.from_seed(bytes(32)).public},
    ],
    ids=str,
)
def test_a_proof_holds_for_its_own_use_only(change: dict[str, Any]) -> None:
    with pytest.raises(ProofError):
        verify(prove(), **change)


def test_a_second_spelling_of_a_response_is_refused() -> None:
    proof = prove()
    other = int.from_bytes(proof.response, "little") + ORDER
    with pytest.raises(ProofError):
        verify(HandshakeProof(commitment=proof.commitment, response=other.to_bytes(32, "little")))


ORDER_TWO = (2**255 - 20).to_bytes(32, "little")  # the point (0, -1)


def test_a_commitment_with_a_small_order_part_is_refused() -> None:
    # One that would be found valid if the equation were checked times eight.
    scalar = sodium.crypto_core_ed25519_scalar_reduce(bytes(range(64)))
    commitment = sodium.crypto_core_ed25519_add(
        sodium.crypto_scalarmult_ed25519_base_noclamp(scalar), ORDER_TWO
    )
    context = handshake_context(
        domain="example.org", device_id="device", device_public=PAIR.public, client_static=STATIC
    )
    c = challenge(context=context, device_public=PAIR.public, commitment=commitment)
    blinded = sodium.crypto_core_ed25519_scalar_mul(c, PAIR.scalar())
    response = sodium.crypto_core_ed25519_scalar_add(scalar, blinded)
    with pytest.raises(ProofError, match="the commitment is not a proper point"):
        verify(HandshakeProof(commitment=commitment, response=response))


@pytest.mark.parametrize("spelling", [1, 2**255 - 18], ids=["canonical", "not reduced"])
def test_the_neutral_commitment_is_refused(spelling: int) -> None:
    # With k = 0 the equation holds, and the response gives the private key away.
    commitment = spelling.to_bytes(32, "little")
    context = handshake_context(
        domain="example.org", device_id="device", device_public=PAIR.public, client_static=STATIC
    )
    c = challenge(context=context, device_public=PAIR.public, commitment=commitment)
    response = sodium.crypto_core_ed25519_scalar_mul(c, PAIR.scalar())
    with pytest.raises(ProofError, match="the commitment is not a proper point"):
        verify(HandshakeProof(commitment=commitment, response=response))


def test_proofs_use_fresh_randomness() -> None:
    assert prove().commitment != prove().commitment


@pytest.mark.parametrize("randomness", [bytes(64), ORDER.to_bytes(64, "little")], ids=["zero", "order"])
def test_randomness_that_vanishes_is_refused(randomness: bytes) -> None:
    with pytest.raises(ProofError):
        prove(randomness=randomness)


@pytest.mark.parametrize("length", [0, 32, 63, 65])
def test_randomness_of_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(ProofError):
        prove(randomness=b"r" * length)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_of_wrong_length_are_refused(length: int) -> None:
    with pytest.raises(ProofError):
        prove(client_static=bytes(length))
    with pytest.raises(ProofError):
        verify(prove(), device_public=bytes(length))


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(ProofError):
        prove(device_id="\ud800")


def test_lengths_in_the_context_count_bytes() -> None:
    context = handshake_context(
        domain="пример", device_id="д", device_public=bytes(32), client_static=b"\x01" * 32
    )
    tag = b"commucat:zkp:handshake:v1"
    assert context == (
        tag + b"\x0c\0\0\0" + "пример".encode() + b"\x02\0\0\0" + "д".encode() + bytes(32) + b"\x01" * 32
    )


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "text",
        {},
        {"commitment": "00" * 32},
        {"commitment": "00" * 32, "response": None},
        {"commitment": "00" * 32, "response": "00" * 31},
        {"commitment": "00" * 32, "response": " " + "00" * 31 + " "},
        {"commitment": "0g" * 32, "response": "00" * 32},
        {"commitment": 5, "response": "00" * 32},
    ],
    ids=str,
)
def test_what_is_no_proof_is_refused(value: object) -> None:
    with pytest.raises(ProofError):
        HandshakeProof.from_wire(value)


def test_hexadecimal_of_either_case_is_read_and_unknown_members_are_ignored() -> None:
    proof = prove()
    wire = {name: text.upper() for name, text in proof.to_wire().items()}
    assert HandshakeProof.from_wire({**wire, "extra": 1}) == proof
