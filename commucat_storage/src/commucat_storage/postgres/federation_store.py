"""The part of the PostgreSQL store that is about other servers."""

import abc
from collections.abc import Mapping, Sequence
from functools import partial

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
from commucat_storage.postgres import federation
from commucat_storage.postgres.pool import Pool


class PostgresFederation(FederationStore, OperatingStorage, abc.ABC):
    """Needs the pool of the store that it is a part of."""

    _pool: Pool

    async def peers(self) -> tuple[Peer, ...]:
        return await self._pool.read(federation.peers)

    async def load_peer(self, domain: str) -> Peer | None:
        found = await self._pool.read(partial(federation.peers, domain=domain.lower()))
        return found[0] if found else None

    async def put_peer(self, peer: Peer, record: OperatorRecord | None = None) -> None:
        check_peer(peer)
        await self._pool.write(partial(federation.put_peer, peer=peer, record=record))

    async def activate_peer(self, domain: str, now: int) -> bool:
        return await self._pool.write(partial(federation.activate_peer, domain=domain.lower(), now=now))

    async def remove_peer(self, domain: str, record: OperatorRecord | None = None) -> bool:
        return await self._pool.write(partial(federation.remove_peer, domain=domain.lower(), record=record))

    async def note_peer(self, standing: PeerStanding) -> None:
        check_domain(standing.domain)
        if standing.last_error is not None:
            standing = attrs.evolve(standing, last_error=cleaned(standing.last_error))
        await self._pool.repeat(partial(federation.note_peer, standing=standing))

    async def peer_standings(self) -> tuple[PeerStanding, ...]:
        return await self._pool.read(federation.peer_standings)

    async def set_outbox(self, domain: str, *, open: bool) -> None:
        name = check_domain(domain)
        await self._pool.write(partial(federation.set_outbox, domain=name, is_open=open))

    async def outbox_page(
        self, domain: str, number: int, *, limit_rows: int, limit_bytes: int, now: int
    ) -> OutboxPage | None:
        if limit_rows < 1:
            raise ValueError("limit_rows must be at least 1")
        return await self._pool.read(
            partial(
                federation.outbox_page,
                domain=domain,
                number=number,
                limit_rows=limit_rows,
                limit_bytes=limit_bytes,
                now=now,
            )
        )

    async def outboxes(self) -> tuple[OutboxStanding, ...]:
        return await self._pool.read(federation.outboxes)

    async def purge_outbox(self, domain: str, record: RecordOf | None = None) -> int:
        return await self.expire_queue(outbox_of(domain), record) or 0

    async def bury(
        self, domain: str, epoch: str, letters: Sequence[tuple[int, str]], now: int
    ) -> tuple[DeadLetter, ...]:
        texts = [(number, cleaned(reason)) for number, reason in letters]
        return await self._pool.write(
            partial(federation.bury, domain=domain.lower(), epoch=epoch, letters=texts, now=now)
        )

    async def dead_letters(self, domain: str | None, limit: int) -> tuple[DeadLetter, ...]:
        name = None if domain is None else domain.lower()
        return await self._pool.read(partial(federation.dead_letters, domain=name, limit=limit))

    async def dead_letter_counts(self) -> Mapping[str, int]:
        return await self._pool.read(federation.dead_letter_counts)

    async def forget_dead_letters(self, letter_ids: Sequence[str]) -> int:
        return await self._pool.write(partial(federation.forget_dead_letters, letter_ids=letter_ids))

    async def put_remote_request(self, request: RemoteFriendRequest) -> RemoteFriendRequest:
        check_request(request)
        return await self._pool.write(partial(federation.put_remote_request, request=request))

    async def remote_requests(self, user_id: str) -> tuple[RemoteFriendRequest, ...]:
        return await self._pool.read(partial(federation.remote_requests, user_id=user_id))

    async def load_remote_request(self, request_id: str) -> RemoteFriendRequest | None:
        return await self._pool.read(partial(federation.load_remote_request, request_id=request_id))

    async def answer_remote_request(self, request_id: str, *, accept: bool, now: int) -> RemoteFriendRequest:
        return await self._pool.write(
            partial(federation.answer_remote_request, request_id=request_id, accept=accept, now=now)
        )
