"""What a server's Ed25519 key says about one of its Noise static keys.

Clients keep the Ed25519 key, the certificate authority, from their first login on, and learn by it which
Noise keys are the server's, wherever they hear of them. Signed is::

    "commucat:noise-key:v1" | u16 length of domain | domain, UTF-8 | u64 version | public (32)
        | u64 valid_after | u64 rotates_at | u64 expires_at

with big-endian numbers; times are Unix seconds. No certificate (JSON), event (32 bytes) or ledger head begins
like this, so that no signature of the same key can be taken for one of these.
"""

import struct
from typing import Final

import attrs

from .device_keys import DeviceKeyPair, verify_signature
from .errors import InvalidKeyError

_CONTEXT: Final = b"commucat:noise-key:v1"
_KEY_LEN: Final = 32
_MAX_NUMBER: Final = 2**64 - 1
_MAX_DOMAIN: Final = 2**16 - 1


@attrs.frozen(kw_only=True)
class NoiseKeyStatement:
    """One version of a server's Noise static key, and when it counts.

    Raises:
        InvalidKeyError: a member is out of range.
    """

    domain: str
    version: int
    public: bytes
    """X25519, 32 bytes."""
    valid_after: int
    rotates_at: int
    """When the server means to make the next version."""
    expires_at: int
    """When it stops to answer to this one."""

    def __attrs_post_init__(self) -> None:
        numbers = (self.version, self.valid_after, self.rotates_at, self.expires_at)
        if any(not 0 <= number <= _MAX_NUMBER for number in numbers):
            raise InvalidKeyError("version and times of a Noise key are numbers of 64 bits")
        if len(self.public) != _KEY_LEN:
            raise InvalidKeyError(f"a Noise key has {_KEY_LEN} bytes, not {len(self.public)}")
        if len(self.domain.encode()) > _MAX_DOMAIN:
            raise InvalidKeyError("the domain is too long")

    def signed_bytes(self) -> bytes:
        """What is signed, in the layout of this module."""
        domain = self.domain.encode()
        numbers = struct.pack(">QQQ", self.valid_after, self.rotates_at, self.expires_at)
        head = _CONTEXT + struct.pack(">H", len(domain)) + domain
        return head + struct.pack(">Q", self.version) + self.public + numbers

    def sign(self, authority: DeviceKeyPair) -> bytes:
        """The signature of the server's key, 64 bytes."""
        return authority.sign(self.signed_bytes())

    def verify(self, authority_public: bytes, signature: bytes) -> None:
        """Check that the server with this Ed25519 key says so. Times are not part of this check.

        Raises:
            SignatureError: it does not.
        """
        verify_signature(authority_public, self.signed_bytes(), signature)
