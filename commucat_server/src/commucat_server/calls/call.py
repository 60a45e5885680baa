"""One call, and what is said of it."""

from typing import Any

import attrs

from commucat_proto.calls import CallMediaProfile

_MOST_NAMED = 100
"""Devices that a record of the ledger names: it has a size limit."""


class CallRefusedError(Exception):
    """A call frame that does not fit the calls there are; ``kind`` is for the Error frame."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@attrs.define(eq=False, kw_only=True)
class Call:
    """One call. Devices are either in it, or invited and ringing. Times of a monotonic clock in seconds."""

    call_id: str
    channel: int
    initiator: str
    mode: str
    video: bool
    began: float
    deadline: float
    """Until then somebody has to accept, or, once somebody has, to be heard."""
    ring_until: float = 0.0
    joined: set[str]
    invited: set[str] = attrs.Factory(set)
    coming: set[str] = attrs.Factory(set)
    """Invited ones whose answer is on its way to the disk: they have a place."""
    answering: dict[str, str] = attrs.Factory(dict)
    """Of each user who was called, the device that has accepted here, also while that is on its way to the
    disk: only one does so for its user."""
    came: set[str] = attrs.Factory(set)
    """Those that accepted, in the call still or not."""
    gone: set[str] = attrs.Factory(set)
    """Those that declined, have left, or ring no more."""
    away: dict[str, float] = attrs.Factory(dict)
    """Of those in the call, the ones that are not connected, and until when they may come back."""
    stored: bool = False
    """The offer is on disk and was delivered; nobody else can know of the call before."""
    accepted: bool = False
    home: bool = True
    """This node ends it when its time is over: it was begun here, or its node is no more."""
    heard: bool = False
    """Something of it was heard here since other nodes were told so."""
    recovered: bool = False
    """It was begun by a process that is no more."""
    media: dict[str, CallMediaProfile] = attrs.Factory(dict)
    """What devices have announced of their media, those that did it on this node."""
    group_id: str | None = None
    started_at: int = 0
    """Unix seconds; so are the other two."""
    answered_at: int | None = None
    ended_at: int | None = None
    end_reason: str = ""
    ended_by: str = ""

    def media_of(self, device_id: str) -> CallMediaProfile | None:
        """What a device said that it sends, or else what the call was offered with; None if neither is
        known here."""
        return self.media.get(device_id) or self.media.get(self.initiator)

    @property
    def participants(self) -> set[str]:
        return self.joined | self.invited

    @property
    def over_at(self) -> float:
        """When it is over if nothing happens before."""
        if self.accepted and len(self.joined) < 2:
            # It went on without the others; who is invited may come as long as it would have rung.
            return min(self.deadline, self.ring_until)
        return self.deadline


def offer_record(call: Call) -> dict[str, Any]:
    """What the ledger keeps of an offer. Of a large group only the first devices, in the order of their
    ids."""
    participants = sorted(call.participants)
    return {
        "channel_id": call.channel,
        "initiator": call.initiator,
        "participants": participants[:_MOST_NAMED],
        "participant_count": len(participants),
        "mode": call.mode,
        "video": call.video,
    }


def end_record(call: Call, device_id: str, reason: str, now: float) -> dict[str, Any]:
    """What the ledger keeps of an end. ``duration_secs`` counts from the offer."""
    ringing = now - call.began if call.answered_at is None else call.answered_at - call.started_at
    return {
        "device": device_id,
        "initiator": call.initiator,
        "reason": reason,
        "duration_secs": max(0, int(now - call.began)),
        "ringing_secs": max(0, int(ringing)),
        "participants": len(call.came) + 1,
    }
