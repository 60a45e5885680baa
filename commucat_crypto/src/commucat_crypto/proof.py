"""The handshake proof: a Schnorr proof that a client owns the device key it presents.

With D the ASCII text ``commucat:zkp:handshake:v1``, L the order of the edwards25519
group, B its base point, a the device's secret scalar and A = a*B its public key::

    context = D | u32le(len domain) | domain | u32le(len device_id) | device_id | A | client_static
    k       = 64 random bytes, little-endian, mod L
    R       = k*B                                                      the commitment
    c       = BLAKE3-XOF-64(D | u64le(len context) | context | A | R), little-endian, mod L
    s       = k + c*a mod L                                            the response
    valid if s*B == R + c*A

The proof binds the client's Noise static key but no nonce of the server, so it can
be replayed; the Noise handshake stops the replayer, provided that the server
compares the static key it delivered with ``client_static`` (see docs/protocol.md).
"""

import secrets
import struct
from collections.abc import Mapping
from typing import Final, Self

import attrs
import nacl.bindings as sodium
import nacl.exceptions
from blake3 import blake3

from .device_keys import KEY_LEN, DeviceKeyPair, is_proper_public_key
from .errors import ProofError
from .hex_fields import decode_hex

PROOF_RANDOMNESS_LEN: Final = 64
"""Bytes of randomness one proof consumes; 64, so that reduction mod L leaves no bias."""

_DOMAIN_TAG: Final = b"commucat:zkp:handshake:v1"
_SCALAR_LEN: Final = 32
_NEUTRAL: Final = b"\x01" + bytes(KEY_LEN - 1)  # the encoding of the point that is no key: order 1


@attrs.frozen(kw_only=True)
class HandshakeProof:
    """A proof as it travels in Hello: two 32-byte values.

    Raises:
        ProofError: a value is not 32 bytes.
    """

    commitment: bytes
    """R, an encoded point."""
    response: bytes
    """s, a little-endian scalar below L."""

    def __attrs_post_init__(self) -> None:
        if len(self.commitment) != KEY_LEN or len(self.response) != _SCALAR_LEN:
            raise ProofError("commitment and response are 32 bytes each")

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """Read ``{"commitment": hex, "response": hex}``; unknown members are ignored.

        Raises:
            ProofError: not such an object.
        """
        if not isinstance(value, Mapping):
            raise ProofError("a proof must be an object")
        try:
            return cls(
                commitment=decode_hex(value.get("commitment"), KEY_LEN),
                response=decode_hex(value.get("response"), _SCALAR_LEN),
            )
        except ValueError as exc:
            raise ProofError(f"commitment and response {exc}") from exc

    def to_wire(self) -> dict[str, str]:
        """Return the JSON object of the wire form."""
        return {"commitment": self.commitment.hex(), "response": self.response.hex()}


def handshake_context(*, domain: str, device_id: str, device_public: bytes, client_static: bytes) -> bytes:
    """Return the bytes that bind a proof to its use (layout in the module's text).

    ``domain`` is the server's configured domain, ``client_static`` the X25519 key
    of the Noise handshake. Lengths count UTF-8 bytes.

    Raises:
        ProofError: a key is not 32 bytes, or a text is not valid Unicode.
    """
    if len(device_public) != KEY_LEN or len(client_static) != KEY_LEN:
        raise ProofError("device_public and client_static are 32 bytes each")
    parts = [_DOMAIN_TAG]
    for text in (domain, device_id):
        try:
            encoded = text.encode()
        except UnicodeEncodeError as exc:
            raise ProofError("domain and device_id must be valid Unicode") from exc
        # The length keeps characters from moving between the two texts unnoticed.
        parts += [struct.pack("<I", len(encoded)), encoded]
    return b"".join([*parts, device_public, client_static])


def challenge(*, context: bytes, device_public: bytes, commitment: bytes) -> bytes:
    """Return the challenge c as 32 little-endian bytes, reduced modulo L."""
    preimage = _DOMAIN_TAG + struct.pack("<Q", len(context)) + context + device_public + commitment
    return sodium.crypto_core_ed25519_scalar_reduce(blake3(preimage).digest(length=64))


