"""Calls in the store, by the same rules in every backend."""

import json
from typing import Any

import attrs
import pytest

from commucat_storage import CallRow, MediaTrack, Node, Storage
from storage.conftest import Backend
from storage.storage_builders import NOW, add_devices, create, key_of, route, send

NODE, OTHER = "aa", "bb"


def call(name: str = "c", **fields: Any) -> CallRow:
    values: dict[str, Any] = {
        "call_id": name,
        "channel": 2**32 - 1,
        "initiator": "alice",
        "mode": "full_duplex",
        "video": True,
        "participants": ("alice", "bob", "ca\u0161a"),
        "node": NODE,
        "started_at": NOW,
        "last_update": NOW,
    }
    return CallRow(**{**values, **fields})


def ended(name: str, at: int, **fields: Any) -> CallRow:
    return call(name, ended_at=at, end_reason="hangup", ended_by="bob", **fields)


def track(name: str = "c", **fields: Any) -> MediaTrack:
    values: dict[str, Any] = {
        "call_id": name,
        "device_id": "alice",
        "kind": "audio",
        "direction": "send",
        "created_at": NOW,
        "updated_at": NOW,
    }
    return MediaTrack(**{**values, **fields})


async def all_calls(storage: Storage) -> tuple[CallRow, ...]:
    return await storage.list_calls(limit=100, ended=True)


async def enter(storage: Storage, node: str) -> None:
    await storage.enter_cluster(Node(node_id=node, host="h", pid=1, identity=key_of("server")))


async def test_a_call_is_stored_as_it_is_and_again_as_it_is_then(storage: Storage) -> None:
    first = call(group_id="g")
    await storage.store_calls([first], [])
    assert await all_calls(storage) == (first,)

    later = attrs.evolve(
        first,
        accepted=("bob",),
        gone=("ca\u0161a",),
        answered_at=NOW + 3,
        ended_at=NOW + 9,
        end_reason="hangup",
        ended_by="bob",
        last_update=NOW + 9,
    )
    await storage.store_calls([later], [])
    assert await all_calls(storage) == (later,)


def test_who_is_in_a_call_and_where_it_rings_follows_from_the_row() -> None:
    row = call(accepted=("bob",), gone=("alice",))
    assert (row.joined, row.ringing) == ({"bob"}, {"ca\u0161a"})


async def test_open_calls_are_those_that_have_not_ended_the_oldest_first(storage: Storage) -> None:
    rows = [call("b", started_at=NOW + 1), ended("x", NOW), call("a", started_at=NOW)]
    await storage.store_calls(rows, [])
    assert [row.call_id for row in await storage.open_calls(limit=10)] == ["a", "b"]
    assert [row.call_id for row in await storage.open_calls(limit=1)] == ["a"]


async def test_lists_are_of_open_calls_or_of_all_and_of_one_device(storage: Storage) -> None:
    rows = [
        call("a"),
        ended("x", NOW, started_at=NOW + 1),
        call("d", participants=("dora", "ed"), started_at=NOW + 2),
    ]
    await storage.store_calls(rows, [])

    async def listed(**wanted: Any) -> list[str]:
        return [row.call_id for row in await storage.list_calls(**{"limit": 9, **wanted})]

    assert await listed() == ["d", "a"]
    assert await listed(ended=True) == ["d", "x", "a"]
    assert await listed(ended=True, limit=2) == ["d", "x"]
    assert await listed(device_id="ed") == ["d"]
    assert await listed(device_id="bob", ended=True) == ["x", "a"]
    assert await listed(device_id="nobody") == []


async def test_the_id_of_a_call_that_is_over_may_be_used_again(storage: Storage) -> None:
    await storage.store_calls([ended("c", NOW)], [track()])
    again = call("c", node=OTHER, started_at=NOW + 5)
    await storage.store_calls([again], [])
    assert await all_calls(storage) == (again,)
    assert await storage.media_tracks(["c"]) == ()


