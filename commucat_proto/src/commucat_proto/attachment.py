"""Attachments: a file that its sender encrypts, uploads as a blob, and names in a sealed message.

All integers are little-endian. From the attachment's 32-byte key K: ``encryption key = BLAKE3.derive_key(
"commucat attachment v1 encryption", K)``.

**Blob.** The file is cut into pieces of 65,536 bytes, the last one 0 to 65,536 (0 only if the file is
empty). Each is encrypted with ChaCha20-Poly1305 (RFC 8439). Nonce: ``u64 number of the piece, from 0`` +
three zero bytes + ``u8``: 1 for the last piece, else 0. Associated data: ``"commucat:attachment:v1"``, the
number (u64), the last-piece byte, and the length of the whole file (u64). So lost, moved, doubled or added
pieces, and a blob that is cut off, do not decrypt.

**Note.** What the sealed message has for its text: :data:`MARK` and a JSON object with ``id`` (under which
the server has the blob; text), ``key`` (K, 64 hex digits), ``size`` (of the file), ``name`` (as the sender
calls it) and ``blake3`` (of the file, 64 hex digits).

One K encrypts one file: the same piece number with another content under the same K would reveal both.
"""

import re
import struct
from typing import Final

import attrs
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from commucat_proto import json_text
from commucat_proto.errors import ProtoError

PIECE_LEN: Final = 65_536
"""Bytes of the file in each piece but the last."""
TAG_LEN: Final = 16
SEALED_PIECE_LEN: Final = PIECE_LEN + TAG_LEN
KEY_LEN: Final = 32
MAX_FILE_LEN: Final = 2**50
"""Bytes; a note with more is refused."""
MAX_NAME_LEN: Final = 1024
"""Characters."""
MARK: Final = "\x1ecommucat-attachment:v1\n"
"""Begins the text of a message that is a note. U+001E (record separator) is in no text that people type."""

_CONTEXT = "commucat attachment v1 encryption"
_PREFIX = b"commucat:attachment:v1"
_NONCE = struct.Struct("<Q3xB")
_BOUND = struct.Struct("<QBQ")
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_HEX = re.compile(r"[0-9a-f]{64}")


class AttachmentError(ProtoError):
    """A note that is none, or a blob that is not what its note says."""


@attrs.frozen(kw_only=True)
class AttachmentNote:
    """What a message says of an attachment."""

    attachment_id: str
    key: bytes = attrs.field(repr=False)
    size: int
    """Bytes of the file."""
    name: str
    """As the sender calls it: any text, and no name of a file before :func:`safe_name` made it one."""
    digest: bytes
    """BLAKE3 of the file."""

    @property
    def blob_size(self) -> int:
        """Bytes of the blob."""
        return self.size + TAG_LEN * pieces_of(self.size)

    def to_text(self) -> str:
        """The text of the message."""
        document: dict[str, json_text.JsonValue] = {
            "id": self.attachment_id,
            "key": self.key.hex(),
            "size": self.size,
            "name": self.name,
            "blake3": self.digest.hex(),
        }
        return MARK + json_text.dumps(document).decode()

    @classmethod
    def from_text(cls, text: str) -> "AttachmentNote | None":
        """The note that a message's text is; None for an ordinary text.

        Raises:
            AttachmentError: it begins like a note and is none.
        """
        if not text.startswith(MARK):
            return None
        try:
            value = json_text.loads(text.removeprefix(MARK).encode())
        except (json_text.JsonTextError, UnicodeEncodeError) as exc:
            raise AttachmentError("an attachment is not described in JSON") from exc
        if not isinstance(value, dict):
            raise AttachmentError("an attachment is not described by an object")
        attachment_id, size, name = value.get("id"), value.get("size"), value.get("name")
        if not isinstance(attachment_id, str) or not _ID.fullmatch(attachment_id):
            raise AttachmentError("an attachment has no id")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_FILE_LEN:
            raise AttachmentError("an attachment has no size")
        if not isinstance(name, str) or len(name) > MAX_NAME_LEN:
            raise AttachmentError("an attachment has no name")
        return cls(
            attachment_id=attachment_id,
            key=_hex(value, "key"),
            size=size,
            name=name,
            digest=_hex(value, "blake3"),
        )


class AttachmentCipher:
    """Encrypts and decrypts the pieces of one file. Knows no order: any piece at any time."""

    def __init__(self, key: bytes, size: int) -> None:
        """``size``: bytes of the file.

        Raises:
            ValueError: the key has not 32 bytes, or there is no such size.
        """
        if len(key) != KEY_LEN or not 0 <= size <= MAX_FILE_LEN:
            raise ValueError("a key has 32 bytes, and a file a size")
        self._cipher = ChaCha20Poly1305(blake3(key, derive_key_context=_CONTEXT).digest())
        self._size = size
        self.pieces = pieces_of(size)

    def piece_len(self, number: int) -> int:
        """Bytes of the file in the piece."""
        self._check(number)
        return min(PIECE_LEN, self._size - number * PIECE_LEN)

    def encrypt(self, number: int, piece: bytes) -> bytes:
        """The bytes of the blob for a piece of the file.

        Raises:
            ValueError: it is not as long as this piece is.
        """
        if len(piece) != self.piece_len(number):
            raise ValueError("the piece has another length")
        return self._cipher.encrypt(self._nonce(number), piece, self._bound(number))

    def decrypt(self, number: int, sealed: bytes) -> bytes:
        """The piece of the file for those bytes of the blob.

        Raises:
            AttachmentError: they are not what was encrypted for this place of this file.
        """
        if len(sealed) != self.piece_len(number) + TAG_LEN:
            raise AttachmentError("a piece of the attachment has another length")
        try:
            return self._cipher.decrypt(self._nonce(number), sealed, self._bound(number))
        except InvalidTag as exc:
            raise AttachmentError("a piece of the attachment does not decrypt") from exc

    def _check(self, number: int) -> None:
        if not 0 <= number < self.pieces:
            raise ValueError("there is no such piece")

    def _is_last(self, number: int) -> bool:
        return number == self.pieces - 1

    def _nonce(self, number: int) -> bytes:
        return _NONCE.pack(number, self._is_last(number))

    def _bound(self, number: int) -> bytes:
        return _PREFIX + _BOUND.pack(number, self._is_last(number), self._size)


def pieces_of(size: int) -> int:
    """How many pieces a file of that many bytes has; at least one."""
    return max(1, -(-size // PIECE_LEN))


_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]')
_MAX_FILE_NAME = 180
"""Bytes, so that there is room for what makes a name unique within the 255 of common file systems."""


def safe_name(name: str) -> str:
    """A file name in one folder, whatever the sender calls the file: no path, nothing hidden, no controls."""
    last = re.split(r"[/\\]", name)[-1]
    clean = _UNSAFE.sub("_", last.encode("utf-8", "replace").decode()).strip().strip(".").strip()
    stem, dot, suffix = clean.rpartition(".")
    if not dot or len(suffix.encode()) > 20:
        stem, dot, suffix = clean, "", ""
    room = _MAX_FILE_NAME - len((dot + suffix).encode())
    short = stem.encode()[:room].decode("utf-8", "ignore").rstrip()
    return f"{short}{dot}{suffix}" if short else "attachment"


def _hex(value: "dict[str, object]", name: str) -> bytes:
    text = value.get(name)
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise AttachmentError(f"an attachment has no {name}")
    return bytes.fromhex(text)
