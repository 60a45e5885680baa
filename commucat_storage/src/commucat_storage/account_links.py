"""Accounts on two servers that belong to one person, and how far the devices of the other one have read.

A link holds when the users of both accounts have declared it; what either server says of it is numbered by
versions, which rise, so that nothing old counts again. The rules are here, for every backend.
"""

import abc
import enum
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import attrs

from commucat_storage.errors import StorageError

ACCOUNT_LINK = 0xF4
"""Type of an outbox row that tells a peer what a user says of a link."""
INBOX_OFFSETS = 0xF5
"""Type of an outbox row that tells a peer how far the devices of a linked account have read."""

MAX_LINKS = 8
"""Links that one user may have declared."""
MAX_OFFERS = 16
"""Links that users of other servers have declared to one user, and that user has not."""
MAX_LINK_ROWS = 64
"""Rows of one user, with those that have ended and are kept for their versions."""
MAX_LINKED_DEVICES = 128
"""Devices of one account of which the other server is told; the first ones by name."""
LINK_PATIENCE = 7 * 86_400
"""Seconds that a declaration waits for the other one."""
_MICROS = 1_000_000


class LinkWord(enum.Enum):
    """What a server says of a link of its user."""

    ASKS = "asks"
    """The user declares it."""
    AGREES = "agrees"
    """The same, and this server has heard the other side's declaration."""
    ENDS = "ends"


class LinkStatus(enum.Enum):
    """How a link stands, seen from one side."""

    LINKED = "linked"
    DECLARED = "declared"
    """By the user of this server; the other one has not."""
    OFFERED = "offered"
    """By the user of the other server; this one has not."""
    ENDED = "ended"


class LinkRefusal(enum.Enum):
    """Why nothing was changed."""

    TOO_MANY_LINKS = "too_many_links"
    TOO_MANY_OFFERS = "too_many_offers"


