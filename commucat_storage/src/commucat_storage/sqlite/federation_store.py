"""The part of the SQLite store that is about other servers."""

import abc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import attrs

from commucat_storage.federation import (
    DeadLetter,
    FederationStore,
    OutboxPage,
    OutboxStanding,
    Peer,
    PeerStanding,
    RemoteFriendRequest,
    check_domain,
    check_peer,
    check_request,
    cleaned,
    outbox_of,
)
from commucat_storage.interface_operating import OperatingStorage, RecordOf
from commucat_storage.operating import OperatorRecord
from commucat_storage.sqlite import federation
from commucat_storage.sqlite.reads import ReaderPool
from commucat_storage.sqlite.writer import Transaction

T = TypeVar("T")


class SqliteFederation(FederationStore, OperatingStorage, abc.ABC):
    """Needs the readers and the writer of the store that it is a part of."""

    _readers: ReaderPool

    @abc.abstractmethod
    async def _write(self, work: Callable[[Transaction], T]) -> T: ...

    async def peers(self) -> tuple[Peer, ...]:
        return await self._readers.run(federation.peers)

    async def load_peer(self, domain: str) -> Peer | None:
        if not domain.isprintable():
            return None
        found = await self._readers.run(federation.peers, domain.lower())
        return found[0] if found else None

    async def put_peer(self, peer: Peer, record: OperatorRecord | None = None) -> None:
        check_peer(peer)
        await self._write(lambda transaction: federation.put_peer(transaction.connection, peer, record))

    async def activate_peer(self, domain: str, now: int) -> bool:
        return await self._write(
            lambda transaction: federation.activate_peer(transaction.connection, domain.lower(), now)
        )

    async def remove_peer(self, domain: str, record: OperatorRecord | None = None) -> bool:
        return await self._write(
            lambda transaction: federation.remove_peer(transaction, domain.lower(), record)
        )

    async def note_peer(self, standing: PeerStanding) -> None:
        check_domain(standing.domain)
        if standing.last_error is not None:
            standing = attrs.evolve(standing, last_error=cleaned(standing.last_error))
        await self._write(lambda transaction: federation.note_peer(transaction.connection, standing))

    async def peer_standings(self) -> tuple[PeerStanding, ...]:
        return await self._readers.run(federation.peer_standings)

    async def set_outbox(self, domain: str, *, open: bool) -> None:
        name = check_domain(domain)
        await self._write(lambda transaction: federation.set_outbox(transaction, name, open))

    async def outbox_page(
        self, domain: str, number: int, *, limit_rows: int, limit_bytes: int, now: int
    ) -> OutboxPage | None:
        if limit_rows < 1:
            raise ValueError("limit_rows must be at least 1")
        if not domain.isprintable():
            return None
        return await self._readers.run(
            federation.outbox_page, domain.lower(), number, limit_rows, limit_bytes, now
        )

    async def outboxes(self) -> tuple[OutboxStanding, ...]:
        return await self._readers.run(federation.outboxes)

    async def purge_outbox(self, domain: str, record: RecordOf | None = None) -> int:
        return await self.expire_queue(outbox_of(domain), record) or 0

    async def bury(
        self, domain: str, epoch: str, letters: Sequence[tuple[int, str]], now: int
    ) -> tuple[DeadLetter, ...]:
        texts = [(number, cleaned(reason)) for number, reason in letters]

        def work(transaction: Transaction) -> tuple[DeadLetter, ...]:
            return federation.bury(transaction.connection, domain.lower(), epoch, texts, now)

        return await self._write(work)

    async def dead_letters(self, domain: str | None, limit: int) -> tuple[DeadLetter, ...]:
        name = None if domain is None else domain.lower()
        return await self._readers.run(federation.dead_letters, name, limit)

    async def dead_letter_counts(self) -> Mapping[str, int]:
        return await self._readers.run(federation.dead_letter_counts)

    async def forget_dead_letters(self, letter_ids: Sequence[str]) -> int:
        return await self._write(
            lambda transaction: federation.forget_dead_letters(transaction.connection, letter_ids)
        )

    async def put_remote_request(self, request: RemoteFriendRequest) -> RemoteFriendRequest:
        check_request(request)
        return await self._write(
            lambda transaction: federation.put_remote_request(transaction.connection, request)
        )

    async def remote_requests(self, user_id: str) -> tuple[RemoteFriendRequest, ...]:
        return await self._readers.run(federation.remote_requests, user_id)

    async def load_remote_request(self, request_id: str) -> RemoteFriendRequest | None:
        return await self._readers.run(federation.load_remote_request, request_id)

    async def answer_remote_request(self, request_id: str, *, accept: bool, now: int) -> RemoteFriendRequest:
        work = partial(_answer, request_id, accept, now)
        return await self._write(work)


def _answer(request_id: str, accept: bool, now: int, transaction: Transaction) -> RemoteFriendRequest:
    return federation.answer_remote_request(transaction, request_id, accept, now)
