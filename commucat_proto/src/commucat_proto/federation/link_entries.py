"""What servers tell each other of accounts on both that belong to one person: whether their users say so, and
how far the devices of one have read.

Both are entries of a batch, or payloads of an event, beside messages. ``user`` is a handle of the sending
server, ``account`` the ``handle@domain`` of a user of the receiving one. What is told under a version
replaces what was told under lower ones.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from commucat_proto.federation.entry_members import name_member, whole_member
from commucat_proto.federation.relayed_message import MAX_ADDRESS, RelayedFormatError
from commucat_proto.json_text import JsonValue

LINK: Final = "account_link"
OFFSETS: Final = "inbox_offsets"
LINK_WORDS: Final = ("asks", "agrees", "ends")
"""What is said of a link: the user declares it; the same, and the other side's declaration is known; it has
ended."""
MAX_TOLD_DEVICES: Final = 128
_MOST_VERSION: Final = 253_402_300_799_999_999
"""Versions are microseconds since 1970, up to the year 9999: people are shown them as times."""
_MOST_NUMBER: Final = 2**32


@attrs.frozen(kw_only=True)
class LinkEntry:
    """What a user of the sending server says of a link."""

    user: str
    account: str
    word: str
    """One of :data:`LINK_WORDS`."""
    version: int

    def to_wire(self) -> dict[str, JsonValue]:
        """All but the type."""
        return {"user": self.user, "account": self.account, "word": self.word, "version": self.version}


@attrs.frozen(kw_only=True)
class DeviceOffset:
    """Where the inbox of one device stands."""

    device: str
    """As the sending server knows it, without a domain."""
    epoch: str
    next: int
    """The number that its next message gets, 1 to 2^32."""
    confirmed: int
    """Below ``next``: up to here it has confirmed everything."""
    waiting: int
    """Messages that wait for it, at most those between the two."""


@attrs.frozen(kw_only=True)
class OffsetsEntry:
    """Where the inboxes of all active devices of a user stand."""

    user: str
    account: str
    version: int
    offsets: Sequence[DeviceOffset]
    """At most :data:`MAX_TOLD_DEVICES`."""

    def to_wire(self) -> dict[str, JsonValue]:
        """All but the type."""
        return {
            "user": self.user,
            "account": self.account,
            "version": self.version,
            "offsets": [attrs.asdict(each) for each in self.offsets],
        }


def link_entry_of(value: JsonValue) -> LinkEntry | OffsetsEntry | None:
    """Read an entry or a payload; None if it is of another type.

    Raises:
        RelayedFormatError: it says that it is one, and is not.
    """
    if not isinstance(value, Mapping):
        return None
    match value.get("type"):
        case "account_link":
            word = value.get("word")
            if word not in LINK_WORDS:
                raise RelayedFormatError(f"word must be one of {', '.join(LINK_WORDS)}")
            return LinkEntry(
                user=name_member(value, "user", MAX_ADDRESS),
                account=name_member(value, "account", MAX_ADDRESS),
                word=str(word),
                version=whole_member(value, "version", _MOST_VERSION),
            )
        case "inbox_offsets":
            return OffsetsEntry(
                user=name_member(value, "user", MAX_ADDRESS),
                account=name_member(value, "account", MAX_ADDRESS),
                version=whole_member(value, "version", _MOST_VERSION),
                offsets=_offsets(value.get("offsets")),
            )
        case _:
            return None


def _offsets(value: JsonValue) -> tuple[DeviceOffset, ...]:
    if not isinstance(value, list) or len(value) > MAX_TOLD_DEVICES:
        raise RelayedFormatError(f"offsets must be a list of at most {MAX_TOLD_DEVICES}")
    found = tuple(_offset(each) for each in value)
    if len({each.device for each in found}) < len(found):
        raise RelayedFormatError("offsets name a device twice")
    return found


def _offset(value: JsonValue) -> DeviceOffset:
    if not isinstance(value, Mapping):
        raise RelayedFormatError("an offset must be an object")
    device = name_member(value, "device", MAX_ADDRESS)
    if "@" in device:
        raise RelayedFormatError("device must be one of the sending server")
    ahead = whole_member(value, "next", _MOST_NUMBER)
    confirmed = whole_member(value, "confirmed", _MOST_NUMBER)
    waiting = whole_member(value, "waiting", _MOST_NUMBER)
    if not confirmed < ahead or waiting > ahead - 1 - confirmed:
        raise RelayedFormatError("confirmed and waiting must be below next")
    return DeviceOffset(
        device=device,
        epoch=name_member(value, "epoch", MAX_ADDRESS),
        next=ahead,
        confirmed=confirmed,
        waiting=waiting,
    )
