"""Lists of friends and requests to become one. For every backend."""

from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from commucat_storage import (
    Friend,
    FriendRefusal,
    FriendRefusedError,
    FriendRequest,
    RefusalReason,
    RequestStatus,
    Storage,
    StorageError,
)
from commucat_storage.friends import MAX_FRIENDS, MAX_PENDING_REQUESTS
from storage.storage_builders import (
    NOW,
    accepted,
    add_devices,
    add_siblings,
    device,
    friend_request,
    message,
    refused,
    send,
    user,
)

if TYPE_CHECKING:
    from storage.conftest import Backend

MICROS = NOW * 1_000_000 + 123_456


def asking(asker: str, asked: str, at: int = MICROS, text: str | None = None) -> FriendRequest:
    return attrs.evolve(friend_request(f"user-{asker}", f"user-{asked}", at), message=text)


def names(*users: str) -> list[Friend]:
    return [Friend(user_id=f"user-{each}") for each in users]


async def befriend(storage: Storage, asker: str, asked: str) -> None:
    await storage.request_friend(asking(asker, asked))
    await storage.answer_friend_request(f"user-{asker}", f"user-{asked}", accept=True, now=MICROS)


async def listed(storage: Storage, name: str) -> list[str]:
    return [friend.user_id for friend in await storage.friends_of(f"user-{name}")]


async def refusal_of(storage: Storage, request: FriendRequest) -> FriendRefusal:
    with pytest.raises(FriendRefusedError) as caught:
        await storage.request_friend(request)
    return caught.value.refusal


async def answer_refused(storage: Storage, asker: str, asked: str, *, accept: bool = True) -> FriendRefusal:
    with pytest.raises(FriendRefusedError) as caught:
        await storage.answer_friend_request(f"user-{asker}", f"user-{asked}", accept=accept, now=MICROS)
    return caught.value.refusal


# -- lists ---------------------------------------------------------------------------------------------


async def test_a_list_is_kept_in_its_order_with_aliases_of_users_that_need_not_exist(
    storage: Storage,
) -> None:
    await add_devices(storage, "a", "b")
    wanted = (Friend(user_id="nobody's"), Friend(user_id="user-b", alias="Bob ☃"), Friend(user_id="user-a"))

    await storage.replace_friends("user-a", wanted)

    assert await storage.friends_of("user-a") == wanted
    assert await storage.friends_of("user-b") == ()
    await storage.replace_friends("user-a", wanted[1:2])
    assert await storage.friends_of("user-a") == wanted[1:2]
    await storage.replace_friends("user-a", ())
    assert await storage.friends_of("user-a") == ()


async def test_a_list_that_is_too_long_or_names_somebody_twice_is_not_stored(storage: Storage) -> None:
    await add_devices(storage, "a")
    many = names(*map(str, range(MAX_FRIENDS + 1)))

    with pytest.raises(ValueError, match="more than 512"):
        await storage.replace_friends("user-a", many)
    with pytest.raises(ValueError, match="twice"):
        await storage.replace_friends("user-a", names("b", "b"))
    with pytest.raises(StorageError):
        await storage.replace_friends("user-nobody", names("b"))

    await storage.replace_friends("user-a", many[:-1])
    assert len(await storage.friends_of("user-a")) == MAX_FRIENDS


