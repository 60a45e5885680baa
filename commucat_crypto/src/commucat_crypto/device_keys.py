"""Ed25519 keys of devices and of the server's certificate authority, and their signatures.

Keys and signatures are plain RFC 8032. Verification is libsodium's: it refuses
signatures whose s is not reduced, and public keys that are not canonical or of
small order, all of which some other verifiers accept.
"""

import functools
import hashlib
import secrets
from typing import Final, Self

import attrs
import nacl.bindings as sodium
import nacl.exceptions
from blake3 import blake3

from .errors import InvalidKeyError, SignatureError

MIN_SEED_LEN: Final = 32
"""Shortest seed, in bytes, that a key may be derived from."""
KEY_LEN: Final = 32
"""Length in bytes of a private or public key, Ed25519 or X25519."""
SIGNATURE_LEN: Final = 64
"""Length in bytes of an Ed25519 signature."""
EVENT_DIGEST_LEN: Final = 32
"""Length in bytes of the BLAKE3 digest that an event signature covers."""


@attrs.frozen(kw_only=True)
class DeviceKeyPair:
    """An Ed25519 key pair. ``private`` is the 32-byte seed of RFC 8032, section 5.1.5."""

    private: bytes = attrs.field(repr=False, eq=False)
    public: bytes = attrs.field(init=False)

    @private.validator
    def _check_private(self, _attribute: object, value: object) -> None:
        if not isinstance(value, bytes) or len(value) != KEY_LEN:
            raise InvalidKeyError(f"an Ed25519 private key is {KEY_LEN} bytes long")

    def __attrs_post_init__(self) -> None:
        public, _ = sodium.crypto_sign_seed_keypair(self.private)
        object.__setattr__(self, "public", public)

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Derive the pair from a configured seed: private key = BLAKE3(seed).

        Raises:
            InvalidKeyError: the seed is shorter than 32 bytes.
        """
        if len(seed) < MIN_SEED_LEN:
            raise InvalidKeyError(f"a seed needs at least {MIN_SEED_LEN} bytes")
        return cls(private=blake3(seed).digest())

    @classmethod
    def from_private(cls, private: bytes) -> Self:
        """Take the 32 private bytes as they are.

        Raises:
            InvalidKeyError: not 32 bytes.
        """
        return cls(private=private)

    @classmethod
    def generate(cls) -> Self:
        """Make a fresh pair from the operating system's random source."""
        return cls(private=secrets.token_bytes(KEY_LEN))

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte deterministic signature (RFC 8032, section 5.1.6)."""
        # libsodium's secret key is the seed followed by the public key.
        return sodium.crypto_sign(message, self.private + self.public)[:SIGNATURE_LEN]

    def scalar(self) -> bytes:
        """Return the secret scalar, reduced modulo the group order, as 32 little-endian bytes."""
        return sodium.crypto_core_ed25519_scalar_reduce(self.agreement_private() + bytes(32))

    def agreement_private(self) -> bytes:
        """Return the X25519 private key that belongs to :func:`agreement_public` of this pair's public key.

        It is the clamped first half of SHA-512(private), 32 bytes, as libsodium converts keys.
        """
        clamped = bytearray(hashlib.sha512(self.private).digest()[:32])
        clamped[0] &= 248
        clamped[31] &= 127
        clamped[31] |= 64
        return bytes(clamped)


def is_proper_public_key(public: bytes) -> bool:
    """Tell whether the bytes are a canonical, not small-order point of the prime-order subgroup.

    Honest keys always are. A key that is not could be "proved" by somebody who
    owns no private key, so servers refuse to register it (see docs/protocol.md).
    """
    return len(public) == KEY_LEN and _is_valid_point(public)


# Half a scalar multiplication, and a device's key is looked at twice at every connect. Only public values
# are remembered, and the answer for one never changes.
_is_valid_point = functools.lru_cache(maxsize=2_048)(sodium.crypto_core_ed25519_is_valid_point)


def agreement_public(ed25519_public: bytes) -> bytes:
    """Convert an Ed25519 public key to the X25519 public key of the same secret (RFC 7748, section 4.1).

    Raises:
        InvalidKeyError: the key is not a proper public key.
    """
    if not is_proper_public_key(ed25519_public):
        raise InvalidKeyError("not a proper Ed25519 public key")
    return sodium.crypto_sign_ed25519_pk_to_curve25519(ed25519_public)


def verify_signature(public: bytes, message: bytes, signature: bytes) -> None:
    """Check an Ed25519 signature.

    Raises:
        SignatureError: the signature or the public key has the wrong length, or
            the signature does not verify.
    """
    if len(public) != KEY_LEN or len(signature) != SIGNATURE_LEN:
        raise SignatureError("an Ed25519 public key has 32 bytes and a signature 64")
    try:
        sodium.crypto_sign_open(signature + message, public)
    except nacl.exceptions.BadSignatureError as exc:
        raise SignatureError("the signature does not verify") from exc


def sign_event(key_pair: DeviceKeyPair, digest: bytes) -> bytes:
    """Sign the 32-byte digest of a federation event; the signature covers the digest itself.

    Raises:
        SignatureError: the digest is not 32 bytes.
    """
    if len(digest) != EVENT_DIGEST_LEN:
        raise SignatureError(f"an event digest is {EVENT_DIGEST_LEN} bytes long")
    return key_pair.sign(digest)


def verify_event(public: bytes, digest: bytes, signature: bytes) -> None:
    """Check a signature made by :func:`sign_event`.

    Raises:
        SignatureError: the digest is not 32 bytes, or the signature does not verify.
    """
    if len(digest) != EVENT_DIGEST_LEN:
        raise SignatureError(f"an event digest is {EVENT_DIGEST_LEN} bytes long")
    verify_signature(public, digest, signature)
