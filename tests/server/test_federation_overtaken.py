"""What an operator decides about a peer while the server is busy with it, holds."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from commucat_server.federation import lane as lane_module
from commucat_storage import Peer, PeerStatus
from server.federation_builders import ENDPOINTS, Site, open_sites

A, B = "a.example", "b.example"


def peer_of(site: Site, status: PeerStatus) -> Peer:
    return Peer(
        domain=site.domain,
        endpoint=ENDPOINTS + site.domain,
        public_key=site.keys.public,
        status=status,
        next_key=None,
        created_at=1,
        updated_at=1,
    )


async def decide(site: Site, peer: Peer) -> None:
    await site.storage.put_peer(peer)
    await site.federation.changed()


async def test_a_peer_that_is_blocked_while_it_becomes_active_stays_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sites(tmp_path, A, B, carry=False) as (a, b):
        monkeypatch.setattr(a.directory, "_configured", {})
        await decide(a, peer_of(b, PeerStatus.PENDING))
        pending = a.directory.get(B)
        assert pending is not None
        activate = a.storage.activate_peer

        async def after_the_operator(domain: str, now: int) -> bool:
            await decide(a, peer_of(b, PeerStatus.BLOCKED))
            return await activate(domain, now)

        monkeypatch.setattr(a.storage, "activate_peer", after_the_operator)
        await a.directory.promote(pending)

        assert a.directory.get(B) is None
        await a.directory.refresh()
        assert a.directory.get(B) is None


async def test_a_peer_that_was_read_before_it_was_blocked_stays_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sites(tmp_path, A, B, carry=False) as (a, b):
        read, going_on = a.storage.peers, trio.Event()

        async def slowly() -> Any:
            monkeypatch.setattr(a.storage, "peers", read)
            found = await read()
            await going_on.wait()
            return found

        async with trio.open_nursery() as nursery:
            monkeypatch.setattr(a.storage, "peers", slowly)
            nursery.start_soon(a.directory.refresh)
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.start_soon(decide, a, peer_of(b, PeerStatus.BLOCKED))
            await trio.testing.wait_all_tasks_blocked(0.05)
            going_on.set()

        assert a.directory.get(B) is None
        assert [(each.domain, each.open) for each in await a.storage.outboxes()] == [(B, False)]


async def test_what_was_purged_while_a_peer_was_blocked_is_not_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_module, "PAGE_ROWS", 4)
    async with open_sites(tmp_path, A, B, carry=False) as (a, b):
        await a.write("alice", f"bob@{B}", *(f"m{number}" for number in range(12)))
        lane = lane_module.Lane(B, a.federation.courier._services)
        while not await b.texts("bob"):
            await lane._carry_page()
        before = await b.texts("bob")
        await a.storage.settle()

        await decide(a, peer_of(b, PeerStatus.BLOCKED))
        assert await lane._carry_page()
        assert await a.storage.purge_outbox(B) == 12 - len(before)
        await decide(a, attrs.evolve(peer_of(b, PeerStatus.ACTIVE)))
        await lane._carry_page()

        assert await b.texts("bob") == before