async def test_an_entry_is_removed_on_one_side_only(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await befriend(storage, "a", "b")

    assert await storage.remove_friend("user-a", "user-b")

    assert not await storage.remove_friend("user-a", "user-b")
    assert await listed(storage, "a") == []
    assert await listed(storage, "b") == ["user-a"]


# -- requests ------------------------------------------------------------------------------------------


async def test_a_request_is_listed_on_both_sides_until_it_is_answered(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")

    first = await storage.request_friend(asking("a", "b", text="hello"))
    second = await storage.request_friend(asking("c", "b", MICROS + 1))

    assert first == asking("a", "b", text="hello")
    assert await storage.friend_requests("user-b") == ((second, first), ())
    assert await storage.friend_requests("user-a") == ((), (first,))

    rejected = await storage.answer_friend_request("user-a", "user-b", accept=False, now=MICROS + 5)

    assert rejected == attrs.evolve(first, status=RequestStatus.REJECTED, updated_at=MICROS + 5)
    assert await storage.friend_requests("user-b") == ((second,), ())
    assert await storage.friend_requests("user-a") == ((), (rejected,))
    assert await listed(storage, "a") == await listed(storage, "b") == []


async def test_accepting_makes_both_sides_friends_and_keeps_what_was_there(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    known = Friend(user_id="user-a", alias="my a")
    await storage.replace_friends("user-b", [known, Friend(user_id="x")])
    await storage.request_friend(asking("a", "b"))

    done = await storage.answer_friend_request("user-a", "user-b", accept=True, now=MICROS + 1)

    assert done.status is RequestStatus.ACCEPTED
    assert await listed(storage, "a") == ["user-b"]
    assert await storage.friends_of("user-b") == (known, Friend(user_id="x"))


async def test_accepting_answers_the_request_in_the_other_direction_with_it(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await storage.request_friend(asking("a", "b"))
    await storage.request_friend(asking("b", "a"))

    await storage.answer_friend_request("user-a", "user-b", accept=True, now=MICROS)

    incoming, [own] = await storage.friend_requests("user-b")
    assert (incoming, own.status) == ((), RequestStatus.ACCEPTED)
    assert (await storage.friend_requests("user-a"))[0] == ()


async def test_asking_again_after_an_answer_begins_the_same_request_anew(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await storage.request_friend(asking("a", "b", text="first"))
    await storage.answer_friend_request("user-a", "user-b", accept=False, now=MICROS)
    again = attrs.evolve(asking("a", "b", MICROS + 9, "second"), request_id="another id")

    stored = await storage.request_friend(again)

    assert stored == attrs.evolve(again, request_id="user-a-asks-user-b")
    assert await storage.friend_requests("user-b") == ((stored,), ())


async def test_what_cannot_be_asked_or_answered_is_refused_by_name(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    assert await answer_refused(storage, "a", "b") is FriendRefusal.NO_REQUEST
    await storage.request_friend(asking("a", "b"))
    assert await refusal_of(storage, asking("a", "b")) is FriendRefusal.REQUEST_PENDING
    await storage.answer_friend_request("user-a", "user-b", accept=False, now=MICROS)
    assert await answer_refused(storage, "a", "b") is FriendRefusal.NOT_PENDING
    assert await answer_refused(storage, "a", "b", accept=False) is FriendRefusal.NOT_PENDING
    assert await answer_refused(storage, "b", "a") is FriendRefusal.NO_REQUEST


async def test_a_full_list_on_either_side_refuses_the_acceptance_and_changes_neither(
    storage: Storage,
) -> None:
    await add_devices(storage, "a", "b", "c")
    full = names(*map(str, range(MAX_FRIENDS)))
    await storage.replace_friends("user-a", full)
    await storage.request_friend(asking("a", "b"))
    await storage.request_friend(asking("c", "a"))

    assert await answer_refused(storage, "a", "b") is FriendRefusal.ASKER_FULL
    assert await answer_refused(storage, "c", "a") is FriendRefusal.TOO_MANY_FRIENDS

    assert await listed(storage, "b") == await listed(storage, "c") == []
    assert len(await listed(storage, "a")) == MAX_FRIENDS
    await storage.replace_friends("user-a", full[1:])
    await storage.answer_friend_request("user-a", "user-b", accept=True, now=MICROS)
    assert await listed(storage, "b") == ["user-a"]


async def test_requests_that_wait_are_bounded_on_both_sides(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    for index in range(MAX_PENDING_REQUESTS):
        await storage.request_friend(asking("a", f"n{index}"))

    assert await refusal_of(storage, asking("a", "b")) is FriendRefusal.TOO_MANY_SENT
    await storage.request_friend(asking("b", "n0"))
    for index in range(1, MAX_PENDING_REQUESTS):
        await storage.request_friend(asking(f"m{index}", "b"))
    await storage.request_friend(asking("c", "b"))
    assert await refusal_of(storage, asking("d", "b")) is FriendRefusal.TOO_MANY_WAITING


async def test_acceptances_at_the_same_time_lose_none(storage: Storage) -> None:
    askers = [f"p{index}" for index in range(12)]
    await add_devices(storage, "a", *askers)
    for each in askers:
        await storage.request_friend(asking(each, "a"))

    async with trio.open_nursery() as nursery:
        for each in askers:
            nursery.start_soon(accept, storage, each)

    assert sorted(await listed(storage, "a")) == sorted(f"user-{each}" for each in askers)
    for each in askers:
        assert await listed(storage, each) == ["user-a"]


async def accept(storage: Storage, asker: str) -> None:
    await storage.answer_friend_request(f"user-{asker}", "user-a", accept=True, now=MICROS)


async def test_one_free_place_is_given_once_to_those_who_come_together(storage: Storage) -> None:
    askers = [f"p{index}" for index in range(6)]
    await add_devices(storage, "a", *askers)
    await storage.replace_friends("user-a", names(*map(str, range(MAX_FRIENDS - 1))))
    for each in askers:
        await storage.request_friend(asking(each, "a"))
    full: list[FriendRefusal] = []

    async def try_to(asker: str) -> None:
        try:
            await accept(storage, asker)
        except FriendRefusedError as exc:
            full.append(exc.refusal)

    async with trio.open_nursery() as nursery:
        for each in askers:
            nursery.start_soon(try_to, each)

    assert full == [FriendRefusal.TOO_MANY_FRIENDS] * 5
    assert len(await storage.friends_of("user-a")) == MAX_FRIENDS


# -- devices -------------------------------------------------------------------------------------------


async def test_devices_are_told_only_between_users_that_list_each_other(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c", "d")
    await add_siblings(storage, "b", "b2")
    await befriend(storage, "a", "b")
    await storage.replace_friends("user-a", [*await storage.friends_of("user-a"), *names("c")])
    await storage.replace_friends("user-d", names("a"))

    found = await storage.devices_of_friends("user-a", ["user-b", "user-c", "user-d", "user-x", "nul\0"])

    assert {owner: [each.device_id for each in devices] for owner, devices in found.items()} == {
        "user-b": ["b", "b2"]
    }
    assert found["user-b"][0].public_key == device("b").public_key
    assert await storage.devices_of_friends("user-c", ["user-a"]) == {}
    await storage.remove_friend("user-b", "user-a")
    assert await storage.devices_of_friends("user-a", ["user-b"]) == {}


async def test_revoked_devices_are_shown_as_such_and_not_addressed(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await add_siblings(storage, "b", "b2")
    await befriend(storage, "a", "b")
    await storage.revoke_device("b", NOW)

    found = await storage.devices_of_friends("user-a", ["user-b"])

    assert [each.status.value for each in found["user-b"]] == ["revoked", "active"]
    assert await storage.active_devices("user-b") == ("b2",)


async def test_presence_is_told_between_friends_and_not_to_one_who_is_only_listed(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    await add_siblings(storage, "b", "b2")
    await befriend(storage, "a", "b")
    await storage.replace_friends("user-c", names("a", "b"))

    assert set(await storage.peers_of("a", 10)) == {"b", "b2"}
    assert [set(each) for each in await storage.peers_of_each(["b2", "c"], 10)] == [{"a"}, set()]


# -- strangers -----------------------------------------------------------------------------------------


async def room_of(storage: Storage, sender: str, receiver: str) -> int:
    """How many of three messages the receiver takes."""
    outcomes = await send(storage, *[message(receiver, sender=sender, payload=bytes(10))] * 3)
    return sum(len(accepted(each)) for each in outcomes)


async def test_a_listed_user_is_no_stranger_from_the_change_on(backend: "Backend") -> None:
    async with backend.open(stranger_rows=1) as storage:
        await add_devices(storage, "a", "b", "c")
        await add_siblings(storage, "b", "b2")
        # Remembered by now as strangers.
        assert await room_of(storage, "b", "a") == 1

        await befriend(storage, "b", "a")

        assert await room_of(storage, "b", "a") == await room_of(storage, "b2", "a") == 3
        assert await room_of(storage, "a", "b2") == 3
        assert await room_of(storage, "c", "a") == 0

        await storage.remove_friend("user-a", "user-b")

        assert await room_of(storage, "b", "a") == 0
        # The other side has not changed its mind.
        assert await room_of(storage, "a", "b2") == 3
        await storage.replace_friends("user-a", names("c"))
        assert await room_of(storage, "c", "a") == 3


async def test_a_device_that_comes_later_has_the_friends_of_its_user(backend: "Backend") -> None:
    async with backend.open(stranger_rows=1) as storage:
        await add_devices(storage, "a", "b")
        await befriend(storage, "a", "b")
        await add_siblings(storage, "a", "a2")

        assert await room_of(storage, "b", "a2") == 3


async def test_an_unknown_sender_is_a_stranger_whatever_is_listed(backend: "Backend") -> None:
    async with backend.open(stranger_rows=1) as storage:
        await add_devices(storage, "a")
        await storage.replace_friends("user-a", [Friend(user_id="ghost")])

        assert await room_of(storage, "ghost", "a") == 1
        assert refused((await send(storage, message("a", sender="")))[0]) == {}


# -- avatars -------------------------------------------------------------------------------------------


async def test_the_avatar_before_is_told_when_nobody_has_it_any_more(storage: Storage) -> None:
    await storage.create_user(user("a"))
    await storage.create_user(user("b"))
    assert await storage.set_avatar("user-a", "u/1") is None
    assert await storage.set_avatar("user-b", "u/1") is None

    assert await storage.set_avatar("user-a", "u/2") is None
    assert await storage.set_avatar("user-b", "u/1") is None
    assert await storage.set_avatar("user-b", "u/2") == "u/1"

    assert not await storage.has_avatar("u/1")
    assert await storage.has_avatar("u/2")
    found = await storage.load_user("user-b")
    assert found is not None
    assert found.avatar_url == "u/2"
    with pytest.raises(StorageError):
        await storage.set_avatar("user-x", "u/3")


async def test_a_full_stranger_share_says_quota(backend: "Backend") -> None:
    async with backend.open(stranger_rows=1) as storage:
        await add_devices(storage, "a", "b")
        await send(storage, message("a", sender="b"))

        assert refused((await send(storage, message("a", sender="b")))[0]) == {"a": RefusalReason.QUOTA}
