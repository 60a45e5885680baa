"""The share of an inbox that senders without a relation to its device have. For every backend."""

from typing import TYPE_CHECKING

import attrs

from commucat_storage import (
    Admission,
    AdmissionKind,
    Confirm,
    DropRoute,
    GroupAction,
    RefusalReason,
    Storage,
)
from storage.storage_builders import (
    NOW,
    accepted,
    add_devices,
    change,
    confirm,
    create,
    device,
    group_route,
    invite,
    message,
    notified,
    numbers,
    refused,
    route,
    send,
    stored,
)

if TYPE_CHECKING:
    from storage.conftest import Backend

FULL = {"a": RefusalReason.QUOTA}
SOON = NOW + 10


async def room_of(storage: Storage, sender: str, *, channel: int = 7, tries: int = 6) -> int:
    """How many of ``tries`` messages of 10 bytes from ``sender`` the inbox of "a" takes."""
    batch = [message("a", sender=sender, channel=channel, payload=bytes(10))] * tries
    return sum(len(accepted(each)) for each in await send(storage, *batch))


async def test_strangers_share_a_number_of_rows(backend: "Backend") -> None:
    async with backend.open(stranger_rows=3) as storage:
        await add_devices(storage, "a", "s", "t", "friend")
        await send(storage, route("a", 1, "friend"))

        outcomes = await send(
            storage,
            *[message("a", sender="s")] * 2,
            *[message("a", sender="elsewhere")] * 2,
            message("a", sender="t"),
            message("a", sender="friend"),
            message("a"),
        )

        assert [accepted(each) for each in outcomes] == [
            *[{"a": 1}, {"a": 2}, {"a": 3}, {}, {}],
            *[{"a": 4}, {"a": 5}],
        ]
        assert refused(outcomes[3]) == refused(outcomes[4]) == FULL


async def test_strangers_share_a_number_of_bytes(backend: "Backend") -> None:
    async with backend.open(stranger_bytes=25) as storage:
        await add_devices(storage, "a", "s")

        assert await room_of(storage, "s") == 2

        assert accepted((await send(storage, message("a", sender="s", payload=bytes(5))))[0]) == {"a": 3}
        assert refused((await send(storage, message("a", sender="s", payload=b"x")))[0]) == FULL
        assert accepted((await send(storage, message("a", sender="s", payload=b"")))[0]) == {"a": 4}


async def test_a_device_of_the_same_user_is_no_stranger(backend: "Backend") -> None:
    async with backend.open(stranger_rows=1) as storage:
        await add_devices(storage, "a")
        second = Admission(
            kind=AdmissionKind.BY_HANDLE, device=device("second", owner="a"), device_limit=5, now=NOW
        )
        await storage.admit(second)

        assert await room_of(storage, "second") == 6


async def test_what_came_of_a_stranger_counts_so_whatever_it_is_now(backend: "Backend") -> None:
    async with backend.open(stranger_rows=3) as storage:
        await add_devices(storage, "a", "s", "t")
        await send(storage, message("a", sender="s"))
        await send(storage, route("a", 9, "s"))
        assert await room_of(storage, "s") == 6
        await send(storage, DropRoute("a", 9))

        assert await room_of(storage, "s") == 2
        # Confirmed in two parts: first the stranger's, then those of the one it had a relation to.
        await confirm(storage, "a", 1)
        assert await room_of(storage, "t") == 1
        await confirm(storage, "a", 7)
        assert await room_of(storage, "t") == 0
        await confirm(storage, "a", 10)
        assert await room_of(storage, "t") == 3


async def test_the_share_is_given_back_in_the_transaction_that_confirms(backend: "Backend") -> None:
    async with backend.open(stranger_rows=2) as storage:
        await add_devices(storage, "a", "s")
        state = await storage.inbox_state("a")
        assert state is not None
        assert await room_of(storage, "s", tries=2) == 2

        outcomes = await send(storage, Confirm("a", state.epoch, 1), *[message("a", sender="s")] * 2)

        assert [accepted(each) for each in outcomes[1:]] == [{"a": 3}, {}]


async def test_the_share_is_given_back_by_expiry_and_counted_after_a_restart(backend: "Backend") -> None:
    async with backend.open(stranger_rows=3) as storage:
        await add_devices(storage, "a", "b", "s", "friend")
        await send(storage, route("a", 1, "friend"))
        await send(
            storage,
            message("a", "b", sender="s", expires_at=SOON),
            message("a", sender="friend", expires_at=SOON),
            message("a", sender="s"),
        )
    async with backend.open(stranger_rows=3) as storage:
        assert (await storage.purge_expired(SOON)).messages == 3
    async with backend.open(stranger_rows=3) as storage:
        assert numbers(await stored(storage, "a")) == [3]
        assert await room_of(storage, "s") == 2


