"""Calls in the store: what a restart and an operator have to know of them. No media, nothing that is said.

Whatever is stored here follows what happens by a moment: a call frame is on disk before it counts, this is
not. Times are Unix seconds.
"""

import abc
from collections.abc import Sequence

import attrs


@attrs.frozen(kw_only=True)
class CallRow:
    """A call from its offer to some time after its end."""

    call_id: str
    channel: int
    group_id: str | None = None
    """The group that the channel led to when the call began; None is found out by the store."""
    initiator: str
    """The device that began it."""
    mode: str
    """``full_duplex`` or ``half_duplex``."""
    video: bool
    participants: tuple[str, ...]
    """The initiator, and the devices at which it rang."""
    accepted: tuple[str, ...] = ()
    """Of these, the ones that came in."""
    gone: tuple[str, ...] = ()
    """Those that declined, have left, or ring no more."""
    node: str
    """The process that ends it when its time is over."""
    started_at: int
    answered_at: int | None = None
    ended_at: int | None = None
    end_reason: str | None = None
    ended_by: str | None = None
    """The device; None for the server itself."""
    last_update: int

    @property
    def joined(self) -> frozenset[str]:
        """Devices that are in the call, or were in it when it ended."""
        return frozenset({self.initiator, *self.accepted}).difference(self.gone)

    @property
    def ringing(self) -> frozenset[str]:
        """Devices that have not answered."""
        return frozenset(self.participants).difference(self.accepted, self.gone, (self.initiator,))


@attrs.frozen(kw_only=True)
class MediaTrack:
    """What one device sends or receives in a call, as its offer, answer and statistics say."""

    call_id: str
    device_id: str
    kind: str
    """``audio`` or ``video``."""
    direction: str
    """``send`` or ``receive``."""
    codec: str | None = None
    bitrate: int | None = None
    """Bits per second."""
    params: str = "{}"
    """A JSON object: how the device announced it."""
    stats: str = "{}"
    """A JSON object: the last statistics that the device sent."""
    created_at: int
    updated_at: int


class CallStore(abc.ABC):
    """Each method is one transaction, apart from those of messages."""

    @abc.abstractmethod
    async def store_calls(self, calls: Sequence[CallRow], tracks: Sequence[MediaTrack]) -> None:
        """Store these as they are now, new or not; of which group a call is stays as it was first.

        A call that is open and another node's stays as it is, and a track of a call that is not stored is
        left out. Of a track without codec, bitrate, params or stats what was stored of these stays.

        Raises:
            StorageError: nothing is stored, or, if the connection to the store was lost, perhaps all.
        """

    @abc.abstractmethod
    async def open_calls(self, *, limit: int) -> tuple[CallRow, ...]:
        """Calls that have not ended, the oldest first."""

    @abc.abstractmethod
    async def claim_calls(self, node: str, *, own: bool = False, limit: int) -> tuple[CallRow, ...]:
        """Make open calls of processes that are no more those of ``node``, and return them, the oldest first;
        with ``own`` also those that are its own already.

        Raises:
            StorageError: the store failed; perhaps calls were claimed all the same, see ``own``.
        """

    @abc.abstractmethod
    async def list_calls(
        self, *, limit: int, ended: bool = False, device_id: str | None = None
    ) -> tuple[CallRow, ...]:
        """Open calls, with ``ended`` the others too, the newest first; of one device or of all."""

    @abc.abstractmethod
    async def media_tracks(self, call_ids: Sequence[str]) -> tuple[MediaTrack, ...]:
        """All tracks of these calls, in the order of their keys."""

    @abc.abstractmethod
    async def purge_calls(self, before: int) -> int:
        """Delete calls that ended at that second or earlier, with their tracks; how many."""
