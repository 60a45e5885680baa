"""Upkeep: what has expired goes, what has not stays. For every backend."""

from typing import TYPE_CHECKING

import attrs

from commucat_storage import Confirm, Presence, Purged, Storage
from storage.storage_builders import (
    LATER,
    NOW,
    accepted,
    add_devices,
    code,
    confirm,
    message,
    new_user,
    numbers,
    send,
    session,
    stored,
    user,
)

if TYPE_CHECKING:
    from storage.conftest import Backend

SOON = NOW + 10


async def purged_messages(storage: Storage, now: int) -> int:
    return (await storage.purge_expired(now)).messages


async def test_expired_messages_are_deleted_wherever_they_stand(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await send(
        storage,
        message("a", expires_at=SOON),
        message("a"),
        message("a", "b", expires_at=SOON),
        message("a"),
        message("b", "a", payload=b"stays"),
    )

    assert await purged_messages(storage, SOON - 1) == 0
    assert await purged_messages(storage, SOON) == 3
    assert await purged_messages(storage, SOON) == 0

    assert numbers(await stored(storage, "a")) == [2, 4, 5]
    assert [each.payload for each in await stored(storage, "b")] == [b"stays"]
    assert await purged_messages(storage, LATER) == 4


async def test_numbers_are_not_given_out_again_after_the_newest_expired(storage: Storage) -> None:
    await add_devices(storage, "a")
    await send(storage, *[message("a", expires_at=SOON)] * 3)
    await purged_messages(storage, SOON)

    [outcome] = await send(storage, message("a"))

    assert accepted(outcome) == {"a": 4}
    assert (await confirm(storage, "a", 4)) is not None


async def test_more_messages_than_one_step_looks_at(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    for index in range(5):
        expiry = SOON if index % 2 else LATER
        await send(storage, *[message("a", expires_at=expiry)] * 500, message("b", expires_at=expiry))

    assert await purged_messages(storage, SOON) == 1002

    page = await storage.read_after("a", 0, limit_rows=3000, limit_bytes=2**30, now=NOW)
    assert len(page.rows) == 1500
    assert await purged_messages(storage, LATER) == 1503


async def test_purging_gives_room_to_a_full_inbox(backend: "Backend") -> None:
    async with backend.open(max_rows=3, max_bytes=100) as storage:
        await add_devices(storage, "a", "b")
        await send(storage, *[message("a", "b", payload=bytes(30), expires_at=SOON)] * 3)
        await purged_messages(storage, SOON)

        outcomes = await send(storage, *[message("a", payload=bytes(30))] * 4)

        assert [accepted(each) for each in outcomes] == [{"a": 4}, {"a": 5}, {"a": 6}, {}]


async def test_a_message_sent_after_a_purge_is_found_by_the_next(storage: Storage) -> None:
    inbox = (await add_devices(storage, "a"))["a"]
    await send(storage, message("a", expires_at=SOON))
    await purged_messages(storage, SOON)
    await send(storage, message("a", expires_at=LATER), message("a", expires_at=LATER + 5))
    await send(storage, Confirm("a", inbox.epoch, 2))

    assert await purged_messages(storage, LATER) == 0
    assert await purged_messages(storage, LATER + 5) == 1


async def test_messages_of_a_revoked_device_go_with_the_next_purge(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await send(storage, message("a", "b"), message("a"))
    await storage.revoke_device("a", NOW)

    assert await purged_messages(storage, NOW) == 2
    assert await stored(storage, "a") == ()
    assert numbers(await stored(storage, "b")) == [1]


async def test_ended_sessions_and_expired_codes_are_deleted(storage: Storage) -> None:
    for index in range(3):
        each = session(f"token{index}", f"d{index}", refreshed_at=NOW + index, ttl_seconds=10)
        await storage.admit(attrs.evolve(new_user(f"d{index}"), session=each))
    await storage.create_user(user("tom"), code("old", "tom", expires_at=SOON))
    await storage.add_enrolment_code(code("new", "tom"))

    assert await storage.purge_expired(NOW + 11) == Purged(messages=0, sessions=2, codes=1)
    assert await storage.load_session("token2") is not None
    assert await storage.purge_expired(LATER) == Purged(messages=0, sessions=1, codes=1)


async def test_expired_presence_is_dropped(storage: Storage) -> None:
    await storage.publish_presence(Presence(device_id="a", state="online", expires_at=SOON))
    await storage.publish_presence(Presence(device_id="b", state="online", expires_at=LATER))

    await storage.purge_expired(SOON)

    assert await storage.read_presence("a", NOW) is None
    assert await storage.read_presence("b", NOW) is not None
