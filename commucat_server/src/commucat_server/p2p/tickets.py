"""Tickets for the relay, for clients that cannot send a header: they go into the address.

A ticket is its end (4 bytes, Unix seconds), 8 random bytes and the owner's tag (8 bytes), then a keyed
hash of these (16 bytes), in hexadecimal digits. It names nobody to others: the tag is a keyed hash of the
user's id.
"""

import hmac
import re
import secrets
import struct
from collections.abc import Callable
from typing import Final

from blake3 import blake3

from commucat_crypto import DeviceKeyPair

_KEY_CONTEXT: Final = b"commucat:relay-ticket-key:v1"
_FORM: Final = re.compile(r"[0-9a-f]{72}")
_HEAD: Final = struct.Struct("!I8s8s")
_CODE_LEN: Final = 16


class RelayTickets:
    """Issues and checks tickets under a key derived from the server's identity; nothing is stored."""

    def __init__(self, authority: DeviceKeyPair, clock: Callable[[], float]) -> None:
        self._key = blake3(_KEY_CONTEXT + authority.private).digest()
        self._clock = clock

    def tag_of(self, owner: str) -> str:
        """What limits count by: 16 hexadecimal digits for a user id, or for an address."""
        return self._tag(owner).hex()

    def issue(self, user_id: str, lifetime: int) -> tuple[str, int]:
        """A ticket for a user, and its end in Unix seconds."""
        expires_at = min(int(self._clock()) + lifetime, 2**32 - 1)
        head = _HEAD.pack(expires_at, secrets.token_bytes(8), self._tag(user_id))
        return (head + self._code(head)).hex(), expires_at

    def owner_of(self, ticket: str) -> str | None:
        """The tag of a ticket's owner; ``None`` if it is none of ours, or its time is over."""
        if not _FORM.fullmatch(ticket):
            return None
        data = bytes.fromhex(ticket)
        head, code = data[:-_CODE_LEN], data[-_CODE_LEN:]
        if not hmac.compare_digest(self._code(head), code):
            return None
        expires_at, _, tag = _HEAD.unpack(head)
        return tag.hex() if expires_at > self._clock() else None

    def _tag(self, owner: str) -> bytes:
        return blake3(b"owner:" + owner.encode(), key=self._key).digest()[:8]

    def _code(self, head: bytes) -> bytes:
        return blake3(b"ticket:" + head, key=self._key).digest()[:_CODE_LEN]
