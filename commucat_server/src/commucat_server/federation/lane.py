"""The way to one peer: what waits in its outbox is sent in order, and confirmed when the peer has it.

Messages are sent at least once. A peer keeps their ids, so that one that was sent twice is stored once; a
lane that dies between the peer's answer and the confirmation costs a repetition, nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import attrs
import structlog
import trio

from commucat_proto.federation import MAX_BATCH, FriendEventError
from commucat_server.federation.addresses import EVENTS_PATH, FRIENDS_PATH, event_url, well_known_url
from commucat_server.federation.backoff import Backoff
from commucat_server.federation.client import PeerAnswer, PeerClient, PeerUnreachableError
from commucat_server.federation.outgoing import EventSigner, leading_messages
from commucat_server.federation.peers import KnownPeer, PeerDirectory
from commucat_server.ops.counters import Counters
from commucat_server.routing.inbox import Inbox
from commucat_server.routing.reports import DeliveryReports
from commucat_storage import (
    CommitFailedError,
    Confirm,
    DeadLetter,
    OutboxPage,
    OutboxRow,
    Outcome,
    PeerStanding,
    PeerStatus,
    Storage,
    StorageError,
    outbox_of,
)

log = structlog.get_logger("commucat.federation")

PAGE_ROWS: Final = MAX_BATCH
PAGE_BYTES: Final = 512 * 1024
"""Payloads of one event; in hexadecimal digits it is twice as long."""
STORE_RETRY: Final = 1.0
MOST_PAUSE: Final = 10.0
"""Seconds that a peer may name for a pause that is no failure."""
ASK_AGAIN: Final = 3600.0
"""Seconds after which a peer is asked again what it understands."""
NOTE_INTERVAL: Final = 60
"""Seconds between two notes in the store that a peer is well."""
_NOT_FINAL: Final = frozenset({403, 408, 429})
"""Of the refusals (4xx) those that may become an acceptance: a peer that does not know us yet, or is busy."""


class _NotNowError(Exception):
    """The peer has not taken it; it is to be tried again. The text is for operators."""

    def __init__(
        self, text: str, *, answered: bool, retry_after: float | None = None, too_many: bool = False
    ) -> None:
        super().__init__(text)
        self.answered = answered
        self.retry_after = retry_after
        self.too_many = too_many
        """It takes messages, only not so many at a time."""


@attrs.frozen
class _Carried:
    """What became of the first rows of a page."""

    last: int
    """Number of the last one that is settled."""
    accepted: int
    dead: tuple[tuple[int, str], ...] = ()
    """Numbers of those that the peer will never take, and why."""
    later: str | None = None
    """Why the peer wants the next one later."""


@attrs.frozen(kw_only=True)
class LaneServices:
    """What all lanes share."""

    storage: Storage
    inbox: Inbox
    reports: DeliveryReports
    directory: PeerDirectory
    client: PeerClient
    signer: EventSigner
    counters: Counters
    backoff: Backoff
    clock: Callable[[], float]


class Lane:
    """To one domain. One task runs it."""

    def __init__(self, domain: str, services: LaneServices) -> None:
        self.domain = domain
        self._services = services
        self._work = trio.Event()
        self._hurry = trio.Event()
        self._failures = 0
        self._paused = False
        """It has named a pause, and taken nothing since."""
        self._batches: bool | None = None
        self._asked_at = 0.0
        self._singly: tuple[str, int] = ("", 0)
        """Epoch and number up to which messages go one by one, as the peer has refused them in a batch."""
        self._noted: tuple[str, int] = ("unknown", 0)
        self._cursor: tuple[str, int] = ("", 0)
        """Epoch and number up to which everything is settled, confirmed on disk or not yet."""
        self._ahead: tuple[int, OutboxPage] | None = None
        """What was read while a request was under way: the number behind which it begins, and the page."""

    @property
    def waiting(self) -> bool:
        """Whether it waits before the next attempt."""
        return self._failures > 0

    def wake(self) -> None:
        """Something has come into the outbox."""
        self._work.set()

    def hurry(self) -> None:
        """The peer was heard, or an operator says so: try now."""
        self._hurry.set()
        self._work.set()

    async def run(self) -> NoReturn:
        """Never returns."""
        while True:
            self._work = trio.Event()
            try:
                idle = await self._carry_page()
            except StorageError as exc:
                log.warning("the outbox cannot be read or changed", domain=self.domain, reason=str(exc))
                await trio.sleep(STORE_RETRY)
                continue
            except _NotNowError as exc:
                await self._failed(exc)
                continue
            except Exception as exc:
                log.error("carrying to a peer failed", domain=self.domain, exc_info=exc)
                await self._failed(_NotNowError(f"a mistake of this server: {exc!r}", answered=True))
                continue
            if idle:
                await self._work.wait()

    async def _carry_page(self) -> bool:
        """Send what the outbox begins with; True if there is nothing to be sent."""
        services = self._services
        # While nothing is sent, what stands there may expire or be purged: it is read again then.
        ahead, self._ahead = self._ahead, None
        peer = services.directory.get(self.domain)
        if peer is None:
            return True
        epoch, number = self._cursor
        if ahead is not None and ahead[0] == number and ahead[1].epoch == epoch:
            page: OutboxPage | None = ahead[1]
        else:
            page = await self._page(number)
        if page is not None and page.epoch != epoch:
            # The first look, or the store was restored: numbers have begun anew.
            self._cursor = page.epoch, 0
            return False
        if page is None or not page.rows:
            return True
        if page.complete:
            carried = await self._carry(peer, page)
        else:
            carried = await self._carry_and_read_ahead(peer, page)
        await self._settle(peer, page.epoch, carried)
        if carried.later is not None:
            raise _NotNowError(carried.later, answered=True)
        return False

    async def _page(self, number: int) -> OutboxPage | None:
        """What stands behind this number."""
        services = self._services
        return await services.storage.outbox_page(
            self.domain, number, limit_rows=PAGE_ROWS, limit_bytes=PAGE_BYTES, now=int(services.clock())
        )

    async def _carry_and_read_ahead(self, peer: KnownPeer, page: OutboxPage) -> _Carried:
        """With the next page being read meanwhile: the peer waits for nothing but its own answer."""
        ahead: list[OutboxPage] = []
        outcome: list[_Carried] = []
        failure: list[_NotNowError] = []
        last = page.rows[-1].number

        async def read() -> None:
            try:
                found = await self._page(last)
            except StorageError:
                return  # it is read again, and told then
            # One that is not full may have grown until its turn comes.
            if found is not None and not found.complete:
                ahead.append(found)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            try:
                outcome.append(await self._carry(peer, page))
            except _NotNowError as exc:
                failure.append(exc)
                nursery.cancel_scope.cancel()
        if failure:
            raise failure[0]
        self._ahead = (last, ahead[0]) if ahead else None
        return outcome[0]

    # -- one attempt ----------------------------------------------------------------------------------

    async def _carry(self, peer: KnownPeer, page: OutboxPage) -> _Carried:
        rows = leading_messages(page, MAX_BATCH)
        if not rows:
            return await self._carry_friend_event(peer, page.rows[0])
        epoch, last = self._singly
        refused_before = page.epoch == epoch and rows[0].number <= last
        if not refused_before and await self._takes_batches(peer):
            carried = await self._carry_batch(peer, page.epoch, rows)
            if carried is not None:
                return carried
        return await self._carry_single(peer, page.epoch, rows[0])

    async def _carry_batch(self, peer: KnownPeer, epoch: str, rows: Sequence[OutboxRow]) -> _Carried | None:
        """None: the peer does not take this one."""
        services = self._services
        body = services.signer.batch(epoch, rows, peer.domain)
        answer = await self._post(event_url(peer.endpoint, EVENTS_PATH), body)
        if answer.status >= 400:
            # Something in it is refused as a whole: one by one it will be told what.
            log.info("federation peer refuses a batch", domain=self.domain, answer=answer.text)
            self._singly = epoch, rows[-1].number
            return None
        results = answer.document.get("results")
        if not isinstance(results, list) or len(results) != len(rows):
            raise _NotNowError("its answer to a batch is not understood", answered=True)
        return _carried_batch(rows, results)

    async def _carry_single(self, peer: KnownPeer, epoch: str, row: OutboxRow) -> _Carried:
        services = self._services
        body = services.signer.single(epoch, row, peer.domain)
        return _carried_one(row, await self._post(event_url(peer.endpoint, EVENTS_PATH), body))

    async def _carry_friend_event(self, peer: KnownPeer, row: OutboxRow) -> _Carried:
        try:
            body = self._services.signer.friend_event(row)
        except FriendEventError as exc:
            return _Carried(row.number, 0, ((row.number, f"not a friend event: {exc}"),))
        return _carried_one(row, await self._post(event_url(peer.endpoint, FRIENDS_PATH), body))

    async def _post(self, url: str, body: bytes) -> PeerAnswer:
        """Send it; an answer that is an acceptance or a final refusal."""
        try:
            answer = await self._services.client.post(url, body)
        except PeerUnreachableError as exc:
            raise _NotNowError(str(exc), answered=False) from exc
        if 200 <= answer.status < 300 or (400 <= answer.status < 500 and answer.status not in _NOT_FINAL):
            return answer
        # Also redirects: whoever answers them is not known by its key.
        raise _NotNowError(
            answer.text, answered=True, retry_after=answer.retry_after, too_many=answer.status == 429
        )

    async def _takes_batches(self, peer: KnownPeer) -> bool:
        now = trio.current_time()
        if self._batches is None or now >= self._asked_at + ASK_AGAIN:
            try:
                answer = await self._services.client.get(well_known_url(peer.endpoint))
            except PeerUnreachableError as exc:
                raise _NotNowError(str(exc), answered=False) from exc
            if answer.status >= 500 or answer.status == 429:
                raise _NotNowError(answer.text, answered=True, retry_after=answer.retry_after)
            self._batches = answer.status == 200 and answer.document.get("batches") is True
            self._asked_at = now
        return self._batches

    # -- what becomes of it ---------------------------------------------------------------------------

    async def _settle(self, peer: KnownPeer, epoch: str, carried: _Carried) -> None:
        services = self._services
        self._paused = False
        now = int(services.clock())
        letters: tuple[DeadLetter, ...] = ()
        if carried.dead:
            letters = await services.storage.bury(self.domain, epoch, carried.dead, now)
            for letter in letters:
                log.warning(
                    "federation event refused for good",
                    domain=self.domain,
                    letter=letter.letter_id,
                    reason=letter.reason,
                )
        # Before they are gone from the outbox: told twice is better than not at all.
        await services.reports.refused(letters)
        if carried.last:
            self._cursor = epoch, carried.last
            confirmation = Confirm(outbox_of(self.domain), epoch, carried.last)
            # Nobody waits for it: until it is on disk a restart sends again what the peer has.
            await services.inbox.submit([confirmation], self._confirmed)
            services.counters.federation_outbox_delivered += carried.accepted
            services.counters.federation_outbox_dead += len(letters)
        if carried.later is None:
            await self._well(peer, now)

    def _confirmed(self, result: tuple[Outcome, ...] | CommitFailedError) -> None:
        if isinstance(result, CommitFailedError):
            log.warning("what a peer has taken stays in the outbox", domain=self.domain, reason=str(result))
            self._cursor = "", 0

    async def _well(self, peer: KnownPeer, now: int) -> None:
        if self._failures:
            log.info("federation peer is back", domain=self.domain, failures=self._failures)
        self._failures = 0
        if peer.status is PeerStatus.PENDING:
            await self._services.directory.promote(peer)
        state, noted_at = self._noted
        if state != "online" or now >= noted_at + NOTE_INTERVAL:
            await self._note("online", now, None)

    async def _failed(self, error: _NotNowError) -> None:
        pause = error.retry_after
        if error.too_many and pause is not None and pause <= MOST_PAUSE and not self._paused:
            # We were too fast, and it says when it has room again: that is no failure, once.
            self._paused = True
            await trio.sleep(pause)
            return
        self._failures += 1
        delay = self._services.backoff.delay(self._failures, error.retry_after)
        if self._failures == 1:
            log.warning("federation peer takes nothing", domain=self.domain, reason=str(error))
        else:
            log.info("federation peer takes nothing", domain=self.domain, reason=str(error), again_in=delay)
        # What it understands may have changed with its version.
        self._batches = None
        state = "offline" if error.answered else "unreachable"
        self._hurry = trio.Event()
        try:
            await self._note(state, int(self._services.clock()), str(error))
        except StorageError as exc:
            log.warning("how a peer is cannot be noted", domain=self.domain, reason=str(exc))
        with trio.move_on_after(delay):
            await self._hurry.wait()

    async def _note(self, state: str, now: int, error: str | None) -> None:
        well = error is None
        await self._services.storage.note_peer(
            PeerStanding(
                domain=self.domain,
                status=state,
                error_count=self._failures,
                last_seen_at=now if well or state == "offline" else None,
                last_error=error,
                updated_at=now,
            )
        )
        self._noted = state, now


def _carried_one(row: OutboxRow, answer: PeerAnswer) -> _Carried:
    if answer.status < 300:
        # A page that says "it works" to everything has stored nothing.
        if not isinstance(answer.document.get("status"), str):
            raise _NotNowError("its answer to a message is not understood", answered=True)
        return _Carried(row.number, 1)
    return _Carried(row.number, 0, ((row.number, answer.text),))


def _carried_batch(rows: Sequence[OutboxRow], results: Sequence[Any]) -> _Carried:
    """By the peer's word on each message, up to the first that it wants later."""
    last = accepted = 0
    dead: list[tuple[int, str]] = []
    for row, result in zip(rows, results, strict=True):
        status = result.get("status") if isinstance(result, dict) else None
        if status in ("accepted", "duplicate"):
            accepted += 1
        elif status == "refused":
            dead.append((row.number, PeerAnswer(200, result).text.removeprefix("status 200, ")))
        else:
            said = result.get("detail") if isinstance(result, dict) else None
            return _Carried(last, accepted, tuple(dead), str(said or "it wants the rest later")[:300])
        last = row.number
    return _Carried(last, accepted, tuple(dead))
