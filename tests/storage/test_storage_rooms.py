"""Open rooms: who is reached, how a room grows and ends, and that nobody can name one. For every backend."""

from typing import TYPE_CHECKING

import pytest

from commucat_storage import (
    DropRoute,
    GroupAction,
    GroupRole,
    Operation,
    RefusalReason,
    Resolve,
    ResolveOutcome,
    Route,
    RouteOutcome,
    Storage,
    room_id,
)
from storage.storage_builders import (
    NOW,
    accepted,
    add_devices,
    by_route,
    change,
    create,
    group_route,
    invite,
    join_room,
    message,
    refused,
    route,
    send,
    stored,
)

if TYPE_CHECKING:
    from storage.conftest import Backend

ROOM = Route(group_id=room_id(7))


async def reached(storage: Storage, name: str, channel: int = 7) -> tuple[str, ...]:
    [outcome] = await send(storage, Resolve(name, channel))
    assert isinstance(outcome, ResolveOutcome)
    return outcome.recipients


async def test_those_who_join_a_number_reach_each_other(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")

    # What the terminal client of 2025 sends: a Join that names nobody but itself.
    joined = await send(storage, *[join_room(name, 7, name) for name in ("a", "b", "c")])
    [said, answered] = await send(storage, by_route("a"), by_route("b", payload=b"purr"))

    assert joined == (RouteOutcome(),) * 3
    assert accepted(said) == {"b": 1, "c": 1}
    assert accepted(answered) == {"a": 1, "c": 2}
    assert await storage.routes_of("a") == {7: ROOM}
    [row] = await stored(storage, "a")
    assert (row.channel, row.payload) == (7, b"purr")


async def test_a_join_adds_and_never_replaces(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")

    await send(storage, join_room("a", 7, "b"), join_room("c", 7), join_room("a", 7))

    assert await reached(storage, "a") == ("b", "c")
    assert await reached(storage, "c") == ("a", "b")


async def test_a_declared_device_receives_before_it_joins_and_sends_after(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await send(storage, join_room("a", 7, "b"))

    [said, too_early] = await send(storage, by_route("a"), by_route("b"))
    [_, answered] = await send(storage, join_room("b", 7), by_route("b"))

    assert accepted(said) == {"b": 1}
    assert refused(too_early) == {"": RefusalReason.NO_ROUTE}
    assert accepted(answered) == {"a": 1}


async def test_unknown_and_revoked_devices_are_left_out(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "gone")
    await storage.revoke_device("gone", NOW)

    [joined] = await send(storage, join_room("a", 7, "ghost", "gone", "b", "b\0", "b"))
    [said] = await send(storage, by_route("a"))

    assert joined == RouteOutcome()
    assert (accepted(said), refused(said)) == ({"b": 1}, {})


@pytest.mark.parametrize(
    ("name", "reason"), [("ghost", RefusalReason.UNKNOWN_DEVICE), ("gone", RefusalReason.REVOKED)]
)
async def test_only_an_active_device_joins(storage: Storage, name: str, reason: RefusalReason) -> None:
    await add_devices(storage, "a", "gone")
    await storage.revoke_device("gone", NOW)

    assert await send(storage, join_room(name, 7, "a")) == (RouteOutcome(reason),)
    await send(storage, join_room("a", 7))
    assert await reached(storage, "a") == ()


async def test_rooms_of_different_numbers_have_nothing_in_common(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")

    await send(storage, join_room("a", 7), join_room("b", 7), join_room("a", 70), join_room("c", 70))

    assert await reached(storage, "a", 7) == ("b",)
    assert await reached(storage, "a", 70) == ("c",)


async def test_leave_takes_the_sender_out_and_nobody_else(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    await send(storage, *[join_room(name, 7) for name in ("a", "b", "c")])

    [left] = await send(storage, DropRoute("b", 7))
    [said, from_outside] = await send(storage, by_route("a"), by_route("b"))

    assert left == RouteOutcome()
    assert accepted(said) == {"c": 1}
    assert refused(from_outside) == {"": RefusalReason.NO_ROUTE}
    assert await storage.routes_of("b") == {}


async def test_a_declared_device_can_leave_what_it_never_joined(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await send(storage, join_room("a", 7, "b"))

    [left] = await send(storage, DropRoute("b", 7))

    assert left == RouteOutcome()
    assert await reached(storage, "a") == ()


async def test_a_room_ends_when_all_who_joined_it_have_left(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    await send(storage, join_room("a", 7, "c"), join_room("b", 7), DropRoute("a", 7))
    assert await reached(storage, "b") == ("c",)

    await send(storage, DropRoute("b", 7), join_room("a", 7))

    # It is a new room: c, who never joined the old one, is not in it.
    assert await reached(storage, "a") == ()


@pytest.mark.parametrize(
    "elsewhere", [route("a", 7, "c"), group_route("a", 7), create("a", "c", group_id="h")], ids=repr
)
async def test_another_route_on_the_number_leaves_the_room(storage: Storage, elsewhere: Operation) -> None:
    await add_devices(storage, "a", "b", "c")
    await send(storage, create("a", "c", channel=9), join_room("a", 7), join_room("b", 7))

    await send(storage, elsewhere)

    assert await reached(storage, "b") == ()
    assert await reached(storage, "a") == ("c",)
    [_, said] = await send(storage, route("b", 7, "a"), by_route("b"))
    assert refused(said) == {"a": RefusalReason.CHANNEL_CONFLICT}


async def test_a_member_with_another_conversation_on_the_number_is_not_reached(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    await send(storage, route("b", 7, "c"), join_room("a", 7, "b", "c"))

    [said] = await send(storage, by_route("a"))

    assert accepted(said) == {"c": 1}
    assert refused(said) == {"b": RefusalReason.CHANNEL_CONFLICT}


async def test_a_room_survives_the_store(backend: "Backend") -> None:
    async with backend.open() as storage:
        await add_devices(storage, "a", "b", "c")
        await send(storage, join_room("a", 7, "c"), join_room("b", 7, relay=True))
    async with backend.open() as storage:
        assert await reached(storage, "a") == ("b", "c")
        assert await storage.routes_of("b") == {7: Route(group_id=room_id(7), relay=True)}
        await send(storage, DropRoute("a", 7), DropRoute("b", 7))
    async with backend.open() as storage:
        [said] = await send(storage, by_route("a"))
        assert refused(said) == {"": RefusalReason.NO_ROUTE}


async def test_limits_of_members_and_routes(backend: "Backend") -> None:
    async with backend.open(max_group_members=3, max_routes=1) as storage:
        await add_devices(storage, "a", "b", "c", "d")
        await send(storage, join_room("a", 7, "b"))

        outcomes = await send(
            storage,
            join_room("c", 7, "d"),
            join_room("c", 7, "ghost"),
            join_room("d", 7),
            join_room("b", 7, "a", "c"),
            join_room("a", 8),
        )

        assert outcomes == (
            RouteOutcome(RefusalReason.GROUP_FULL),
            RouteOutcome(),
            RouteOutcome(RefusalReason.GROUP_FULL),
            RouteOutcome(),
            RouteOutcome(RefusalReason.TOO_MANY_ROUTES),
        )
        assert await reached(storage, "a") == ("b", "c")
        assert await storage.routes_of("d") == {}


async def test_who_joined_the_same_room_is_no_stranger_and_hears_of_presence(backend: "Backend") -> None:
    async with backend.open(stranger_rows=1) as storage:
        await add_devices(storage, "a", "b", "c")
        await send(storage, join_room("a", 7, "c"), join_room("b", 7))

        outcomes = await send(storage, *[by_route("a")] * 3)

        # c was named by a, and has agreed to nothing.
        assert [sorted(accepted(each)) for each in outcomes] == [["b", "c"], ["b"], ["b"]]
        assert await storage.peers_of("a", 10) == ("b",)
        assert await storage.peers_of("c", 10) == ()


@pytest.mark.parametrize(
    "operation",
    [
        create("b", group_id=room_id(7)),
        invite("a", "b", group_id=room_id(7)),
        change("a", GroupAction.LEAVE, group_id=room_id(7)),
        change("a", GroupAction.SET_ROLE, "b", GroupRole.OWNER, group_id=room_id(7)),
        group_route("b", 8, room_id(7)),
        group_route("a", 8, "\x1fanything"),
    ],
    ids=repr,
)
async def test_nobody_can_name_a_room(storage: Storage, operation: Operation) -> None:
    await add_devices(storage, "a", "b")
    await send(storage, join_room("a", 7))

    with pytest.raises(ValueError, match="reserved"):
        await storage.commit([operation])
    assert await storage.load_group(room_id(7)) is None
    assert await reached(storage, "a") == ()


async def test_a_channel_that_does_not_exist_has_no_room(storage: Storage) -> None:
    with pytest.raises(ValueError, match="channel"):
        await storage.commit([join_room("a", 2**32)])


async def test_named_recipients_outside_the_room_are_refused(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    await send(storage, join_room("a", 7), join_room("b", 7))

    [outcome] = await send(storage, message("b", "c", sender="a"))

    assert accepted(outcome) == {"b": 1}
    assert refused(outcome) == {"c": RefusalReason.NOT_MEMBER}
