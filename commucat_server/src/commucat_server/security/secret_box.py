"""Encryption of the server's secrets at rest.

Sealed: ``nonce (12) | ChaCha20-Poly1305 ciphertext | tag (16)`` (RFC 8439), the associated data
being ``name|version``, so that a row cannot be passed off as another. The row's metadata name the
cipher and the key, not the value: ``{"cipher":"chacha20poly1305","key_id":"<16 hex>"}``. Rows
without ``cipher`` hold the secret itself.
"""

import json
import secrets
from typing import Final

import attrs
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from commucat_storage.records import Secret

KEY_LEN: Final = 32
_NONCE_LEN: Final = 12
_CIPHER: Final = "chacha20poly1305"
# Contexts of BLAKE3's key derivation: the key identifier says nothing about the key in use.
_KEY_CONTEXT: Final = "commucat 2026 secrets at rest, encryption key"
_ID_CONTEXT: Final = "commucat 2026 secrets at rest, key identifier"
_ID_LEN: Final = 8


class SecretBoxError(Exception):
    """A stored secret cannot be decrypted; the text says what is needed, and holds no secret."""


@attrs.frozen(kw_only=True)
class SealedSecret:
    """What to store for a secret: the columns ``secret`` and ``metadata``."""

    secret: bytes = attrs.field(repr=False)
    metadata: str


class SecretBox:
    """Seals and opens secrets with one 32-byte key; without a key it stores them as they are."""

    def __init__(self, key: bytes | None) -> None:
        """Take the configured key.

        Raises:
            ValueError: it is not 32 bytes.
        """
        self._cipher: ChaCha20Poly1305 | None = None
        self._key_id = ""
        if key is not None:
            if len(key) != KEY_LEN:
                raise ValueError(f"the key of a secret box is {KEY_LEN} bytes long")
            self._cipher = ChaCha20Poly1305(blake3(key, derive_key_context=_KEY_CONTEXT).digest())
            self._key_id = blake3(key, derive_key_context=_ID_CONTEXT).digest(_ID_LEN).hex()

    @property
    def has_key(self) -> bool:
        return self._cipher is not None

    def seal(self, name: str, version: int, secret: bytes) -> SealedSecret:
        """Encrypt a secret for the row ``name``, ``version``."""
        if self._cipher is None:
            return SealedSecret(secret=secret, metadata="{}")
        nonce = secrets.token_bytes(_NONCE_LEN)
        sealed = nonce + self._cipher.encrypt(nonce, secret, _bound_to(name, version))
        metadata = json.dumps({"cipher": _CIPHER, "key_id": self._key_id}, separators=(",", ":"))
        return SealedSecret(secret=sealed, metadata=metadata)

    def is_sealed(self, row: Secret) -> bool:
        """Tell whether a row is encrypted.

        Raises:
            SecretBoxError: its metadata are unreadable.
        """
        return "cipher" in _metadata(row)

    def open(self, row: Secret) -> bytes:
        """Return the secret of a row, decrypted if it is encrypted.

        Raises:
            SecretBoxError: there is no key, another one is needed, or the row was changed.
        """
        metadata = _metadata(row)
        what = f"{row.name} version {row.version} in the store"
        if "cipher" not in metadata:
            return row.secret
        if metadata["cipher"] != _CIPHER:
            raise SecretBoxError(f"{what} is encrypted in a way this version does not know")
        if self._cipher is None:
            raise SecretBoxError(f"{what} is encrypted; set COMMUCAT_SECRET_KEY (security.secret_key)")
        if metadata.get("key_id") != self._key_id:
            raise SecretBoxError(f"{what} is encrypted with another key; set the earlier COMMUCAT_SECRET_KEY")
        nonce, ciphertext = row.secret[:_NONCE_LEN], row.secret[_NONCE_LEN:]
        try:
            return self._cipher.decrypt(nonce, ciphertext, _bound_to(row.name, row.version))
        except (InvalidTag, ValueError) as exc:
            raise SecretBoxError(f"{what} was changed or damaged; restore a backup of the store") from exc


def _bound_to(name: str, version: int) -> bytes:
    return f"{name}|{version}".encode()


def _metadata(row: Secret) -> dict[str, object]:
    try:
        metadata = json.loads(row.metadata)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise SecretBoxError(f"{row.name} version {row.version} in the store has unreadable metadata")
    return metadata
