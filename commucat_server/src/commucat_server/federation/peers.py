"""Which servers are known, by what keys: those of the configuration, and those that operators stored."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
import structlog
import trio

from commucat_server.config.federation_section import ConfiguredPeer
from commucat_storage import Peer, PeerStatus, Storage

log = structlog.get_logger("commucat.federation")


@attrs.frozen(kw_only=True)
class KnownPeer:
    """A server of another domain, as it holds now."""

    domain: str
    """In lower case."""
    endpoint: str
    keys: tuple[bytes, ...]
    """Ed25519, 32 bytes each: the present one first, then one that is to replace it."""
    status: PeerStatus
    configured: bool
    """It is named in the configuration."""


class PeerDirectory:
    """The peers of this moment. What operators change in the store holds from the next refresh on.

    The configuration's word on address and key is the last one; but a peer that an operator has blocked is
    blocked, whatever the configuration says.
    """

    def __init__(
        self, storage: Storage, configured: Sequence[ConfiguredPeer], clock: Callable[[], float]
    ) -> None:
        self._storage = storage
        self._configured = {peer.domain: peer for peer in configured}
        self._clock = clock
        self._peers: dict[str, KnownPeer] = {}
        # What was read before must not replace what was read later.
        self._reading = trio.Lock()
        self._open: dict[str, bool] = {}

    def get(self, domain: str) -> KnownPeer | None:
        """The peer, if it may be heard and written to."""
        peer = self._peers.get(domain.lower())
        return None if peer is None or peer.status is PeerStatus.BLOCKED else peer

    def __iter__(self) -> Iterator[KnownPeer]:
        """All of them, blocked ones too, by domain."""
        return iter([self._peers[domain] for domain in sorted(self._peers)])

    async def refresh(self) -> None:
        """Read the store again, and open and close outboxes by what it says.

        Raises:
            StorageError: the store failed; what was known stays.
        """
        async with self._reading:
            await self._refresh()

    async def _refresh(self) -> None:
        stored = {peer.domain: peer for peer in await self._storage.peers()}
        peers = {
            domain: _joined(domain, self._configured.get(domain), stored.get(domain))
            for domain in {*self._configured, *stored}
        }
        if not self._open:
            # Also those of peers that were taken out of the configuration while no server ran.
            self._open = {each.domain: each.open for each in await self._storage.outboxes()}
        # Who is heard can be answered, and who is blocked is not heard while its outbox closes.
        await self._set_outboxes(peers, open=True)
        self._peers = peers
        await self._set_outboxes(peers, open=False)

    async def _set_outboxes(self, peers: Mapping[str, KnownPeer], *, open: bool) -> None:
        """Those alone that are to be so and are not."""
        for domain in {*peers, *self._open}:
            is_open = domain in peers and peers[domain].status is not PeerStatus.BLOCKED
            if is_open is open and self._open.get(domain) is not open:
                await self._storage.set_outbox(domain, open=open)
                self._open[domain] = open
                log.info("federation outbox opened" if open else "federation outbox closed", domain=domain)

    async def promote(self, peer: KnownPeer) -> None:
        """A pending peer has taken something: it is active from now on.

        Raises:
            StorageError: the store failed.
        """
        if peer.status is not PeerStatus.PENDING:
            return
        if not await self._storage.activate_peer(peer.domain, int(self._clock())):
            return  # An operator has decided something else meanwhile.
        if self._peers.get(peer.domain) is peer:
            self._peers[peer.domain] = attrs.evolve(peer, status=PeerStatus.ACTIVE)
        log.info("federation peer is active", domain=peer.domain)


def _joined(domain: str, configured: ConfiguredPeer | None, stored: Peer | None) -> KnownPeer:
    if configured is not None:
        keys = [configured.public_key]
        blocked = stored is not None and stored.status is PeerStatus.BLOCKED
        status, endpoint = PeerStatus.BLOCKED if blocked else PeerStatus.ACTIVE, configured.endpoint
    else:
        assert stored is not None, "it is from one of the two"
        keys, status, endpoint = [stored.public_key], stored.status, stored.endpoint
    if stored is not None and stored.next_key is not None and stored.next_key not in keys:
        keys.append(stored.next_key)
    return KnownPeer(
        domain=domain,
        endpoint=endpoint,
        keys=tuple(keys),
        status=status,
        configured=configured is not None,
    )