async def test_a_call_on_the_channel_of_a_group_is_of_that_group_to_its_end(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await send(storage, create("a", "b"))
    rung = call(channel=7, initiator="a", participants=("a", "b"))
    await storage.store_calls([rung], [])
    assert await all_calls(storage) == (attrs.evolve(rung, group_id="g"),)

    await send(storage, route("a", 7, "b"))
    over = attrs.evolve(rung, accepted=("b",), ended_at=NOW + 1, end_reason="hangup", ended_by="a")
    await storage.store_calls([over], [])
    assert await all_calls(storage) == (attrs.evolve(over, group_id="g"),)

    again = attrs.evolve(rung, started_at=NOW + 5)
    await storage.store_calls([again], [])
    assert await all_calls(storage) == (again,)


async def test_an_open_call_of_another_node_stays_as_it_is(storage: Storage) -> None:
    await storage.store_calls([call()], [])
    await storage.store_calls([call(node=OTHER, mode="half_duplex"), call("d", node=OTHER)], [])
    assert {row.call_id: row.node for row in await all_calls(storage)} == {"c": NODE, "d": OTHER}
    assert (await storage.list_calls(limit=9, device_id="bob"))[0].mode == "full_duplex"


async def test_tracks_keep_what_is_not_told_anew(storage: Storage) -> None:
    announced = track(codec="opus", bitrate=2**32 - 1, params='{"channels": 1}')
    await storage.store_calls([call()], [announced, track(kind="video", codec="vp8")])
    await storage.store_calls([], [track(stats='{"jitter_ms": 7}', updated_at=NOW + 5)])

    audio, video = await storage.media_tracks(["c", "nothing"])
    assert (audio.codec, audio.bitrate, audio.updated_at) == ("opus", 2**32 - 1, NOW + 5)
    assert (audio.created_at, json.loads(audio.params)) == (NOW, {"channels": 1})
    assert json.loads(audio.stats) == {"jitter_ms": 7}
    assert (video.kind, video.codec, video.bitrate, json.loads(video.stats)) == ("video", "vp8", None, {})


async def test_a_track_without_its_call_is_left_out(storage: Storage) -> None:
    await storage.store_calls([call()], [track("gone"), track()])
    assert [each.call_id for each in await storage.media_tracks(["gone", "c"])] == ["c"]


async def test_calls_of_a_process_that_is_no_more_are_claimed_once(backend: Backend) -> None:
    async with backend.open() as storage:
        await enter(storage, NODE)
        await storage.store_calls(
            [call("b", started_at=NOW + 1), call("a"), ended("x", NOW), call("mine", node=OTHER)], []
        )
        await storage.leave_cluster()
    async with backend.open() as storage:
        await enter(storage, OTHER)
        assert [row.call_id for row in await storage.claim_calls(OTHER, limit=1)] == ["a"]
        [claimed] = await storage.claim_calls(OTHER, limit=9)
        assert claimed == call("b", node=OTHER, started_at=NOW + 1)
        assert await storage.claim_calls(OTHER, limit=9) == ()
        own = await storage.claim_calls(OTHER, own=True, limit=9)
        assert {row.call_id for row in own} == {"a", "b", "mine"}
        assert {row.node for row in await storage.open_calls(limit=9)} == {OTHER}


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
async def test_calls_of_a_node_that_lives_are_its_own(backend: Backend) -> None:
    async with backend.open() as storage, backend.open() as other:
        await enter(storage, NODE)
        await enter(other, OTHER)
        await storage.store_calls([call()], [])
        assert await other.claim_calls(OTHER, limit=9) == ()
        await storage.leave_cluster()
        assert [row.call_id for row in await other.claim_calls(OTHER, limit=9)] == ["c"]
        # What the first one says now comes too late.
        await storage.store_calls([ended("c", NOW + 1)], [])
        assert [(row.node, row.ended_at) for row in await all_calls(other)] == [(OTHER, None)]


async def test_purged_are_those_that_ended_long_ago_with_their_tracks(storage: Storage) -> None:
    rows = [call("open"), ended("old", NOW), ended("new", NOW + 1)]
    await storage.store_calls(rows, [track(row.call_id) for row in rows])
    assert await storage.purge_calls(NOW) == 1
    assert {row.call_id for row in await all_calls(storage)} == {"open", "new"}
    assert [each.call_id for each in await storage.media_tracks(["open", "old", "new"])] == ["new", "open"]


async def test_thousands_are_purged_in_steps(storage: Storage) -> None:
    await storage.store_calls([ended(f"c{number}", NOW) for number in range(2_500)], [])
    assert await storage.purge_calls(NOW) == 2_500
    assert await all_calls(storage) == ()