class LinkRefusedError(StorageError):
    """A link was refused, and nothing was written."""

    def __init__(self, refusal: LinkRefusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


@attrs.frozen(kw_only=True)
class AccountLink:
    """A link of a user of this server to an account of another one."""

    user_id: str
    account: str
    """``handle@domain``, the domain in lower case."""
    declared: bool
    """By the user of this server."""
    heard: bool
    """The other server says that its user has declared it."""
    own_version: int = 0
    """Of the last word of this server: microseconds of its clock then, or more, as versions never fall."""
    heard_version: int = 0
    """Of the last word of the other server."""
    created_at: int
    """Unix seconds."""
    expires_at: int | None
    """Unix seconds: when a declaration that nobody answered, or what is left of a link, is forgotten; None
    for a link that holds."""

    @classmethod
    def of(cls, columns: Sequence[Any]) -> "AccountLink":
        """From :data:`LINK_COLUMNS`, as databases give them: SQLite has numbers for what is true or not."""
        link = cls(**dict(zip((field.name for field in attrs.fields(cls)), columns, strict=True)))
        return attrs.evolve(link, declared=bool(link.declared), heard=bool(link.heard))

    @property
    def status(self) -> LinkStatus:
        """By who has declared it."""
        if self.declared:
            return LinkStatus.LINKED if self.heard else LinkStatus.DECLARED
        return LinkStatus.OFFERED if self.heard else LinkStatus.ENDED


LINK_COLUMNS = ", ".join(field.name for field in attrs.fields(AccountLink))
"""Columns of table ``account_link`` that make an :class:`AccountLink`, in the order of its fields."""


@attrs.frozen(kw_only=True)
class HeardLink:
    """What a word of the other server has done."""

    link: AccountLink | None
    """As it is now; None if the word was older than another one, or about nothing that is known."""
    answer: LinkWord | None = None
    """What the other server is to be told, for both to have the same."""


@attrs.frozen(kw_only=True)
class InboxOffset:
    """Where the inbox of a device stands."""

    device_id: str
    epoch: str
    next_number: int
    """The number that the next message gets."""
    confirmed: int
    """Up to here the device has confirmed everything, on disk."""
    waiting: int
    """Messages above that; those that have expired and are not purged yet included."""

    @classmethod
    def of(cls, columns: Sequence[Any]) -> "InboxOffset":
        """From its fields in their order, as databases give them."""
        return cls(**dict(zip((field.name for field in attrs.fields(cls)), columns, strict=True)))


@attrs.frozen(kw_only=True)
class OffsetsToTell:
    """What a server has not told of a link that holds."""

    user_id: str
    handle: str
    account: str
    version: int
    """Of what was told last; 0 for nothing."""
    state: str
    """As :meth:`AccountLinkStore.note_told` wants it back."""
    offsets: tuple[InboxOffset, ...]


@attrs.frozen(kw_only=True)
class LinkedOffsets:
    """What the other server has said of the devices of a linked account."""

    account: str
    version: int
    """Of what it has said; microseconds by its clock."""
    offsets: tuple[InboxOffset, ...]
    """Device ids are the other server's, without its domain."""


class OffsetsTaken(enum.Enum):
    """What became of offsets that a server has told."""

    TAKEN = "taken"
    OLD = "old"
    """There is something newer, or the same."""
    NOT_LINKED = "not_linked"
    """Nothing is stored: the link does not hold."""


class AccountLinkStore(abc.ABC):
    """The part of :class:`Storage` that is about linked accounts. ``now`` is in microseconds everywhere;
    ``keep_until``, in seconds, is how long the versions of a link that has ended are kept."""

    @abc.abstractmethod
    async def declare_link(self, user_id: str, account: str, now: int) -> AccountLink:
        """The user of this server says that the account is its own, too.

        Raises:
            LinkRefusedError: ``TOO_MANY_LINKS``.
            StorageError: there is no such user here.
        """

    @abc.abstractmethod
    async def end_link(self, user_id: str, account: str, now: int, keep_until: int) -> AccountLink | None:
        """The user takes the declaration back, or does not want the other side's; with what was told of the
        account's devices. None if there is no such link."""

    @abc.abstractmethod
    async def hear_link(
        self, user_id: str, account: str, word: LinkWord, version: int, now: int, keep_until: int
    ) -> HeardLink:
        """What the account's server says of the link.

        Raises:
            LinkRefusedError: ``TOO_MANY_OFFERS``.
            StorageError: there is no such user here.
        """

    @abc.abstractmethod
    async def deny_link(self, user_id: str, account: str, now: int, keep_until: int) -> int | None:
        """The account's server believes in the link, which does not hold here: the version of the word that
        ends it; None if the user of this server has declared it, and waits."""

    @abc.abstractmethod
    async def account_links(self, user_id: str, now: int) -> tuple[AccountLink, ...]:
        """Those of the user that have not ended, by account."""

    @abc.abstractmethod
    async def offsets_to_tell(self, limit: int) -> tuple[OffsetsToTell, ...]:
        """Of links that hold, to domains whose outbox is open: what differs from what was told last, unless
        that still waits in the outbox. Those first of which nothing was told for longest."""

    @abc.abstractmethod
    async def note_told(self, told: OffsetsToTell, version: int, number: int) -> None:
        """It is in the outbox, under this version, as this number. Nothing happens if the link has ended."""

    @abc.abstractmethod
    async def take_offsets(
        self, user_id: str, account: str, version: int, offsets: Sequence[InboxOffset]
    ) -> OffsetsTaken:
        """Replace what is known of the devices of a linked account, if this is newer."""

    @abc.abstractmethod
    async def inbox_offsets(self, user_id: str) -> tuple[InboxOffset, ...]:
        """Of the active devices of a user of this server, by device."""

    @abc.abstractmethod
    async def linked_offsets(self, user_id: str) -> tuple[LinkedOffsets, ...]:
        """Of the accounts that are linked and have told something, by account; devices by name."""


# -- rules ---------------------------------------------------------------------------------------------


@attrs.frozen
class LinkCounts:
    """The other links of a user."""

    declared: int
    offers: int
    rows: int

    @classmethod
    def without(cls, account: str, links: Sequence[AccountLink], now: int) -> "LinkCounts":
        """Of the user's links but the one to ``account``."""
        others = [link for link in links if link.account != account]
        live = [link.status for link in others if link_at(link, now) is not None]
        return cls(
            declared=len(live) - live.count(LinkStatus.OFFERED),
            offers=live.count(LinkStatus.OFFERED),
            rows=len(others),
        )


def named(links: Sequence[AccountLink], account: str) -> AccountLink | None:
    """The one to ``account``."""
    return next((link for link in links if link.account == account), None)


def linked_of(rows: Iterable[Sequence[Any]]) -> tuple[LinkedOffsets, ...]:
    """From account, version, and the fields of an offset (None of an account without devices), by account."""
    return tuple(
        LinkedOffsets(
            account=account,
            version=version,
            offsets=tuple(InboxOffset.of(row[2:]) for row in each if row[2] is not None),
        )
        for (account, version), each in groupby(rows, key=lambda row: (row[0], row[1]))
    )


def declare(
    known: AccountLink | None, user_id: str, account: str, now: int, others: LinkCounts
) -> AccountLink:
    """The link when the user of this server has declared it.

    Raises:
        LinkRefusedError: there are too many.
    """
    known = _as_of(known, user_id, account, now)
    if not known.declared and (others.declared >= MAX_LINKS or others.rows >= MAX_LINK_ROWS):
        raise LinkRefusedError(LinkRefusal.TOO_MANY_LINKS)
    return attrs.evolve(
        known,
        declared=True,
        own_version=_next_version(known, now),
        created_at=known.created_at if known.declared or known.heard else now // _MICROS,
        expires_at=None if known.heard else now // _MICROS + LINK_PATIENCE,
    )


def end(known: AccountLink, now: int, keep_until: int) -> AccountLink:
    """The link when the user of this server has ended it."""
    return attrs.evolve(
        known, declared=False, heard=False, own_version=_next_version(known, now), expires_at=keep_until
    )


def deny(
    known: AccountLink | None, user_id: str, account: str, now: int, keep_until: int
) -> AccountLink | None:
    """The link when the other server is told that it does not hold; None if the user here has declared it."""
    live = link_at(known, now)
    if live is not None and live.declared:
        return None
    return end(known or _as_of(None, user_id, account, now), now, keep_until)


def hear(
    known: AccountLink | None,
    user_id: str,
    account: str,
    word: LinkWord,
    version: int,
    now: int,
    keep_until: int,
    others: LinkCounts,
) -> HeardLink:
    """What a word of the other server does.

    Raises:
        LinkRefusedError: there are too many.
    """
    if (known is None and word is LinkWord.ENDS) or (known is not None and version <= known.heard_version):
        return HeardLink(link=None)
    if known is None and others.rows >= MAX_LINK_ROWS:
        raise LinkRefusedError(LinkRefusal.TOO_MANY_OFFERS)
    known = attrs.evolve(_as_of(known, user_id, account, now), heard_version=version)
    match word:
        case LinkWord.ENDS:
            return HeardLink(link=attrs.evolve(known, declared=False, heard=False, expires_at=keep_until))
        case LinkWord.AGREES if not known.declared:
            # It believes in a declaration that was taken back or has expired here.
            return HeardLink(link=end(known, now, keep_until), answer=LinkWord.ENDS)
        case LinkWord.ASKS if not known.declared:
            if not known.heard and others.offers >= MAX_OFFERS:
                raise LinkRefusedError(LinkRefusal.TOO_MANY_OFFERS)
            return HeardLink(link=attrs.evolve(known, heard=True, expires_at=now // _MICROS + LINK_PATIENCE))
    # Who asks has not heard of the declaration here: both asked at once, or it was restored from a backup.
    asks = word is LinkWord.ASKS
    own = _next_version(known, now) if asks else known.own_version
    return HeardLink(
        link=attrs.evolve(known, heard=True, own_version=own, expires_at=None),
        answer=LinkWord.AGREES if asks else None,
    )


def link_at(known: AccountLink | None, now: int) -> AccountLink | None:
    """The link as it is at this moment; None if it has ended."""
    if known is None or known.status is LinkStatus.ENDED:
        return None
    return None if known.expires_at is not None and known.expires_at <= now // _MICROS else known


def _as_of(known: AccountLink | None, user_id: str, account: str, now: int) -> AccountLink:
    """The link at this moment; where it has ended, or never was, one that nobody has declared."""
    found = link_at(known, now)
    if found is not None:
        return found
    seconds = now // _MICROS
    nobody = AccountLink(
        user_id=user_id, account=account, declared=False, heard=False, created_at=seconds, expires_at=seconds
    )
    if known is None:
        return nobody
    return attrs.evolve(nobody, own_version=known.own_version, heard_version=known.heard_version)


def _next_version(link: AccountLink, now: int) -> int:
    return max(now, link.own_version + 1)
