"""Keys, certificates and handshakes of CommuCat.

The package computes and checks: Noise handshakes XK, IK and X and their transport messages, Ed25519 device
keys and event signatures, device certificates, the handshake proof of CCP-1, the encryption of media
packets, and the post-quantum hybrid. It does no I/O and reads no clock; randomness comes from the operating
system unless the caller passes it.
"""

from .certificates import CERTIFICATE_LIFETIME, DeviceCertificate
from .device_keys import (
    DeviceKeyPair,
    agreement_public,
    is_proper_public_key,
    sign_event,
    verify_event,
    verify_signature,
)
from .errors import (
    CertificateError,
    CertificateIssuerError,
    CryptoError,
    InvalidKeyError,
    MediaDecryptionError,
    MediaReplayError,
    NoiseError,
    PqDecapsulationError,
    PqEncapsulationError,
    PqError,
    PqKeyDerivationError,
    PqSignatureError,
    ProofError,
    SignatureError,
)
from .hybrid import HybridRole, HybridSession, combine_secrets, derive_key_material, derive_message_key
from .media_encryption import (
    MEDIA_HEADER_LEN,
    MEDIA_KEY_LEN,
    MEDIA_TAG_LEN,
    MediaDecryptor,
    MediaEncryptor,
)
from .noise_handshake import HANDSHAKE_OVERHEAD, NoiseHandshake, NoisePattern
from .noise_key_statement import NoiseKeyStatement
from .noise_transport import MAX_NOISE_MESSAGE, MAX_NOISE_PLAINTEXT, TAG_LEN, NoiseTransport
from .pq import (
    KemEncapsulation,
    KemKeyPair,
    PqSigningKeyPair,
    check_expanded_key,
    encapsulate,
    verify_pq_signature,
)
from .prekeys import PrekeyBundle, PublicPrekeyBundle
from .proof import (
    HandshakeProof,
    challenge,
    handshake_context,
    prove_handshake,
    verify_context,
    verify_handshake,
)
from .statements import claim_statement, history_statement, rotation_statement
from .static_keys import StaticKeyPair

__all__ = [
    "CERTIFICATE_LIFETIME",
    "HANDSHAKE_OVERHEAD",
    "MAX_NOISE_MESSAGE",
    "MAX_NOISE_PLAINTEXT",
    "MEDIA_HEADER_LEN",
    "MEDIA_KEY_LEN",
    "MEDIA_TAG_LEN",
    "TAG_LEN",
    "CertificateError",
    "CertificateIssuerError",
    "CryptoError",
    "DeviceCertificate",
    "DeviceKeyPair",
    "HandshakeProof",
    "HybridRole",
    "HybridSession",
    "InvalidKeyError",
    "KemEncapsulation",
    "KemKeyPair",
    "MediaDecryptionError",
    "MediaDecryptor",
    "MediaEncryptor",
    "MediaReplayError",
    "NoiseError",
    "NoiseHandshake",
    "NoiseKeyStatement",
    "NoisePattern",
    "NoiseTransport",
    "PqDecapsulationError",
    "PqEncapsulationError",
    "PqError",
    "PqKeyDerivationError",
    "PqSignatureError",
    "PqSigningKeyPair",
    "PrekeyBundle",
    "ProofError",
    "PublicPrekeyBundle",
    "SignatureError",
    "StaticKeyPair",
    "agreement_public",
    "challenge",
    "check_expanded_key",
    "claim_statement",
    "combine_secrets",
    "derive_key_material",
    "derive_message_key",
    "encapsulate",
    "handshake_context",
    "history_statement",
    "is_proper_public_key",
    "prove_handshake",
    "rotation_statement",
    "sign_event",
    "verify_context",
    "verify_event",
    "verify_handshake",
    "verify_pq_signature",
    "verify_signature",
]
