"""Every error this package raises.

``code`` is the name that the CCP-1 specification and its test vectors give to the
kind of failure. The texts never contain key material.
"""

from typing import ClassVar


class CryptoError(Exception):
    """Base of all errors of this package."""

    code: ClassVar[str] = "Crypto"


class InvalidKeyError(CryptoError):
    """A seed, key or key material has the wrong length or is not a usable key."""

    code = "InvalidKey"


class SignatureError(CryptoError):
    """An Ed25519 signature does not verify."""

    code = "Signature"


class CertificateError(CryptoError):
    """A value is not a device certificate: a field is missing, mistyped or out of range."""

    code = "Parse"


class CertificateIssuerError(CertificateError):
    """A certificate names another issuer than the authority it is checked against."""

    # The specification reports a foreign issuer and a wrong signature alike.
    code = "Signature"


class ProofError(CryptoError):
    """A handshake proof is malformed or does not prove possession of the device key."""

    code = "Proof"


class NoiseError(CryptoError):
    """A Noise message cannot be written or read, or the call does not fit the state."""

    code = "NoiseFailure"


class MediaDecryptionError(CryptoError):
    """A media packet is not what its sender encrypted."""

    code = "MediaDecryption"


class MediaReplayError(MediaDecryptionError):
    """A media packet has come before, or is older than the window in which that can be told."""

    code = "MediaReplay"


class PqError(CryptoError):
    """Base of the failures of the post-quantum module."""

    code = "PostQuantum"


class PqKeyDerivationError(PqError):
    """No further key may be derived from a chain."""

    code = "KeyDerivation"


class PqEncapsulationError(PqError):
    """An ML-KEM encapsulation key cannot be used."""

    code = "PostQuantumEncapsulation"


class PqDecapsulationError(PqError):
    """An ML-KEM ciphertext has the wrong length."""

    code = "PostQuantumDecapsulation"


class PqSignatureError(PqError):
    """An ML-DSA signature does not verify."""

    code = "PostQuantumSignature"
