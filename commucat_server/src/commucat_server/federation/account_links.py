"""Accounts on two servers that belong to one person: the word of both users links them, either ends it.

A word is stored here first, then it goes into the outbox of the other domain. What the other server says is
believed of its own users only. Words carry versions, so that none counts twice, and none behind a newer one.
"""

from collections.abc import Callable
from typing import Final

import structlog

from commucat_proto import json_text
from commucat_proto.federation import LinkEntry, OffsetsEntry, link_entry_of
from commucat_server.federation import problems
from commucat_server.federation.addresses import split_address
from commucat_server.federation.event_window import EventWindow
from commucat_server.federation.peers import KnownPeer, PeerDirectory
from commucat_server.federation.problems import EventRefusal
from commucat_server.federation.queueing import NotQueuedError, queue
from commucat_server.routing.inbox import Inbox
from commucat_storage import (
    ACCOUNT_LINK,
    LINK_PATIENCE,
    AccountLink,
    InboxOffset,
    LinkRefusedError,
    LinkStatus,
    LinkWord,
    OffsetsTaken,
    PeerStatus,
    Storage,
    User,
)

log = structlog.get_logger("commucat.federation")

NOT_LINKED: Final = EventRefusal(404, "NotLinked", "the accounts are not linked")
TOO_MANY: Final = EventRefusal(409, "Conflict", "the user has too many links, or offers of links")


class AccountLinks:
    """One per server."""

    def __init__(
        self,
        *,
        domain: str,
        storage: Storage,
        inbox: Inbox,
        directory: PeerDirectory,
        window: EventWindow,
        clock: Callable[[], float],
    ) -> None:
        self._domain = domain
        self._storage = storage
        self._inbox = inbox
        self._directory = directory
        self._window = window
        self._clock = clock

    # -- of our users ---------------------------------------------------------------------------------

    def takes(self, domain: str) -> bool:
        """Whether accounts of this domain can be linked: its server is a peer, and active."""
        peer = self._directory.get(domain)
        return peer is not None and peer.status is PeerStatus.ACTIVE

    async def declare(self, user: User, account: str) -> AccountLink:
        """Our user says that ``handle@domain``, as :func:`split_address` has it, is its own account, too.

        Raises:
            LinkRefusedError: there are too many.
            NotQueuedError: it is stored; declaring it again tells the other server.
            StorageError: the store failed.
        """
        link = await self._storage.declare_link(user.user_id, account, self._micros())
        word = LinkWord.AGREES if link.status is LinkStatus.LINKED else LinkWord.ASKS
        await self._say(user.handle, account, word, link.own_version)
        return link

    async def end(self, user: User, account: str) -> bool:
        """Our user takes it back, or does not want what was offered; False if there is no such link.

        Raises:
            StorageError: the store failed.
        """
        ended = await self._storage.end_link(user.user_id, account, self._micros(), self._keep_until())
        if ended is None:
            return False
        await self._say_if_possible(user.handle, account, LinkWord.ENDS, ended.own_version)
        return True

    # -- of other servers -----------------------------------------------------------------------------

    async def take(self, peer: KnownPeer, value: json_text.JsonValue) -> str | None:
        """Take what a peer says of links or linked devices, ``accepted`` or ``duplicate``; None if it is
        something else.

        Raises:
            RefusedEventError, RelayedFormatError: nothing of it is stored.
            StorageError: the store failed.
        """
        entry = link_entry_of(value)
        if entry is None:
            return None
        account, user = await self._both_ends(peer, entry)
        if isinstance(entry, LinkEntry):
            return await self._heard(entry, account, user)
        return await self._told(entry, account, user)

    async def _both_ends(self, peer: KnownPeer, entry: LinkEntry | OffsetsEntry) -> tuple[str, User]:
        """The account there and the user here."""
        account = split_address(f"{entry.user}@{peer.domain}")
        named = split_address(entry.account)
        if account is None:
            raise problems.SENDER.raised()
        if named is None or named[1] != self._domain:
            raise problems.OTHER_DOMAIN.raised()
        user = await self._storage.load_user_by_handle(named[0], self._domain)
        if user is None:
            raise problems.NO_USER.raised()
        return "@".join(account), user

    async def _heard(self, entry: LinkEntry, account: str, user: User) -> str:
        try:
            heard = await self._storage.hear_link(
                user.user_id,
                account,
                LinkWord(entry.word),
                entry.version,
                self._micros(),
                self._keep_until(),
            )
        except LinkRefusedError as exc:
            raise TOO_MANY.raised() from exc
        if heard.link is None:
            return "duplicate"
        if heard.answer is not None:
            await self._say_if_possible(user.handle, account, heard.answer, heard.link.own_version)
        return "accepted"

    async def _told(self, entry: OffsetsEntry, account: str, user: User) -> str:
        offsets = [
            InboxOffset(
                device_id=each.device,
                epoch=each.epoch,
                next_number=each.next,
                confirmed=each.confirmed,
                waiting=each.waiting,
            )
            for each in entry.offsets
        ]
        taken = await self._storage.take_offsets(user.user_id, account, entry.version, offsets)
        if taken is OffsetsTaken.NOT_LINKED:
            await self._deny(user, account)
            raise NOT_LINKED.raised()
        return "accepted" if taken is OffsetsTaken.TAKEN else "duplicate"

    async def _deny(self, user: User, account: str) -> None:
        """Tell a server that believes in a link which does not hold here: the word that ended it was lost,
        or one of the two was restored from a backup. Not while our user waits for the other one's word, which
        is on its way then."""
        version = await self._storage.deny_link(user.user_id, account, self._micros(), self._keep_until())
        if version is not None:
            await self._say_if_possible(user.handle, account, LinkWord.ENDS, version)

    # -- saying ---------------------------------------------------------------------------------------

    async def _say_if_possible(self, handle: str, account: str, word: LinkWord, version: int) -> None:
        """Where nobody waits for it. A word that is lost is asked for again: by the other server's next
        offsets, or by a user who declares the link once more."""
        try:
            await self._say(handle, account, word, version)
        except NotQueuedError as exc:
            log.warning("the other server is not told of a link", word=word.value, reason=str(exc))

    async def _say(self, handle: str, account: str, word: LinkWord, version: int) -> None:
        entry = LinkEntry(user=handle, account=account, word=word.value, version=version)
        lifetime = min(LINK_PATIENCE, self._window.lifetime)
        await queue(
            self._inbox,
            account.partition("@")[2],
            ACCOUNT_LINK,
            json_text.dumps(entry.to_wire()),
            int(self._clock()) + lifetime,
            "the link",
        )

    def _micros(self) -> int:
        return int(self._clock() * 1_000_000)

    def _keep_until(self) -> int:
        """As long as an event of before may come: its version must be known then."""
        return int(self._clock()) + self._window.seconds
