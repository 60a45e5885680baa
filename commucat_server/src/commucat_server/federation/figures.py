"""How it stands with each peer: who it is, how it was, what waits for it and what it refused."""

from collections.abc import Sequence

import attrs

from commucat_server.config.federation_section import ConfiguredPeer
from commucat_storage import Peer, PeerStatus, Storage


@attrs.frozen(kw_only=True)
class PeerFigures:
    """Of one domain."""

    domain: str
    status: str
    """``active``, ``pending`` or ``blocked``."""
    source: str
    """``configuration`` or ``store``."""
    state: str
    """How it was when it was spoken to last: ``unknown``, ``online``, ``offline`` (it refuses) or
    ``unreachable``."""
    waiting: int
    """Messages in its outbox."""
    waiting_bytes: int
    oldest_seconds: int | None
    """Age of the message that expires first; None when nothing waits."""
    dead_letters: int
    failures: int
    """Attempts in a row that failed."""
    last_seen_at: int | None
    """Unix seconds."""
    last_error: str | None
    endpoint: str
    public_key: bytes
    next_key: bytes | None


def as_peer(configured: ConfiguredPeer, now: int) -> Peer:
    """A peer of the configuration as the store would keep it."""
    return Peer(
        domain=configured.domain,
        endpoint=configured.endpoint,
        public_key=configured.public_key,
        status=PeerStatus.ACTIVE,
        created_at=now,
        updated_at=now,
    )


async def peer_figures(
    storage: Storage, configured: Sequence[ConfiguredPeer], *, relay_ttl: int, now: int
) -> list[PeerFigures]:
    """All peers, by domain; ``relay_ttl``: seconds that a message lives.

    Raises:
        StorageError: the store failed.
    """
    stored = {peer.domain: peer for peer in await storage.peers()}
    named = {peer.domain: peer for peer in configured}
    standings = {standing.domain: standing for standing in await storage.peer_standings()}
    outboxes = {outbox.domain: outbox for outbox in await storage.outboxes()}
    letters = await storage.dead_letter_counts()
    figures: list[PeerFigures] = []
    for domain in sorted({*stored, *named}):
        of_file = named.get(domain)
        peer = stored.get(domain) if of_file is None else as_peer(of_file, now)
        assert peer is not None, "it is from one of the two"
        beside = stored.get(domain, peer)
        standing, outbox = standings.get(domain), outboxes.get(domain)
        expiry = None if outbox is None else outbox.earliest_expiry
        figures.append(
            PeerFigures(
                domain=domain,
                # Blocked is blocked, whatever the configuration says.
                status=beside.status.value if beside.status is PeerStatus.BLOCKED else peer.status.value,
                source="store" if of_file is None else "configuration",
                state="unknown" if standing is None else standing.status,
                waiting=0 if outbox is None else outbox.rows,
                waiting_bytes=0 if outbox is None else outbox.bytes,
                oldest_seconds=None if expiry is None else max(0, now - (expiry - relay_ttl)),
                dead_letters=letters.get(domain, 0),
                failures=0 if standing is None else standing.error_count,
                last_seen_at=None if standing is None else standing.last_seen_at,
                last_error=None if standing is None else standing.last_error,
                endpoint=peer.endpoint,
                public_key=peer.public_key,
                next_key=beside.next_key,
            )
        )
    return figures
