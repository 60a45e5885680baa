"""The vocabulary of the journal: what is committed, what comes back, what is read.

A device's inbox is a row of numbered messages. Numbers are taken inside the transaction
that inserts the rows, so number order is commit order; they start at 1, are strictly
increasing within an *epoch*, and never exceed :data:`MAX_INBOX_NUMBER`. The epoch is a random
text of 32 hex digits that changes whenever old numbers lose their meaning.
"""

import enum

import attrs

from commucat_storage.records import Route

MAX_INBOX_NUMBER = 2**32 - 1  # the sequence field of a frame is 32 bits wide


class RefusalReason(enum.Enum):
    """Why one recipient did not get a message."""

    UNKNOWN_DEVICE = "unknown_device"
    REVOKED = "revoked"
    """Of the recipient; of the sender itself where ``device_id`` of the refusal is empty."""
    CHANNEL_CONFLICT = "channel_conflict"
    """The recipient has a route of its own on this channel that does not include the sender."""
    QUOTA = "quota"
    DISK_LOW = "disk_low"
    """The store takes no messages until there is room on its disk again; try later."""
    NO_ROUTE = "no_route"
    """The sender has no route on this channel (``device_id`` of the refusal is empty)."""
    TOO_MANY_ROUTES = "too_many_routes"


@attrs.frozen(kw_only=True)
class Refusal:
    """One recipient that refused, and why."""

    device_id: str
    reason: RefusalReason


# -- operations, in the order in which a batch applies them ---------------------------------


@attrs.frozen
class Submission:
    """One durable message, stored for every recipient that accepts it."""

    sender: str
    """Device id of the sender; empty for the server itself, which no channel rule binds."""
    channel: int
    frame_type: int
    payload: bytes = attrs.field(repr=False)
    expires_at: int
    recipients: tuple[str, ...] | None = None
    """``None``: whoever the sender's route on ``channel`` names when the batch commits."""


@attrs.frozen
class SetRoute:
    """Join: replace the device's own route on ``channel``. Never touches a route of others."""

    device_id: str
    channel: int
    route: Route


@attrs.frozen
class DropRoute:
    """Leave: remove the device's own route on ``channel``, if there is one."""

    device_id: str
    channel: int


@attrs.frozen
class Confirm:
    """The device has everything up to ``number`` of ``epoch``: delete it, raise the watermark.

    A foreign epoch, a number below the watermark or above the highest number given out
    changes nothing.
    """

    device_id: str
    epoch: str
    number: int


Operation = Submission | SetRoute | DropRoute | Confirm


# -- outcomes, one for each operation, in the same order --------------------------------------


@attrs.frozen
class SubmissionOutcome:
    """``accepted``: (device id, inbox number) of every recipient whose row is on disk."""

    accepted: tuple[tuple[str, int], ...]
    refused: tuple[Refusal, ...] = ()


@attrs.frozen
class RouteOutcome:
    """``refused`` is None when the change is stored."""

    refused: RefusalReason | None = None


@attrs.frozen
class ConfirmOutcome:
    """``applied`` is False when the confirmation was foreign or out of range."""

    applied: bool
    watermark: int


Outcome = SubmissionOutcome | RouteOutcome | ConfirmOutcome


# -- reading ------------------------------------------------------------------------------------


@attrs.frozen
class InboxState:
    """``next_number`` is the number the next message will get; everything up to
    ``confirmed`` has been confirmed by the device."""

    epoch: str
    next_number: int
    confirmed: int


@attrs.frozen
class InboxRow:
    """One stored message."""

    number: int
    frame_type: int
    channel: int
    payload: bytes = attrs.field(repr=False)


@attrs.frozen
class InboxPage:
    """Rows in number order. ``complete`` says that nothing else was stored above the last
    row when the page was read; ``head`` is then the highest number given out by that
    moment, so a reader that took the page stands at ``head``."""

    rows: tuple[InboxRow, ...]
    head: int
    complete: bool
