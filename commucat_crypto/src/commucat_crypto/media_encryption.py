"""End-to-end encryption of media packets (docs/protocol.md, "Encrypted media").

Each participant of a call makes one random key for the packets it sends in this call. Data of a packet is
ChaCha20-Poly1305 (RFC 8439) under that key; all integers are big-endian::

    nonce            = stream u32 | number u32 | 4 zero bytes
    associated data  = the packet's 17-byte header, which holds stream (offset 5) and number (offset 9)

A number is used once per stream. Whoever sends must never repeat one: two packets under one nonce would
reveal both. Whoever receives drops what it has seen.
"""

import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from .errors import InvalidKeyError, MediaDecryptionError, MediaReplayError

MEDIA_KEY_LEN: Final = 32
MEDIA_HEADER_LEN: Final = 17
"""Bytes of the header of a media packet of version 2."""
MEDIA_TAG_LEN: Final = 16
REPLAY_WINDOW: Final = 1024
"""Numbers below the highest one that may still come: 20 s of voice, some seconds of video."""
MAX_STREAMS: Final = 16
"""Streams of one sender in one call, far more than voice and video of three layers need. Only the owner of
the key can begin one, and it shall not fill the receiver's memory either."""

_PLACE = struct.Struct(">5xII4x")
_NONCE = struct.Struct(">II4x")


def _cipher(key: bytes) -> ChaCha20Poly1305:
    if len(key) != MEDIA_KEY_LEN:
        raise InvalidKeyError(f"a media key has {MEDIA_KEY_LEN} bytes")
    return ChaCha20Poly1305(key)


class MediaEncryptor:
    """Encrypts the packets that one device sends in one call."""

    def __init__(self, key: bytes) -> None:
        """``key``: 32 random bytes of this device and this call alone.

        Raises:
            InvalidKeyError: it has another length.
        """
        self._cipher = _cipher(key)
        self._next: dict[int, int] = {}

    def encrypt(self, header: bytes, data: bytes) -> bytes:
        """The data of the packet that begins with ``header``: 16 bytes more than ``data``.

        Raises:
            ValueError: the header has not 17 bytes, or its number does not rise within its stream.
        """
        stream, number = _place(header)
        if number < self._next.get(stream, 0):
            raise ValueError("a number of a stream is used once, and they rise")
        self._next[stream] = number + 1
        return self._cipher.encrypt(_NONCE.pack(stream, number), data, header)


class MediaDecryptor:
    """Decrypts the packets of one sender in one call, each once, in whatever order they come."""

    def __init__(self, key: bytes) -> None:
        """``key``: the sender's.

        Raises:
            InvalidKeyError: it has not 32 bytes.
        """
        self._cipher = _cipher(key)
        self._seen: dict[int, _Window] = {}

    def decrypt(self, header: bytes, data: bytes) -> bytes:
        """What the sender encrypted.

        Raises:
            ValueError: the header has not 17 bytes.
            MediaReplayError: this packet has come before, or is too old to tell.
            MediaDecryptionError: header or data are not the sender's, or it has too many streams.
        """
        stream, number = _place(header)
        window = self._seen.get(stream)
        if window is not None and window.has(number):
            raise MediaReplayError("this media packet has come before, or is too old")
        try:
            plain = self._cipher.decrypt(_NONCE.pack(stream, number), data, header)
        except InvalidTag as exc:
            raise MediaDecryptionError("a media packet does not decrypt") from exc
        # Only now: what is not the sender's must not use up numbers.
        if window is None:
            if len(self._seen) >= MAX_STREAMS:
                raise MediaDecryptionError(f"more than {MAX_STREAMS} streams of one sender")
            window = self._seen[stream] = _Window()
        window.add(number)
        return plain


class _Window:
    """Which of the last numbers were there; bit 0 is the highest (RFC 4303, section 3.4.3)."""

    __slots__ = ("_bits", "_highest")

    def __init__(self) -> None:
        self._highest = -1
        self._bits = 0

    def has(self, number: int) -> bool:
        behind = self._highest - number
        return behind >= 0 and (behind >= REPLAY_WINDOW or bool(self._bits >> behind & 1))

    def add(self, number: int) -> None:
        ahead = number - self._highest
        if ahead <= 0:
            self._bits |= 1 << -ahead
            return
        # A jump over the whole window leaves nothing of it; the shift must not grow with the jump.
        kept = self._bits << ahead if ahead < REPLAY_WINDOW else 0
        self._bits = (kept | 1) & ((1 << REPLAY_WINDOW) - 1)
        self._highest = number


def _place(header: bytes) -> tuple[int, int]:
    if len(header) != MEDIA_HEADER_LEN:
        raise ValueError(f"the header of a media packet has {MEDIA_HEADER_LEN} bytes")
    stream, number = _PLACE.unpack(header)
    return stream, number
