"""The vocabulary of the journal: what is committed, what comes back, what is read.

A device's inbox is a row of numbered messages. Numbers are taken inside the transaction
that inserts the rows, so number order is commit order; they start at 1, are strictly
increasing within an *epoch*, and never exceed :data:`MAX_INBOX_NUMBER`. The epoch is a random
text of 32 hex digits that changes whenever old numbers lose their meaning.
"""

import enum
from collections.abc import Mapping

import attrs

from commucat_storage.records import GroupRole, Route

MAX_INBOX_NUMBER = 2**32 - 1  # the sequence field of a frame is 32 bits wide


class RefusalReason(enum.Enum):
    """Why one recipient did not get a message."""

    UNKNOWN_DEVICE = "unknown_device"
    REVOKED = "revoked"
    """Of the recipient; of the sender itself where ``device_id`` of the refusal is empty."""
    CHANNEL_CONFLICT = "channel_conflict"
    """The recipient has a route of its own on this channel that does not include the sender."""
    QUOTA = "quota"
    """The inbox is full, or its share for senders to which the recipient has no relation: none of its
    routes names them, they are in no group that it joined or was put into by somebody it has a relation
    to, and they are no device of the same user nor of one that its user lists as a friend."""
    DISK_LOW = "disk_low"
    """The store takes no messages until there is room on its disk again; try later."""
    NO_ROUTE = "no_route"
    """The sender has no route on this channel (``device_id`` of the refusal is empty)."""
    TOO_MANY_ROUTES = "too_many_routes"
    """The sender has as many routes, members in them, or groups of its own as it may have."""
    GROUP_EXISTS = "group_exists"
    GROUP_UNKNOWN = "group_unknown"
    NOT_MEMBER = "not_member"
    """The sender is no member of the group, or the device meant is not."""
    NOT_ALLOWED = "not_allowed"
    """The sender's role does not reach so far."""
    GROUP_FULL = "group_full"
    ALREADY_MEMBER = "already_member"
    UNKNOWN_DOMAIN = "unknown_domain"
    """The recipient is of another server, to which this one sends nothing."""
    NOT_FEDERATED = "not_federated"
    """The recipient is of another server, and messages of this kind stay within one."""
    BUSY = "busy"
    """The recipient was named as one that takes none of these now."""
    STRANGER = "stranger"
    """The sender is a stranger to the recipient, see :attr:`QUOTA`, and the message is not for those."""


@attrs.frozen(kw_only=True)
class Refusal:
    """One recipient that refused, and why."""

    device_id: str
    reason: RefusalReason


# -- operations, in the order in which a batch applies them ---------------------------------


@attrs.frozen
class Once:
    """What names a message, so that it is stored once however often it comes.

    ``scope`` and ``key`` have 1..64 and 1..512 characters, none of them NUL or a lone surrogate. They are
    kept until ``expires_at``, at least.
    """

    scope: str
    key: str
    expires_at: int


@attrs.frozen
class Submission:
    """One durable message, stored for every recipient that accepts it.

    A device of another server is named ``device@domain``. As a recipient, its message goes to the outbox of
    the domain; the server itself may also name the peer, as ``@domain``. As a sender, it has no routes here,
    so ``recipients`` must be given, and they are devices of this server.
    """

    sender: str
    """Device id of the sender; empty for the server itself, which no channel rule binds."""
    channel: int
    frame_type: int
    payload: bytes = attrs.field(repr=False)
    expires_at: int
    recipients: tuple[str, ...] | None = None
    """``None``: whoever the sender's route on ``channel`` names when the batch commits."""
    report: bool = False
    """Whether the sender wants to know what becomes of the rows: each is named once, in
    ``ConfirmOutcome.reports`` or in ``Purged.expired``. A message of the server itself is not."""
    reference: bytes = b""
    """What names the message in those reports; stored only with ``report``."""
    copies: bool = False
    """Whether the sender's user's other active devices get it too, by the same rules as recipients.
    Only if a recipient accepts; copies are never reported."""
    on_behalf: str = ""
    """``handle@domain`` of the sender's user, where the sender is a device of another server: to a receiver
    whose user lists this address as a friend it is no stranger."""
    once: Once | None = None
    """Store it only if no message with this scope and key was stored before; it counts as stored when at
    least one recipient has accepted it."""
    group_id: str | None = None
    """The group that the sender writes to, whatever its route is; it and the recipients must be members. Of
    the server itself to a device of another one: the group that the message tells of."""
    group_home: str | None = None
    """The domain that tells of a change of the group ``group_id``, which must be its home if the group is
    known here. Such a notice reaches those who are no members any more, too; the sender need not be one."""
    local: bool = False
    """Whether recipients of other servers refuse it with ``not_federated``."""
    busy: frozenset[str] = frozenset()
    """Recipients that refuse it with ``busy``; of devices that are no recipients nothing is said."""
    known_only: bool = False
    """Whether recipients to which the sender is a stranger refuse it."""


