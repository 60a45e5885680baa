"""Post-quantum building blocks: ML-KEM-768 (FIPS 203) and ML-DSA-65 (FIPS 204).

Private keys are seeds: 64 bytes d | z for ML-KEM and 32 bytes for ML-DSA. The
cryptography library computes with seeds only, so the expanded 2,400-byte form of an
ML-KEM decapsulation key, which CCP-1 configuration files may hold, can be checked
here but not used to decapsulate.
"""

import hashlib
import hmac
import secrets
from typing import Final, Self

import attrs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from .errors import InvalidKeyError, PqDecapsulationError, PqEncapsulationError, PqSignatureError

KEM_SEED_LEN: Final = 64
"""Bytes of an ML-KEM seed d | z (FIPS 203, algorithm 16)."""
KEM_ENCAPSULATION_KEY_LEN: Final = 1_184
KEM_EXPANDED_KEY_LEN: Final = 2_400
KEM_CIPHERTEXT_LEN: Final = 1_088
KEM_SHARED_SECRET_LEN: Final = 32
PQ_SIGNING_SEED_LEN: Final = 32
"""Bytes of an ML-DSA seed xi (FIPS 204, algorithm 6)."""
PQ_VERIFYING_KEY_LEN: Final = 1_952
PQ_SIGNATURE_LEN: Final = 3_309


@attrs.frozen(kw_only=True)
class KemKeyPair:
    """An ML-KEM-768 key pair.

    Raises:
        InvalidKeyError: the seed is not 64 bytes.
    """

    seed: bytes = attrs.field(repr=False, eq=False)
    """d | z, 64 bytes; secret."""
    encapsulation_key: bytes = attrs.field(init=False)
    """The public key, 1,184 bytes."""
    _private_key: MLKEM768PrivateKey = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if len(self.seed) != KEM_SEED_LEN:
            raise InvalidKeyError(f"an ML-KEM seed is {KEM_SEED_LEN} bytes long")
        private_key = MLKEM768PrivateKey.from_seed_bytes(self.seed)
        object.__setattr__(self, "_private_key", private_key)
        object.__setattr__(self, "encapsulation_key", private_key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Self:
        """Make a fresh pair from the operating system's random source."""
        return cls(seed=secrets.token_bytes(KEM_SEED_LEN))

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Derive the pair from d | z.

        Raises:
            InvalidKeyError: not 64 bytes.
        """
        return cls(seed=seed)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """Return the 32-byte shared secret.

        A damaged ciphertext of the right length gives a different secret, not an
        error (implicit rejection, FIPS 203, algorithm 18).

        Raises:
            PqDecapsulationError: not 1,088 bytes.
        """
        if len(ciphertext) != KEM_CIPHERTEXT_LEN:
            raise PqDecapsulationError(f"an ML-KEM ciphertext is {KEM_CIPHERTEXT_LEN} bytes long")
        return self._private_key.decapsulate(ciphertext)


@attrs.frozen(kw_only=True)
class KemEncapsulation:
    """A fresh shared secret and the ciphertext that carries it."""

    ciphertext: bytes
    """1,088 bytes for the owner of the decapsulation key."""
    shared_secret: bytes = attrs.field(repr=False, eq=False)
    """32 bytes."""


def encapsulate(encapsulation_key: bytes) -> KemEncapsulation:
    """Make a shared secret for the owner of an encapsulation key.

    Raises:
        PqEncapsulationError: not 1,184 bytes, or a coefficient is not reduced
            (the modulus check of FIPS 203, section 7.2).
    """
    try:
        secret, ciphertext = MLKEM768PublicKey.from_public_bytes(encapsulation_key).encapsulate()
    except ValueError as exc:
        raise PqEncapsulationError("not an ML-KEM-768 encapsulation key") from exc
    return KemEncapsulation(ciphertext=ciphertext, shared_secret=secret)


def check_expanded_key(expanded: bytes, encapsulation_key: bytes) -> None:
    """Check that an expanded decapsulation key belongs to an encapsulation key.

    The expanded form is secret vector (1,152) | encapsulation key (1,184) |
    SHA3-256 of it (32) | z (32). Lengths, the embedded key and its hash are
    compared (FIPS 203, section 7.3); the secret vector itself cannot be tested.

    Raises:
        InvalidKeyError: a length is wrong, or the two do not belong together.
    """
    if len(expanded) != KEM_EXPANDED_KEY_LEN or len(encapsulation_key) != KEM_ENCAPSULATION_KEY_LEN:
        raise InvalidKeyError(
            f"ML-KEM-768 keys have {KEM_ENCAPSULATION_KEY_LEN} public and {KEM_EXPANDED_KEY_LEN} secret bytes"
        )
    embedded = encapsulation_key + hashlib.sha3_256(encapsulation_key).digest()
    if not hmac.compare_digest(expanded[1_152:2_368], embedded):
        raise InvalidKeyError("the two ML-KEM-768 keys do not belong together")


@attrs.frozen(kw_only=True)
class PqSigningKeyPair:
    """An ML-DSA-65 key pair.

    Raises:
        InvalidKeyError: the seed is not 32 bytes.
    """

    seed: bytes = attrs.field(repr=False, eq=False)
    """xi, 32 bytes; secret."""
    verifying_key: bytes = attrs.field(init=False)
    """The public key, 1,952 bytes."""
    _private_key: MLDSA65PrivateKey = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if len(self.seed) != PQ_SIGNING_SEED_LEN:
            raise InvalidKeyError(f"an ML-DSA seed is {PQ_SIGNING_SEED_LEN} bytes long")
        private_key = MLDSA65PrivateKey.from_seed_bytes(self.seed)
        object.__setattr__(self, "_private_key", private_key)
        object.__setattr__(self, "verifying_key", private_key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Self:
        """Make a fresh pair from the operating system's random source."""
        return cls(seed=secrets.token_bytes(PQ_SIGNING_SEED_LEN))

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Derive the pair from xi.

        Raises:
            InvalidKeyError: not 32 bytes.
        """
        return cls(seed=seed)

    def sign(self, message: bytes) -> bytes:
        """Return a 3,309-byte signature with an empty context.

        Signing is hedged with fresh randomness, so two signatures of one message
        differ. CCP-1 names the deterministic variant; verifiers cannot tell the two
        apart, and hedging is the default of FIPS 204, section 3.4.
        """
        return self._private_key.sign(message)


def verify_pq_signature(verifying_key: bytes, message: bytes, signature: bytes) -> None:
    """Check an ML-DSA-65 signature with an empty context, deterministic or hedged.

    Raises:
        PqSignatureError: the signature does not verify, or a length is wrong.
    """
    try:
        MLDSA65PublicKey.from_public_bytes(verifying_key).verify(signature, message)
    except (InvalidSignature, ValueError) as exc:
        raise PqSignatureError("the ML-DSA signature does not verify") from exc
