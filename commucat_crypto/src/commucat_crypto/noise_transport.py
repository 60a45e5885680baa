"""Noise transport messages: what an established session encrypts and decrypts with.

Each direction has its own ChaCha20-Poly1305 key and a 64-bit counter from 0; the
nonce is four zero bytes and the counter, little-endian; the associated data is
empty; keys are never changed (Noise Protocol Framework, sections 5.1 and 12.3).
"""

import struct
from collections.abc import Callable
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from .errors import NoiseError

MAX_NOISE_MESSAGE: Final = 65_535
"""Longest Noise message in bytes, tags included (Noise Protocol Framework, section 3)."""
TAG_LEN: Final = 16
"""Bytes that encryption adds to a plaintext."""
MAX_NOISE_PLAINTEXT: Final = MAX_NOISE_MESSAGE - TAG_LEN
"""Longest plaintext of one transport message in bytes."""

# The last counter value is reserved (Noise Protocol Framework, section 5.1).
_NONCE_LIMIT: Final = 2**64 - 1
_KEY_LEN: Final = 32
_pack_nonce = struct.Struct("<4xQ").pack
_Bytes: TypeAlias = bytes | bytearray | memoryview
_Cipher: TypeAlias = Callable[[bytes, _Bytes, bytes | None], bytes]
"""Nonce, text and associated data in, the other text out."""


class NoiseTransport:
    """Both directions of an established session, or one of a one-way pattern.

    Messages must be decrypted in the order they were encrypted in. This runs for
    every message that a server relays, so it calls the cipher without any layer
    between; an object belongs to one task at a time. A cipher takes 2 KiB, and most
    sessions are silent: it is made when it is first needed.

    Raises:
        NoiseError: a key is not 32 bytes.
    """

    __slots__ = ("_open", "_receive_key", "_received", "_rested_at", "_seal", "_send_key", "_sent")

    def __init__(self, *, send_key: bytes | None, receive_key: bytes | None) -> None:
        if any(key is not None and len(key) != _KEY_LEN for key in (send_key, receive_key)):
            raise NoiseError("a transport key is 32 bytes long")
        self._send_key = send_key
        self._receive_key = receive_key
        self._seal: _Cipher | None = None
        self._open: _Cipher | None = None
        self._sent = 0
        self._received = 0
        self._rested_at = 0

    def rest(self) -> None:
        """Put the ciphers away if they were not used since the last call; the next message makes new ones."""
        used = self._sent + self._received
        if used == self._rested_at:
            self._seal = self._open = None
        self._rested_at = used

    @property
    def sent(self) -> int:
        """Messages encrypted so far; the counter of the next one."""
        return self._sent

    @property
    def received(self) -> int:
        """Messages decrypted so far; the counter of the next one."""
        return self._received

    def encrypt(self, plaintext: _Bytes) -> bytes:
        """Return the next message: the plaintext's length plus 16 bytes.

        Raises:
            NoiseError: more than 65,519 bytes, counter used up, or a receive-only
                transport. Nothing has changed then.
        """
        if len(plaintext) > MAX_NOISE_PLAINTEXT:
            raise NoiseError(f"a Noise message holds at most {MAX_NOISE_PLAINTEXT} bytes")
        counter = self._sent
        if self._send_key is None or counter == _NONCE_LIMIT:
            raise NoiseError("this transport cannot send")
        seal = self._seal
        if seal is None:
            seal = self._seal = ChaCha20Poly1305(self._send_key).encrypt
        ciphertext = seal(_pack_nonce(counter), plaintext, None)
        self._sent = counter + 1
        return ciphertext

    def decrypt(self, ciphertext: _Bytes) -> bytes:
        """Return the plaintext of the peer's next message.

        Raises:
            NoiseError: not the peer's next message, longer than 65,535 bytes, counter
                used up, or a send-only transport. The counter has not advanced then.
        """
        if len(ciphertext) > MAX_NOISE_MESSAGE:
            raise NoiseError(f"a Noise message has at most {MAX_NOISE_MESSAGE} bytes")
        counter = self._received
        if self._receive_key is None or counter == _NONCE_LIMIT:
            raise NoiseError("this transport cannot receive")
        decrypt = self._open
        if decrypt is None:
            decrypt = self._open = ChaCha20Poly1305(self._receive_key).decrypt
        try:
            plaintext = decrypt(_pack_nonce(counter), ciphertext, None)
        except InvalidTag as exc:
            raise NoiseError("the message does not decrypt") from exc
        self._received = counter + 1
        return plaintext
