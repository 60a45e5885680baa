"""Friends on two servers see each other come and go; nobody else does."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from commucat_proto import FrameType, decode_frame
from commucat_server.federation.client import PeerAnswer, PeerClient
from commucat_server.routing.live import LiveSession
from commucat_storage import Friend
from server.federation_builders import Site, open_sites, wires_of


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[list[Site]]:
    async with open_sites(tmp_path, "a.test", "b.test", carry=False) as sites, trio.open_nursery() as nursery:
        for site in sites:
            site.federation.inbound.presence = site.presence
            nursery.start_soon(site.presence.run)
            nursery.start_soon(site.board.tell_peers)
        yield sites
        nursery.cancel_scope.cancel()


class Connected:
    """A device with a session, and what it is told of others."""

    def __init__(self, site: Site, device_id: str) -> None:
        self._woken = trio.lowlevel.ParkingLot()
        self._count = 0
        self._live = LiveSession(
            device_id=device_id,
            user_id=f"user-{device_id}",
            token_hash="hash",
            epoch="epoch",
            confirmed=0,
            receives=True,
            delivery_ack=True,
            wake=self._woken.unpark_all,
            next_sequence=self._next,
        )
        site.registry.attach(self._live)

    def _next(self) -> int:
        self._count += 1
        return self._count

    async def told(self) -> dict[str, Any]:
        with trio.fail_after(30):
            while True:
                for encoded in self._live.take():
                    frame, _ = decode_frame(encoded)
                    if frame.type is FrameType.PRESENCE:
                        value: dict[str, Any] = json.loads(frame.payload)
                        return value
                await self._woken.park()

    def nothing_told(self) -> bool:
        return self._live.take() == []


async def make_friends(a: Site, b: Site) -> None:
    await a.storage.replace_friends("user-alice", [Friend(user_id="bob@b.test")])
    await b.storage.replace_friends("user-bob", [Friend(user_id="alice@a.test")])


async def test_friends_see_each_other_come_and_go(sites: list[Site]) -> None:
    a, b = sites
    await make_friends(a, b)
    bob = Connected(b, "bob")
    await b.board.arrive("bob", {})

    alice = Connected(a, "alice")
    await a.board.arrive("alice", {})
    came = await bob.told()
    # Whoever comes is told how the others are.
    there = await alice.told()
    await a.board.leave("alice")
    while (gone := await bob.told())["state"] != "offline":
        pass

    assert (came["entity"], came["state"]) == ("alice@a.test", "online")
    assert came["user"]["handle"] == "alice@a.test"
    assert (there["entity"], there["state"]) == ("bob@b.test", "online")
    assert gone["entity"] == "alice@a.test"


@pytest.mark.parametrize("listed", [("alice",), ("bob",), ()])
async def test_nobody_sees_whom_it_does_not_list_or_who_does_not_list_it(
    sites: list[Site], listed: tuple[str, ...]
) -> None:
    a, b = sites
    await make_friends(a, b)
    if "alice" not in listed:
        await a.storage.replace_friends("user-alice", [])
    if "bob" not in listed:
        await b.storage.replace_friends("user-bob", [])
    bob = Connected(b, "bob")
    told: Any = {
        "type": "presence",
        "entries": [
            {
                "device": "alice",
                "user": "alice",
                "state": "online",
                "expires_at": int(a.clock()) + 60,
                "friends": ["bob", "nobody", "b\0b", 7],
            }
        ],
    }
    if "alice" not in listed:
        # Our server tells nobody of somebody who has no friends there.
        await a.board.arrive("alice", {})
        assert await a.presence._entries({"alice": ("online", True)}) == {}
    answer = await b.take(a.event(told, "b.test"))
    assert answer.status == 202
    assert bob.nothing_told() is ("bob" not in listed)


@pytest.mark.parametrize(
    "entries",
    [
        None,
        [7],
        [{}],
        [{}] * 1000,
        [{"device": "a\nb", "user": "u", "state": "online", "expires_at": 1, "friends": []}],
        [{"device": "d", "user": "", "state": "online", "expires_at": 1, "friends": []}],
        [{"device": "d", "user": "u", "state": "x" * 65, "expires_at": 1, "friends": []}],
        [{"device": "d", "user": "u", "state": "online", "expires_at": 2**60, "friends": []}],
        [{"device": "d", "user": "u", "state": "online", "expires_at": 1, "friends": ["f"] * 600}],
    ],
)
async def test_other_things_are_no_presence(sites: list[Site], entries: Any) -> None:
    a, b = sites
    answer = await b.take(a.event({"type": "presence", "entries": entries}, "b.test"))
    assert answer.status == 400


async def test_a_server_that_does_not_want_presence_is_told_none(sites: list[Site]) -> None:
    a, b = sites
    await make_friends(a, b)
    b.federation.inbound.presence = None
    told: Any = {"type": "presence", "entries": []}
    assert (await b.take(a.event(told, "b.test"))).status == 400

    wires = wires_of(a)
    wires.answers["b.test"] = PeerAnswer(400, {})
    for _ in range(3):
        await a.presence._tell("b.test", [])
    assert len(wires.requests) == 1


async def test_a_peer_whose_host_is_no_name_ends_no_server(sites: list[Site]) -> None:
    a, b = sites
    await make_friends(a, b)
    peer = a.directory.get("b.test")
    assert peer is not None
    a.directory._peers["b.test"] = attrs.evolve(peer, endpoint="https://b..test")
    a.presence._client = PeerClient(None, 10.0, "test")
    entries = await a.presence._entries({"alice": ("online", True)})

    await a.presence._tell("b.test", entries["b.test"])
