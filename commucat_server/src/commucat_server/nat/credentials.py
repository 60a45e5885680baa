"""Credentials for the server's own STUN responder, which keep themselves: nothing is stored.

A fragment is the time of its end (4 bytes) and 4 random ones, in hexadecimal digits; its password is a
keyed hash of it. So every worker and every node of one identity checks what any of them has issued, and a
flood of requests for credentials fills no table.
"""

import re
import secrets
import struct
from collections.abc import Callable
from typing import Final

import attrs
from blake3 import blake3

from commucat_crypto import DeviceKeyPair

_KEY_CONTEXT: Final = b"commucat:ice-credential-key:v1"
_FORM: Final = re.compile(r"[0-9a-f]{16}")
"""Of a fragment. RFC 8445, section 5.3 asks for 24 random bits, and there are 32."""


@attrs.frozen(kw_only=True)
class IceCredential:
    """What a client proves itself with: ``username_fragment`` and the password of MESSAGE-INTEGRITY."""

    fragment: str
    password: str = attrs.field(repr=False)
    """64 hexadecimal digits."""
    expires_at: int
    """Unix seconds."""


class IceCredentials:
    """Issues and checks them under a key derived from the server's identity."""

    def __init__(self, authority: DeviceKeyPair, clock: Callable[[], float]) -> None:
        self._key = blake3(_KEY_CONTEXT + authority.private).digest()
        self._clock = clock

    def issue(self, lifetime: int) -> IceCredential:
        """A new one, good for ``lifetime`` seconds."""
        # 32 bits of Unix time last until 2106.
        expires_at = min(int(self._clock()) + lifetime, 2**32 - 1)
        fragment = (struct.pack("!I", expires_at) + secrets.token_bytes(4)).hex()
        return IceCredential(fragment=fragment, password=self._password(fragment), expires_at=expires_at)

    def password_of(self, username: bytes) -> bytes | None:
        """The password of a USERNAME: our fragment, alone or before ``:`` and the client's own.

        ``None``: we have not issued it in this form, or its time is over.
        """
        fragment = username.partition(b":")[0].decode("ascii", "replace")
        if not _FORM.fullmatch(fragment) or int(fragment[:8], 16) <= self._clock():
            return None
        return self._password(fragment).encode()

    def _password(self, fragment: str) -> str:
        return blake3(fragment.encode(), key=self._key).hexdigest()