@attrs.frozen
class SetRoute:
    """Join: replace the device's own route on ``channel``. Never touches a route of others.

    A route that led to the channel's open room takes the device out of the room with it.
    """

    device_id: str
    channel: int
    route: Route


@attrs.frozen
class JoinRoom:
    """Join an open room: the device, and those of ``members`` that are active devices, belong to the room
    of ``channel`` from now on, beside those that do already, and the device's route leads there.

    The room begins with its first Join and ends when everybody who joined it has left, by
    :class:`DropRoute` or by another route on the channel. Every other rule is that of a group.
    """

    device_id: str
    channel: int
    members: tuple[str, ...]
    relay: bool
    created_at: int


@attrs.frozen
class DropRoute:
    """Leave: remove the device's own route on ``channel``, if there is one, and take the device out of the
    channel's open room, if it is in it."""

    device_id: str
    channel: int


@attrs.frozen
class Confirm:
    """The device has everything up to ``number`` of ``epoch``: delete it, raise the watermark.

    ``@domain`` confirms what a peer has taken of its outbox; no senders are named then: the peer reports to
    them. A foreign epoch, a number below the watermark or above the highest number given out
    changes nothing.
    """

    device_id: str
    epoch: str
    number: int


@attrs.frozen
class Resolve:
    """Who would get a frame of this sender on this channel now. Writes nothing, and leaves out devices of
    other servers.

    For frames that are never stored; goes through the journal so that it sees the Joins,
    Leaves and group changes that came before it.
    """

    sender: str
    channel: int


@attrs.frozen
class CreateGroup:
    """Create a group with the sender as owner, bind the sender's route on ``channel`` to it, and
    store ``notice`` for every member that accepts it. One transaction, all or nothing.

    ``OWNER`` in ``roles`` counts as ``ADMIN``; the sender need not be named. Members that are
    unknown or revoked are left out of the group and refused by name, and so are devices of other servers
    (``device@domain``, the domain in lower case) to which nothing is sent.
    """

    sender: str
    channel: int
    group_id: str
    roles: tuple[tuple[str, GroupRole], ...]
    relay: bool
    frame_type: int
    notice: bytes = attrs.field(repr=False)
    expires_at: int
    created_at: int


@attrs.frozen
class InviteMember:
    """Add a device to a group; ``notice`` goes to every member and to the new one.

    Needs a role above ``MEMBER``, and the granted role must be strictly below the sender's (a
    granted ``OWNER`` counts as ``ADMIN``). Never changes the role of a member: ``ALREADY_MEMBER``.
    For a replica of a group it is forwarded to the group's home.
    """

    sender: str
    channel: int
    group_id: str
    device_id: str
    role: GroupRole
    frame_type: int
    notice: bytes = attrs.field(repr=False)
    expires_at: int
    once: Once | None = None
    """Of a sender of another server: do it only if it was not done before."""


class GroupAction(enum.Enum):
    """What a :class:`ChangeGroup` does."""

    REMOVE = "remove"
    """Take out a member strictly below the sender."""
    LEAVE = "leave"
    """The sender goes. The owner must transfer first, unless it is the last: then the group ends."""
    SET_ROLE = "role"
    """Give a member strictly below the sender a role strictly below the sender's own."""
    TRANSFER = "transfer"
    """The owner makes another member owner and becomes co-owner."""


