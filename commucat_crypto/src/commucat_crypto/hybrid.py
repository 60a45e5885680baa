"""The hybrid session: keys that stay secret as long as one of two agreements does, classical or ML-KEM.

How the two sides get the 32-byte classical secret is left to the caller, as CCP-1
does; no message of the handshake carries a hybrid agreement.
"""

import enum
import struct
from typing import Final

from blake3 import blake3
from cryptography.hazmat.primitives.hashes import SHA3_512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import InvalidKeyError, PqKeyDerivationError

SESSION_INFO: Final = b"commucat.hybrid.session.v1"
RATCHET_INFO: Final = b"commucat.hybrid.ratchet.v1"
HYBRID_SECRET_LEN: Final = 64
"""Bytes of classical secret | ML-KEM shared secret."""
HYBRID_KEY_LEN: Final = 32
"""Bytes of a root key, chain key or message key."""

_MAX_COUNTER: Final = 2**32 - 1


class HybridRole(enum.Enum):
    """Which side of the agreement this is; the two peers must differ."""

    INITIATOR = "initiator"
    """The side that encapsulated."""
    RESPONDER = "responder"
    """The side that decapsulated."""


def combine_secrets(classical: bytes, kem_shared: bytes) -> bytes:
    """Return the 64 bytes that session keys are derived from.

    Raises:
        InvalidKeyError: a secret is not 32 bytes.
    """
    if len(classical) != HYBRID_KEY_LEN or len(kem_shared) != HYBRID_KEY_LEN:
        raise InvalidKeyError("both secrets are 32 bytes long")
    return classical + kem_shared


def derive_key_material(combined: bytes, *, salt: bytes | None = None, info: bytes = SESSION_INFO) -> bytes:
    """Return 96 bytes of HKDF-SHA3-512 (RFC 5869): root key | first chain | second chain.

    No salt means 64 zero bytes.

    Raises:
        InvalidKeyError: ``combined`` is not 64 bytes.
    """
    if len(combined) != HYBRID_SECRET_LEN:
        raise InvalidKeyError(f"hybrid key material is {HYBRID_SECRET_LEN} bytes long")
    return HKDF(algorithm=SHA3_512(), length=3 * HYBRID_KEY_LEN, salt=salt, info=info).derive(combined)


def derive_message_key(chain_key: bytes, counter: int) -> bytes:
    """Return message key number ``counter``: keyed BLAKE3 of its four big-endian bytes.

    Raises:
        InvalidKeyError: the chain key is not 32 bytes.
        PqKeyDerivationError: the counter is not in 0 to 2^32 - 1.
    """
    if len(chain_key) != HYBRID_KEY_LEN:
        raise InvalidKeyError(f"a chain key is {HYBRID_KEY_LEN} bytes long")
    if not 0 <= counter <= _MAX_COUNTER:
        # Wrapping around, as the CCP-1 specification allows, would use keys twice.
        raise PqKeyDerivationError("the chain has no further keys; it needs a ratchet step")
    return blake3(struct.pack(">I", counter), key=chain_key).digest()


class HybridSession:
    """Root key and the two chains of a hybrid session.

    The chain keys stand still between ratchet steps: whoever learns one knows every
    message key of that chain, past and future, until the next step.

    Args:
        combined: 64 bytes from :func:`combine_secrets`.
        role: this side.
        salt: 64 zero bytes when absent.
        info: purpose of the derivation.

    Raises:
        InvalidKeyError: ``combined`` is not 64 bytes.
    """

    __slots__ = ("_receiving_key", "_root_key", "_sending_key", "received", "sent")

    def __init__(
        self, combined: bytes, role: HybridRole, *, salt: bytes | None = None, info: bytes = SESSION_INFO
    ) -> None:
        self._install(derive_key_material(combined, salt=salt, info=info), role)

    def next_sending_key(self) -> bytes:
        """Return the key for the next message to send.

        Raises:
            PqKeyDerivationError: 2^32 keys were taken since the last ratchet step.
        """
        key = derive_message_key(self._sending_key, self.sent)
        self.sent += 1
        return key

    def next_receiving_key(self) -> bytes:
        """Return the key for the next message to receive.

        Raises:
            PqKeyDerivationError: 2^32 keys were taken since the last ratchet step.
        """
        key = derive_message_key(self._receiving_key, self.received)
        self.received += 1
        return key

    def ratchet(self, combined: bytes, role: HybridRole) -> None:
        """Replace all keys by fresh material salted with the old root key; counters restart at 0.

        The role is that in the new agreement; it may differ from the old one.

        Raises:
            InvalidKeyError: ``combined`` is not 64 bytes; nothing has changed then.
        """
        self._install(derive_key_material(combined, salt=self._root_key, info=RATCHET_INFO), role)

    def _install(self, material: bytes, role: HybridRole) -> None:
        self._root_key, first, second = (material[at : at + HYBRID_KEY_LEN] for at in (0, 32, 64))
        if role is HybridRole.RESPONDER:
            first, second = second, first
        self._sending_key, self._receiving_key = first, second
        self.sent = 0
        self.received = 0
