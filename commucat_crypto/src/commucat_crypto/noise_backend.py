"""BLAKE2s for the Noise library, from Python's standard library.

The library's own goes through OpenSSL's general interface, which costs six times the hash of these short
inputs; a handshake makes 9 hashes and 12 HMACs.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from noise.backends.default import DefaultNoiseBackend

HASH_LEN: Final = 32
BLOCK_LEN: Final = 64
# RFC 2104, section 2.
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))


class Blake2s:
    """The hash function as the library's state objects call it (Noise Protocol Framework, section 12.8)."""

    hashlen = HASH_LEN
    blocklen = BLOCK_LEN
    fn = hashlib.blake2s
    """What the library passes on to ``hmac`` as ``algorithm``."""

    def hash(self, data: bytes) -> bytes:
        """32 bytes."""
        return hashlib.blake2s(data).digest()


def hmac_blake2s(key: bytes, data: bytes, algorithm: object = None) -> bytes:
    """HMAC (RFC 2104) with BLAKE2s: 32 bytes. ``key`` has at most 64; ``algorithm`` is of no account."""
    block = key.ljust(BLOCK_LEN, b"\0")
    inner = hashlib.blake2s(block.translate(_INNER) + data).digest()
    return hashlib.blake2s(block.translate(_OUTER) + inner).digest()


class NoiseBackend(DefaultNoiseBackend):  # type: ignore[misc]  # the library types nothing
    """The library's default, but for the hash."""

    hmac: Callable[..., bytes]

    def __init__(self) -> None:
        super().__init__()
        self.hashes["BLAKE2s"] = Blake2s
        self.hmac = hmac_blake2s