@attrs.frozen
class ChangeGroup:
    """Change a group; ``notice`` goes to everybody who was a member before, the sender excepted.

    For a replica of a group it is forwarded to the group's home.
    """

    sender: str
    channel: int
    group_id: str
    action: GroupAction
    device_id: str
    """The member meant; the sender itself for ``LEAVE``."""
    role: GroupRole | None
    """For ``SET_ROLE`` only."""
    frame_type: int
    notice: bytes = attrs.field(repr=False)
    expires_at: int
    once: Once | None = None
    """Of a sender of another server: do it only if it was not done before."""


@attrs.frozen
class ReplaceReplica:
    """What the home of a group says of its members: make the replica here like that.

    Local members are named as they are here, the others as ``device@domain``. Local devices that do not
    exist are left out; without any local member the replica goes, with the routes to it. Refused with
    ``GROUP_EXISTS`` if there is a group with this id that is of another home or of this server, or a
    replica of a higher revision; with the same revision nothing is changed.
    """

    home: str
    """The domain."""
    group_id: str
    revision: int
    relay: bool
    members: tuple[tuple[str, GroupRole], ...]
    created_at: int
    once: Once


Operation = (
    Submission
    | SetRoute
    | JoinRoom
    | DropRoute
    | Confirm
    | Resolve
    | CreateGroup
    | InviteMember
    | ChangeGroup
    | ReplaceReplica
)


# -- outcomes, one for each operation, in the same order --------------------------------------


@attrs.frozen
class SubmissionOutcome:
    """``accepted``: (device id, inbox number) of every recipient whose row is on disk; ``copied``: the same
    of the sender's own devices that got a copy. A recipient of another server is named as it was given, with
    its number in the outbox. ``duplicate``: it was stored before, and nothing else is said."""

    accepted: tuple[tuple[str, int], ...]
    refused: tuple[Refusal, ...] = ()
    copied: tuple[tuple[str, int], ...] = ()
    duplicate: bool = False


@attrs.frozen
class RouteOutcome:
    """``refused`` is None when the change is stored."""

    refused: RefusalReason | None = None


@attrs.frozen
class ConfirmedMessage:
    """A message that a confirmation deleted, and whose sender wants to know.

    ``expires_at`` is the message's own. What had expired when it was confirmed may never have been
    read: reading passes it over, and the confirmation of a later one covers it.
    """

    sender: str
    channel: int
    reference: bytes
    expires_at: int


@attrs.frozen
class ConfirmOutcome:
    """``applied`` is False when the confirmation was foreign or out of range.

    ``reports`` are the messages that it deleted of senders that asked, in their order. There are at most
    10,000 of them in one transaction: a device may confirm a million at once. ``unreported`` is the
    number of those left out.
    """

    applied: bool
    watermark: int
    reports: tuple[ConfirmedMessage, ...] = ()
    unreported: int = 0


@attrs.frozen
class ResolveOutcome:
    """``recipients``: device ids that accept the sender's frames; some may not be connected. ``elsewhere``:
    those of them with a session on another node, and that node's name."""

    recipients: tuple[str, ...]
    refused: tuple[Refusal, ...] = ()
    elsewhere: Mapping[str, str] = attrs.Factory(dict)


@attrs.frozen
class GroupOutcome:
    """``refused`` is None when the group was changed; ``notice`` then says who got it."""

    refused: RefusalReason | None
    notice: SubmissionOutcome = SubmissionOutcome(())
    told: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    """Outboxes (``@domain``) that got a row beside those of the notice."""
    forwarded: bool = attrs.field(default=False, kw_only=True)
    """The group is of another server, which was asked to change it."""
    duplicate: bool = attrs.field(default=False, kw_only=True)
    """It was done before, and nothing else is said."""


Outcome = SubmissionOutcome | RouteOutcome | ConfirmOutcome | ResolveOutcome | GroupOutcome


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