def prove_handshake(
    key_pair: DeviceKeyPair,
    *,
    domain: str,
    device_id: str,
    client_static: bytes,
    randomness: bytes | None = None,
) -> HandshakeProof:
    """Prove possession of a device key.

    Args:
        key_pair: the device's keys.
        domain: the server's configured domain.
        device_id: the device id of the same Hello.
        client_static: 32-byte X25519 public key that the Noise handshake will deliver.
        randomness: 64 secret bytes, never used twice (a second proof with the same
            bytes gives the private key away); by default from the operating system.

    Raises:
        ProofError: the randomness is not 64 bytes or is zero modulo L,
            ``client_static`` is not 32 bytes, or a text is not valid Unicode.
    """
    if randomness is None:
        randomness = secrets.token_bytes(PROOF_RANDOMNESS_LEN)
    if len(randomness) != PROOF_RANDOMNESS_LEN:
        raise ProofError(f"a proof needs {PROOF_RANDOMNESS_LEN} random bytes")
    context = handshake_context(
        domain=domain, device_id=device_id, device_public=key_pair.public, client_static=client_static
    )
    nonce = sodium.crypto_core_ed25519_scalar_reduce(randomness)
    if nonce == bytes(_SCALAR_LEN):
        # With k = 0 the response is c*a: it would publish the private key.
        raise ProofError("the randomness is zero")
    commitment = sodium.crypto_scalarmult_ed25519_base_noclamp(nonce)
    c = challenge(context=context, device_public=key_pair.public, commitment=commitment)
    blinded = sodium.crypto_core_ed25519_scalar_mul(c, key_pair.scalar())
    return HandshakeProof(
        commitment=commitment, response=sodium.crypto_core_ed25519_scalar_add(nonce, blinded)
    )


def verify_handshake(
    proof: HandshakeProof, *, domain: str, device_id: str, device_public: bytes, client_static: bytes
) -> None:
    """Check a proof strictly.

    Raises:
        ProofError: the proof does not hold; the device key or the commitment is not
            a canonical point of the prime-order subgroup; the response is not
            reduced modulo L; or an argument has the wrong length.
    """
    context = handshake_context(
        domain=domain, device_id=device_id, device_public=device_public, client_static=client_static
    )
    verify_context(proof, context=context, device_public=device_public)


def verify_context(proof: HandshakeProof, *, context: bytes, device_public: bytes) -> None:
    """Check a proof over context bytes that are assembled already.

    Raises:
        ProofError: as :func:`verify_handshake`.
    """
    # For a key of small order anybody can compute a proof without any secret, and a
    # key with a small-order part is not the key of any secret scalar.
    if not is_proper_public_key(device_public):
        raise ProofError("the device key is not a proper point")
    # One scalar, one encoding: otherwise a valid proof could be given a second look.
    if sodium.crypto_core_ed25519_scalar_reduce(proof.response + bytes(32)) != proof.response:
        raise ProofError("the response is not reduced")
    c = challenge(context=context, device_public=device_public, commitment=proof.commitment)
    try:
        expected = sodium.crypto_core_ed25519_sub(
            sodium.crypto_scalarmult_ed25519_base_noclamp(proof.response),
            sodium.crypto_scalarmult_ed25519_noclamp(c, device_public),
        )
    except nacl.exceptions.CryptoError as exc:
        # libsodium refuses a zero scalar; an honest proof has one with probability 2^-251.
        raise ProofError("the proof does not hold") from exc
    # s*B - c*A lies in the prime-order subgroup and comes out in its one encoding. So a commitment with these
    # very bytes is proper as well, unless it is the neutral element: looking at the commitment itself would
    # cost a third as much again, and tells the reason only.
    if expected != proof.commitment or expected == _NEUTRAL:
        if not is_proper_public_key(proof.commitment):
            raise ProofError("the commitment is not a proper point")
        raise ProofError("the proof does not hold")
