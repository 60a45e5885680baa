"""Events of other servers, once they are believed: what they ask for, stored once.

The id of an event is stored in the transaction that stores its message: nothing is lost between the two,
and nothing comes twice.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs
import structlog
import trio

from commucat_proto import (
    Frame,
    FrameType,
    json_text,
)
from commucat_proto.federation import (
    MAX_GROUP_ID,
    Event,
    GroupRequest,
    GroupState,
    RelayedFormatError,
    RelayedMessage,
    batch_of_wire,
    check_event_id,
    entry_id,
    group_entry_of,
)
from commucat_server.federation import groups, problems
from commucat_server.federation.account_links import AccountLinks
from commucat_server.federation.addresses import USER_PREFIX
from commucat_server.federation.announcements import announcement_of, key_update_of, sender_of
from commucat_server.federation.believing import EventGate
from commucat_server.federation.carried import CARRIED
from commucat_server.federation.event_window import EventWindow
from commucat_server.federation.patience import GroupPatience
from commucat_server.federation.peers import KnownPeer, PeerDirectory
from commucat_server.federation.presence import KIND, RemotePresence
from commucat_server.federation.problems import EventRefusal, RefusedEventError
from commucat_server.federation.results import Result, result_document, result_of
from commucat_server.ops.counters import Counters
from commucat_server.routing.inbox import Inbox
from commucat_server.security.rate import RateLimit
from commucat_storage import (
    ChangeGroup,
    CommitFailedError,
    GroupOutcome,
    InviteMember,
    Once,
    Outcome,
    ReplaceReplica,
    Storage,
    Submission,
    SubmissionOutcome,
    outbox_of,
)

log = structlog.get_logger("commucat.federation")

SCOPE: Final = "federation-inbox"

_Operation: TypeAlias = Submission | ReplaceReplica | InviteMember | ChangeGroup


@attrs.frozen
class EventAnswer:
    """What the peer is told."""

    status: int
    document: dict[str, Any]


class Inbound:
    """One per server."""

    def __init__(
        self,
        *,
        domain: str,
        directory: PeerDirectory,
        storage: Storage,
        inbox: Inbox,
        counters: Counters,
        window: EventWindow,
        rate: RateLimit,
        clock: Callable[[], float],
        max_frame: int,
        heard: Callable[[str], None],
        links: AccountLinks,
    ) -> None:
        """``rate``: events of one peer. ``heard``: called with the domain of each peer that is believed."""
        self._domain = domain.lower()
        self._gate = EventGate(self._domain, directory, window, clock)
        self._storage = storage
        self._inbox = inbox
        self._counters = counters
        self._window = window
        self._rate = rate
        self._clock = clock
        self._max_frame = max_frame
        self.heard = heard
        self._links = links
        self.presence: RemotePresence | None = None
        """None: presence of other servers is not wanted."""
        self._patience = GroupPatience(clock)

    async def take(self, body: bytes) -> EventAnswer:
        """Take the body of a request to ``/federation/events``.

        Raises:
            RefusedEventError: nothing of it is stored.
            RateLimitedError: the peer has sent too many.
        """
        try:
            return await self._take(body)
        except RefusedEventError as exc:
            self._counters.federation_inbound_rejected += 1
            log.info("federation event refused", title=exc.refusal.title, detail=exc.refusal.detail)
            raise

    def believed(self, body: bytes) -> tuple[KnownPeer, Event]:
        """The event of a body, and the peer that it is from: known, signed, for us, and of our time.

        Raises:
            RefusedEventError: it is not to be believed.
        """
        peer, event = self._gate.believed(body)
        self.heard(peer.domain)
        return peer, event

    def count(self, domain: str, events: int = 1) -> None:
        """Count events of a peer.

        Raises:
            RateLimitedError: there are too many.
        """
        wait = self._rate.take(domain)
        if wait > 0.0:
            raise RateLimitedError(wait)
        self._rate.charge(domain, events - 1)

    async def _take(self, body: bytes) -> EventAnswer:
        peer, event = self.believed(body)
        payload = event.payload
        if self.presence is not None and isinstance(payload, Mapping) and payload.get("type") == KIND:
            self.count(peer.domain)
            await self.presence.take(peer, payload)
            return EventAnswer(202, {"status": "accepted"})
        try:
            entries = batch_of_wire(event.payload)
        except RelayedFormatError as exc:
            raise _format_refusal(exc).raised() from exc
        self.count(peer.domain, 1 if entries is None else len(entries))
        if entries is not None:
            return await self._take_batch(peer, entries)
        try:
            asked = await self._asked(peer, event.payload, check_event_id(event.event_id), set())
        except RelayedFormatError as exc:
            raise _format_refusal(exc).raised() from exc
        [result] = await self._store(peer, [asked]) if isinstance(asked, _Operation) else [asked]
        match result:
            case EventRefusal():
                raise result.raised()
            case None:
                raise problems.NOT_STORED.raised()
            case _:
                # As peers of 2025 expect it.
                return EventAnswer(200 if result == "duplicate" else 202, {"status": result})

    async def _take_batch(self, peer: KnownPeer, entries: Sequence[json_text.JsonValue]) -> EventAnswer:
        told: set[str] = set()
        asked = [await self._read(peer, entry, told) for entry in entries]
        wanted = [each for each in asked if isinstance(each, _Operation)]
        stored = iter(await self._store(peer, wanted) if wanted else ())
        results: list[Result] = [next(stored) if isinstance(each, _Operation) else each for each in asked]
        # What comes behind a message that is wanted later is wanted later, too: their order stays.
        if None in results:
            first = results.index(None)
            results[first:] = [None] * (len(results) - first)
        return EventAnswer(
            200, {"status": "processed", "results": [result_document(each) for each in results]}
        )

    # -- reading --------------------------------------------------------------------------------------

    async def _read(
        self, peer: KnownPeer, entry: json_text.JsonValue, told: set[str]
    ) -> _Operation | EventRefusal | str:
        try:
            return await self._asked(peer, entry, entry_id(entry), told)
        except RelayedFormatError as exc:
            return _format_refusal(exc)
        except RefusedEventError as exc:
            return exc.refusal

    async def _asked(
        self, peer: KnownPeer, value: json_text.JsonValue, event_id: str, told: set[str]
    ) -> _Operation | str:
        """What an entry asks for; or what became of it, if that was done at once: what is said of links has
        versions of its own, and needs no order among messages."""
        done = await self._links.take(peer, value)
        if done is None:
            return await self._operation(peer, value, event_id, told)
        self._counters.federation_inbound_processed += done == "accepted"
        return done

    async def _operation(
        self, peer: KnownPeer, value: json_text.JsonValue, event_id: str, told: set[str]
    ) -> _Operation:
        """What an entry asks for. ``told``: groups of which the batch has brought a state before."""
        now = int(self._clock())
        once = Once(
            scope=SCOPE,
            key=f"federation:{peer.domain}:{event_id}",
            expires_at=now + self._window.memory,
        )
        latest = now + self._window.lifetime
        match group_entry_of(value):
            case GroupState() as state:
                told.add(state.group_id)
                return groups.replica_of(state, peer.domain, self._domain, once, now)
            case GroupRequest() as request:
                return groups.change_of(request, peer.domain, self._domain, once, latest)
        message = RelayedMessage.from_wire(value, event_id, self._max_frame)
        return await self._submission(peer, message, once, latest, told)

    async def _submission(
        self, peer: KnownPeer, message: RelayedMessage, once: Once, latest: int, told: set[str]
    ) -> Submission:
        target = self._target(message.target)
        expires_at = latest if message.expires_at is None else min(latest, message.expires_at)
        frame = message.frame
        if message.group is not None:
            return await self._group_submission(peer, message, message.group, target, expires_at, once, told)
        if message.sender is None:
            payload = announcement_of(peer, frame)
            recipients = await self._announced_to(target)
            return Submission(
                outbox_of(peer.domain),
                frame.channel,
                frame.type,
                payload,
                expires_at,
                recipients,
                once=once,
            )
        sender = sender_of(peer, message.sender)
        if frame.type not in CARRIED:
            raise problems.FRAME_TYPE.raised()
        payload = frame.payload
        if frame.type is FrameType.KEY_UPDATE:
            payload = key_update_of(frame, message.sender, sender)
        user = message.sender_user
        return Submission(
            sender,
            frame.channel,
            frame.type,
            payload,
            expires_at,
            (target,),
            report=message.report is not None,
            reference=bytes.fromhex(message.report or ""),
            on_behalf=f"{user}@{peer.domain}" if user and "@" not in user else "",
            once=once,
        )

    async def _group_submission(
        self,
        peer: KnownPeer,
        message: RelayedMessage,
        group_id: str,
        target: str,
        expires_at: int,
        once: Once,
        told: set[str],
    ) -> Submission:
        """A message to a group, of a member or, if the peer is the group's home, about a change."""
        if len(group_id) > MAX_GROUP_ID or not group_id.isprintable():
            raise EventRefusal(400, "InvalidPayload", "group is no id").raised()
        frame, payload = message.frame, message.frame.payload
        home: str | None = None
        if message.sender is None:
            # Only that it has refused what the device wanted to change.
            if not groups.is_change_refused(frame, group_id):
                raise problems.SENDER.raised()
            sender, home = outbox_of(peer.domain), peer.domain
        elif frame.type in groups.NOTICES:
            by_home = group_id in told or await self._is_home(peer, group_id, frame)
            groups.check_notice(frame, group_id, by_home=by_home)
            address = groups.device_here(message.sender, peer.domain, self._domain)
            # What the home did for a member of another server it says itself.
            sender = address if address.endswith(f"@{peer.domain}") else outbox_of(peer.domain)
            home = peer.domain if by_home else None
            if not by_home:
                sender = sender_of(peer, message.sender)
        else:
            sender = sender_of(peer, message.sender)
            if frame.type not in CARRIED:
                raise problems.FRAME_TYPE.raised()
            if frame.type is FrameType.KEY_UPDATE:
                payload = key_update_of(frame, message.sender, sender)
        user = message.sender_user
        asks = message.report is not None and home is None
        return Submission(
            sender,
            frame.channel,
            frame.type,
            payload,
            expires_at,
            (target,),
            report=asks,
            reference=bytes.fromhex(message.report or "") if asks else b"",
            on_behalf=f"{user}@{peer.domain}" if user and "@" not in user else "",
            once=once,
            group_id=group_id,
            group_home=home,
            group_revision=self._patience.revision(peer.domain, group_id, message.group_revision),
        )

    async def _is_home(self, peer: KnownPeer, group_id: str, frame: Frame) -> bool:
        """Whether the peer owns the group. Of one that nobody here is in any more it may still tell so."""
        group = await self._storage.load_group(group_id)
        if group is None:
            return frame.type is FrameType.GROUP_EVENT
        return group.home == peer.domain

    def _target(self, target: str) -> str:
        """The local device that is meant."""
        device_id, at, domain = target.partition("@")
        if at and domain.lower() != self._domain:
            raise problems.OTHER_DOMAIN.raised()
        if not device_id:
            raise problems.NO_TARGET.raised()
        return device_id

    async def _announced_to(self, target: str) -> tuple[str, ...]:
        """The devices that another server means: one, or all of a user."""
        if not target.startswith(USER_PREFIX):
            return (target,)
        handle = target.removeprefix(USER_PREFIX)
        user = None
        if "\0" not in handle:
            user = await self._storage.load_user_by_handle(handle, self._domain)
        devices = () if user is None else await self._storage.active_devices(user.user_id)
        if not devices:
            raise problems.NO_USER.raised()
        return devices

    # -- storing --------------------------------------------------------------------------------------

    async def _store(self, peer: KnownPeer, asked: Sequence[_Operation]) -> list[Result]:
        outcomes = await self._commit(asked)
        results = [result_of(outcome) for outcome in outcomes]
        for place, (operation, outcome) in enumerate(zip(asked, outcomes, strict=True)):
            match operation, outcome:
                case ((InviteMember() | ChangeGroup()), _):
                    results[place] = await self._told(operation, outcome)
                case Submission(group_id=str(group_id), group_revision=int(revision)), SubmissionOutcome(
                    early=True
                ):
                    # What the home has told everybody comes here, too.
                    self._patience.wait(peer.domain, group_id, revision)
        self._counters.federation_inbound_processed += sum(each == "accepted" for each in results)
        self._counters.federation_inbound_rejected += sum(isinstance(each, EventRefusal) for each in results)
        return results

    async def _told(self, change: InviteMember | ChangeGroup, outcome: Outcome) -> Result:
        """What became of a change that a member wanted; if the group's rules refuse it, it is told."""
        assert isinstance(outcome, GroupOutcome)
        if outcome.refused is None:
            return "duplicate" if outcome.duplicate else "accepted"
        if outcome.refused in problems.LATER:
            return None
        told = Submission(
            "",
            0,
            FrameType.GROUP_EVENT,
            groups.change_refused(change.group_id, outcome.refused.value),
            change.expires_at,
            (change.sender,),
            group_id=change.group_id,
        )
        await self._commit([told])
        return "accepted"

    async def _commit(self, operations: Sequence[_Operation]) -> list[Outcome]:
        told = trio.Event()
        outcomes: list[Outcome] = []
        failure: list[CommitFailedError] = []

        def answer(result: tuple[Outcome, ...] | CommitFailedError) -> None:
            if isinstance(result, CommitFailedError):
                failure.append(result)
            else:
                outcomes.extend(result)
            told.set()

        await self._inbox.submit(operations, answer)
        await told.wait()
        if failure:
            raise problems.NOT_STORED.raised() from failure[0]
        return outcomes


class RateLimitedError(Exception):
    """A peer has sent more events than it may."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"for {wait:.1f} s")
        self.wait = wait


def _format_refusal(error: RelayedFormatError) -> EventRefusal:
    return EventRefusal(400, error.title, str(error))
