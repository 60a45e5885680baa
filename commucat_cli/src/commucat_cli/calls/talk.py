"""What a call needs from outside: what is wanted, and who takes the media."""

from collections.abc import Sequence
from typing import Protocol

import attrs

from commucat_cli.calls.party_keys import PartyKeys
from commucat_proto import FrameType
from commucat_proto.calls import CallMediaProfile, CallStats, CallTransportUpdate


class Talk(Protocol):
    """What a call is for: the media of one device, between its files and the line."""

    def begin(self, keys: PartyKeys | None, *, numbered: bool, sole: str | None) -> None:
        """Somebody is there. ``keys`` None: in clear; ``numbered``: packets of version 2; ``sole``: the only
        other device that there will be. Once more when a device is let in that does not encrypt."""

    def left(self, device: str) -> None:
        """Nothing of this device is to be heard any more."""

    def take_media(self, frame_type: FrameType, payload: bytes) -> None:
        """A packet has come; anything may be wrong with it."""

    def take_stats(self, stats: CallStats) -> None:
        """Another device in the call tells how its streams are doing."""

    def take_update(self, update: CallTransportUpdate) -> None:
        """Another device, or the server, tells something about the media."""

    def stats(self, call_id: str) -> Sequence[CallStats]:
        """What the others are to be told, asked once a second."""


@attrs.frozen(kw_only=True)
class LinePlan:
    """What is wanted. ``to`` is empty for a device that waits for a call."""

    to: tuple[str, ...] = ()
    media: CallMediaProfile
    caller: str | None = None
    """Who may call; None: everybody."""
    accept: bool = True
    allow_clear: bool = False
    """Media that is not encrypted end to end is better than none."""
    ring_timeout: float = 30.0
    """Seconds."""
