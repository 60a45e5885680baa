"""Noise transport messages: what an established session encrypts and decrypts with.

Each direction has its own ChaCha20-Poly1305 key and a 64-bit counter from 0; the
nonce is four zero bytes and the counter, little-endian; the associated data is
empty; keys are never changed (Noise Protocol Framework, sections 5.1 and 12.3).
"""

import struct
from typing import Final

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
_pack_nonce = struct.Struct("<4xQ").pack


class NoiseTransport:
    """Both directions of an established session, or one of a one-way pattern.

    Messages must be decrypted in the order they were encrypted in. This runs for
    every message that a server relays, so it calls the cipher without any layer
    between; an object belongs to one task at a time.

    Raises:
        NoiseError: a key is not 32 bytes.
    """

    __slots__ = ("_open", "_received", "_seal", "_sent")

    def __init__(self, *, send_key: bytes | None, receive_key: bytes | None) -> None:
        try:
            self._seal = None if send_key is None else ChaCha20Poly1305(send_key).encrypt
            self._open = None if receive_key is None else ChaCha20Poly1305(receive_key).decrypt
        except ValueError as exc:
            raise NoiseError("a transport key is 32 bytes long") from exc
        self._sent = 0
        self._received = 0

    @property
    def sent(self) -> int:
        """Messages encrypted so far; the counter of the next one."""
        return self._sent

    @property
    def received(self) -> int:
        """Messages decrypted so far; the counter of the next one."""
        return self._received

    def encrypt(self, plaintext: bytes | bytearray | memoryview) -> bytes:
        """Return the next message: the plaintext's length plus 16 bytes.

        Raises:
            NoiseError: more than 65,519 bytes, counter used up, or a receive-only
                transport. Nothing has changed then.
        """
        if len(plaintext) > MAX_NOISE_PLAINTEXT:
            raise NoiseError(f"a Noise message holds at most {MAX_NOISE_PLAINTEXT} bytes")
        counter = self._sent
        if self._seal is None or counter == _NONCE_LIMIT:
            raise NoiseError("this transport cannot send")
        ciphertext = self._seal(_pack_nonce(counter), plaintext, None)
        self._sent = counter + 1
        return ciphertext

    def decrypt(self, ciphertext: bytes | bytearray | memoryview) -> bytes:
        """Return the plaintext of the peer's next message.

        Raises:
            NoiseError: not the peer's next message, longer than 65,535 bytes, counter
                used up, or a send-only transport. The counter has not advanced then.
        """
        if len(ciphertext) > MAX_NOISE_MESSAGE:
            raise NoiseError(f"a Noise message has at most {MAX_NOISE_MESSAGE} bytes")
        counter = self._received
        if self._open is None or counter == _NONCE_LIMIT:
            raise NoiseError("this transport cannot receive")
        try:
            plaintext = self._open(_pack_nonce(counter), ciphertext, None)
        except InvalidTag as exc:
            raise NoiseError("the message does not decrypt") from exc
        self._received = counter + 1
        return plaintext