async def test_members_of_a_group_that_the_device_joined_are_no_strangers(backend: "Backend") -> None:
    async with backend.open(stranger_rows=2) as storage:
        await add_devices(storage, "a", "s", "t")

        # Anybody can put a device in a group: that alone ends nothing.
        assert notified((await send(storage, create("s", "a", "t")))[0]) == {"a": 1, "t": 1}
        assert await room_of(storage, "s") == 1
        assert await room_of(storage, "t") == 0

        await send(storage, group_route("a", 3))
        assert await room_of(storage, "s") == 6
        assert await room_of(storage, "t", channel=5) == 6

        await send(storage, DropRoute("a", 3))
        assert await room_of(storage, "t") == 6
        await send(storage, change("s", GroupAction.REMOVE, "t"))
        assert await room_of(storage, "t") == 0
        await send(storage, change("a", GroupAction.LEAVE))
        assert await room_of(storage, "s") == 0


async def test_a_group_to_which_an_acquaintance_invites_is_taken_as_wanted(backend: "Backend") -> None:
    async with backend.open(stranger_rows=1) as storage:
        await add_devices(storage, "a", "friend", "other", "s")
        await send(storage, route("a", 1, "friend"))
        await send(storage, create("friend", "other"), invite("friend", "a"))

        assert await room_of(storage, "other") == 6
        assert await room_of(storage, "s") == 1

    async with backend.open(stranger_rows=1) as storage:
        assert await room_of(storage, "other") == 6
        assert await room_of(storage, "s") == 0


async def test_a_group_one_has_created_is_wanted_and_ends_with_it(backend: "Backend") -> None:
    async with backend.open(stranger_rows=1) as storage:
        await add_devices(storage, "a", "s")
        await send(storage, create("a", "s"))
        assert await room_of(storage, "s", channel=5) == 6

        await send(storage, change("a", GroupAction.REMOVE, "s"), change("a", GroupAction.LEAVE))

        assert await room_of(storage, "s", channel=5) == 1


# -- what expired ------------------------------------------------------------------------------------


async def test_senders_that_asked_are_told_what_expired(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "s")
    asked = attrs.evolve(message("a", "b", sender="s", channel=4, expires_at=SOON), report=True)
    await send(
        storage,
        asked,
        message("a", sender="s", expires_at=SOON),
        asked,
        attrs.evolve(asked, sender=""),
        attrs.evolve(message("a", sender="s"), report=True),
    )
    await confirm(storage, "b", 1)

    purged = await storage.purge_expired(SOON)

    told = [(each.sender, each.channel, each.device_id, each.number) for each in purged.expired]
    assert (purged.messages, purged.more) == (6, False)
    assert told == [("s", 4, "a", 1), ("s", 4, "a", 3), ("s", 4, "b", 2)]
    assert (await storage.purge_expired(SOON)).expired == ()


async def test_a_revoked_device_is_reported_too(storage: Storage) -> None:
    await add_devices(storage, "a", "s")
    await send(storage, attrs.evolve(message("a", sender="s"), report=True))
    await storage.revoke_device("a", NOW)

    assert [each.device_id for each in (await storage.purge_expired(NOW)).expired] == ["a"]


async def test_what_is_not_for_strangers_they_are_refused_with(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "s", "friend")
    await send(storage, route("a", 7, "friend"), route("b", 1, "s"))

    of_stranger, of_friend, of_server = await send(
        storage,
        attrs.evolve(message("a", "b", sender="s", channel=9), known_only=True),
        attrs.evolve(message("a", sender="friend"), known_only=True),
        attrs.evolve(message("a"), known_only=True),
    )

    assert refused(of_stranger) == {"a": RefusalReason.STRANGER}
    assert set(accepted(of_stranger)) == {"b"}
    assert accepted(of_friend) == {"a": 1}
    assert accepted(of_server) == {"a": 2}


async def test_busy_recipients_refuse_and_of_others_nothing_is_said(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "s")
    busy = frozenset({"a", "elsewhere"})

    [some] = await send(storage, attrs.evolve(message("a", "b", sender="s"), busy=busy))
    [alone] = await send(storage, attrs.evolve(message("a", sender="s"), busy=busy))

    assert (refused(some), accepted(some)) == ({"a": RefusalReason.BUSY}, {"b": 1})
    assert (refused(alone), accepted(alone)) == ({"a": RefusalReason.BUSY}, {})


async def test_to_a_stranger_a_busy_device_is_no_more_than_not_for_strangers(storage: Storage) -> None:
    await add_devices(storage, "a", "s")
    hidden = attrs.evolve(message("a", sender="s"), busy=frozenset({"a"}), known_only=True)
    [outcome] = await send(storage, hidden)
    assert refused(outcome) == {"a": RefusalReason.STRANGER}
