"""Groups of devices: who is reached, who may change what, and what a refusal leaves. For every backend."""

from typing import TYPE_CHECKING

import pytest

from commucat_storage import (
    DropRoute,
    Group,
    GroupAction,
    GroupOutcome,
    GroupRole,
    Operation,
    Outcome,
    RefusalReason,
    Resolve,
    ResolveOutcome,
    Route,
    RouteOutcome,
    SetRoute,
    Storage,
    SubmissionOutcome,
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
    message,
    not_changed,
    notified,
    refusal,
    refused,
    route,
    send,
    stored,
)

if TYPE_CHECKING:
    from storage.conftest import Backend

OWNER, CO_OWNER, ADMIN, MEMBER = GroupRole
REMOVE, LEAVE, SET_ROLE, TRANSFER = GroupAction


async def roles(storage: Storage, group_id: str = "g") -> dict[str, GroupRole] | None:
    group = await storage.load_group(group_id)
    return None if group is None else group.members


async def one(storage: Storage, operation: Operation) -> Outcome:
    [outcome] = await send(storage, operation)
    return outcome


# -- creating ----------------------------------------------------------------------------------------


async def test_a_creation_makes_the_sender_owner_binds_its_channel_and_tells_the_members(
    storage: Storage,
) -> None:
    await add_devices(storage, "a", "b", "c", "d")

    outcome = await one(storage, create("a", "b", "a", c=OWNER, d=CO_OWNER))

    assert notified(outcome) == {"b": 1, "c": 1, "d": 1}
    assert await storage.load_group("g") == Group(
        group_id="g",
        created_at=NOW,
        relay=True,
        members={"a": OWNER, "b": MEMBER, "c": ADMIN, "d": CO_OWNER},
    )
    assert await storage.routes_of("a") == {7: Route(group_id="g", relay=True)}
    assert await storage.routes_of("b") == {}
    [row] = await stored(storage, "b")
    assert (row.frame_type, row.channel, row.payload) == (10, 7, b"created")


async def test_an_existing_group_cannot_be_created_again(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await send(storage, create("a"))

    outcomes = await send(storage, create("b", "a"), create("a", "b", channel=8))

    assert [not_changed(each) for each in outcomes] == [RefusalReason.GROUP_EXISTS] * 2
    assert await roles(storage) == {"a": OWNER}
    assert await storage.routes_of("b") == {}
    assert await stored(storage, "a") == ()


async def test_unknown_and_revoked_devices_are_left_out_and_refused_by_name(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    await storage.revoke_device("c", NOW)

    outcome = await one(storage, create("a", "b", "c", "ghost", "b\0"))

    assert notified(outcome) == {"b": 1}
    assert isinstance(outcome, GroupOutcome)
    assert outcome.notice.refused == (
        refusal("b\0", RefusalReason.UNKNOWN_DEVICE),
        refusal("c", RefusalReason.REVOKED),
        refusal("ghost", RefusalReason.UNKNOWN_DEVICE),
    )
    assert await roles(storage) == {"a": OWNER, "b": MEMBER}


@pytest.mark.parametrize(
    ("sender", "reason"), [("ghost", RefusalReason.UNKNOWN_DEVICE), ("gone", RefusalReason.REVOKED)]
)
async def test_a_sender_that_is_no_active_device_changes_nothing(
    storage: Storage, sender: str, reason: RefusalReason
) -> None:
    await add_devices(storage, "a", "b", "gone")
    await send(storage, create("a", gone=CO_OWNER))
    await storage.revoke_device("gone", NOW)

    outcomes = await send(
        storage,
        create(sender, "b", group_id="other"),
        invite(sender, "b"),
        change(sender, LEAVE),
        group_route(sender, 9),
    )

    assert [not_changed(each) for each in outcomes[:3]] == [reason] * 3
    assert outcomes[3] == RouteOutcome(reason)
    assert await roles(storage) == {"a": OWNER, "gone": CO_OWNER}
    assert await storage.load_group("other") is None


async def test_limits_of_members_groups_and_routes(backend: "Backend") -> None:
    async with backend.open(max_group_members=3, max_owned_groups=3, max_routes=2) as storage:
        await add_devices(storage, "a", "b", "c", "d")

        outcomes = await send(
            storage,
            create("a", "b", "c", "d"),
            create("a", "b", "c"),
            invite("a", "d"),
            create("a", group_id="second", channel=8),
            create("a", group_id="third", channel=9),  # a third channel
            create("a", group_id="third", channel=8),
            create("a", group_id="fourth", channel=8),  # a fourth group
        )

        assert [not_changed(each) for each in outcomes] == [
            RefusalReason.GROUP_FULL,
            None,
            RefusalReason.GROUP_FULL,
            None,
            RefusalReason.TOO_MANY_ROUTES,
            None,
            RefusalReason.TOO_MANY_ROUTES,
        ]
        assert set(await storage.routes_of("a")) == {7, 8}
        assert await storage.load_group("fourth") is None


# -- reaching ----------------------------------------------------------------------------------------


async def test_a_channel_bound_to_a_group_reaches_exactly_its_members(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c", "d")
    await send(storage, create("a", "b", "c"))

    first, outsider, named = await send(
        storage, by_route("a"), by_route("d"), message("b", "d", sender="a", channel=7)
    )

    assert set(accepted(first)) == {"b", "c"}
    assert refused(outsider) == {"": RefusalReason.NO_ROUTE}
    assert set(accepted(named)) == {"b"}
    assert refused(named) == {"d": RefusalReason.NOT_MEMBER}


async def test_membership_is_read_when_the_message_commits(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    await send(storage, create("a", "b", "c"), group_route("b", 7))

    outcomes = await send(
        storage,
        by_route("a"),
        change("a", REMOVE, "b"),
        by_route("a"),
        by_route("b"),
        Resolve("b", 7),
        invite("a", "b"),
        by_route("b"),
    )

    assert set(accepted(outcomes[0])) == {"b", "c"}
    assert set(notified(outcomes[1])) == {"b", "c"}
    assert set(accepted(outcomes[2])) == {"c"}
    assert outcomes[3] == SubmissionOutcome((), (refusal("", RefusalReason.NOT_MEMBER),))
    assert outcomes[4] == ResolveOutcome((), (refusal("", RefusalReason.NOT_MEMBER),))
    assert set(notified(outcomes[5])) == {"b", "c"}
    assert set(accepted(outcomes[6])) == {"a", "c"}


async def test_a_member_accepts_unless_its_own_route_excludes_the_sender(storage: Storage) -> None:
    await add_devices(storage, "a", "none", "same", "plain", "conflict", "elsewhere")
    await send(
        storage,
        create("a", "none", "same", "plain", "conflict", "elsewhere"),
        group_route("same", 7),
        route("plain", 7, "a"),
        route("conflict", 7, "none"),
        create("elsewhere", group_id="other", channel=7),
    )

    by_message, by_question = await send(storage, by_route("a"), Resolve("a", 7))

    reached = {"none", "same", "plain"}
    excluded = {"conflict": RefusalReason.CHANNEL_CONFLICT, "elsewhere": RefusalReason.CHANNEL_CONFLICT}
    assert set(accepted(by_message)) == reached
    assert refused(by_message) == excluded
    assert isinstance(by_question, ResolveOutcome)
    assert set(by_question.recipients) == reached
    assert {each.device_id: each.reason for each in by_question.refused} == excluded


async def test_nobody_slips_a_frame_into_the_channel_of_a_group(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "stranger")
    await send(storage, create("a", "b"), group_route("b", 7), route("stranger", 7, "b"))

    outcome = await one(storage, by_route("stranger"))

    assert refused(outcome) == {"b": RefusalReason.CHANNEL_CONFLICT}


async def test_only_members_join_a_group(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    await send(storage, create("a", "b"))

    outcomes = await send(storage, group_route("b", 8), group_route("c", 8), group_route("c", 8, "nowhere"))

    assert outcomes == (
        RouteOutcome(),
        RouteOutcome(RefusalReason.NOT_MEMBER),
        RouteOutcome(RefusalReason.GROUP_UNKNOWN),
    )
    assert await storage.routes_of("b") == {8: Route(group_id="g")}
    assert await storage.routes_of("c") == {}


async def test_leaving_the_channel_keeps_the_membership(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await send(storage, create("a", "b"), group_route("b", 7), DropRoute("b", 7))

    outcomes = await send(storage, by_route("b"), by_route("a"))

    assert refused(outcomes[0]) == {"": RefusalReason.NO_ROUTE}
    assert set(accepted(outcomes[1])) == {"b"}


async def test_a_revoked_member_gets_nothing_at_once(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    await send(storage, create("a", "b", "c"), by_route("a"))
    await storage.revoke_device("b", NOW)

    outcomes = await send(storage, by_route("a"), Resolve("a", 7), change("a", REMOVE, "b"), by_route("a"))

    assert set(accepted(outcomes[0])) == {"c"}
    assert refused(outcomes[0]) == {"b": RefusalReason.REVOKED}
    assert outcomes[1] == ResolveOutcome(("c",), (refusal("b", RefusalReason.REVOKED),))
    assert refused(outcomes[3]) == {}
    assert await roles(storage) == {"a": OWNER, "c": MEMBER}


async def test_the_only_member_hears_that_there_is_nobody(storage: Storage) -> None:
    await add_devices(storage, "a")

    created, sent, asked = await send(storage, create("a"), by_route("a"), Resolve("a", 7))

    assert created == GroupOutcome(None, SubmissionOutcome(()))
    assert refused(sent) == {"": RefusalReason.NO_ROUTE}
    assert asked == ResolveOutcome((), (refusal("", RefusalReason.NO_ROUTE),))


async def test_a_question_about_a_plain_route(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    await send(storage, route("a", 7, "a", "b", "c", "ghost"), route("c", 7, "b"))

    answers = await send(storage, Resolve("a", 7), Resolve("a", 8), Resolve("ghost", 7))

    conflicts = (
        refusal("c", RefusalReason.CHANNEL_CONFLICT),
        refusal("ghost", RefusalReason.UNKNOWN_DEVICE),
    )
    nothing = ResolveOutcome((), (refusal("", RefusalReason.NO_ROUTE),))
    assert answers == (ResolveOutcome(("b",), conflicts), nothing, nothing)


async def test_a_question_sees_a_full_inbox_as_open(backend: "Backend") -> None:
    async with backend.open(max_rows=1) as storage:
        await add_devices(storage, "a", "b")
        await send(storage, route("a", 7, "b"), by_route("a"))

        full, asked = await send(storage, by_route("a"), Resolve("a", 7))

        assert refused(full) == {"b": RefusalReason.QUOTA}
        assert asked == ResolveOutcome(("b",))


# -- changing ----------------------------------------------------------------------------------------

ALL = {"owner": OWNER, "co": CO_OWNER, "admin": ADMIN, "member": MEMBER}
RANK = {MEMBER: 0, ADMIN: 1, CO_OWNER: 2, OWNER: 3}


async def a_group_of_all(storage: Storage) -> None:
    await add_devices(storage, *ALL, "second", "new")
    await send(storage, create("owner", "member", co=CO_OWNER, admin=ADMIN, second=ADMIN))


@pytest.mark.parametrize("asked", list(GroupRole))
@pytest.mark.parametrize("sender", list(ALL))
async def test_an_invitation_grants_only_what_is_below_the_sender(
    storage: Storage, sender: str, asked: GroupRole
) -> None:
    await a_group_of_all(storage)

    outcome = await one(storage, invite(sender, "new", asked))

    granted = ADMIN if asked is OWNER else asked
    members = await roles(storage)
    assert members is not None
    if RANK[granted] < RANK[ALL[sender]]:
        assert set(notified(outcome)) == {*ALL, "second", "new"} - {sender}
        assert members["new"] is granted
    else:
        assert not_changed(outcome) is RefusalReason.NOT_ALLOWED
        assert "new" not in members
        assert await stored(storage, "new") == ()


async def test_an_invitation_never_changes_a_role(storage: Storage) -> None:
    await a_group_of_all(storage)

    outcomes = await send(storage, *[invite("co", each) for each in (*ALL, "ghost")], invite("new", "new"))

    assert [not_changed(each) for each in outcomes] == [
        *[RefusalReason.ALREADY_MEMBER] * 4,
        RefusalReason.UNKNOWN_DEVICE,
        RefusalReason.NOT_MEMBER,
    ]
    assert await roles(storage) == {**ALL, "second": ADMIN}


@pytest.mark.parametrize("target", [*ALL, "second"])
@pytest.mark.parametrize("sender", list(ALL))
async def test_only_those_strictly_below_are_removed_or_changed(
    storage: Storage, sender: str, target: str
) -> None:
    await a_group_of_all(storage)
    before = await roles(storage)
    assert before is not None

    outcomes = await send(
        storage,
        *[change(sender, SET_ROLE, target, role) for role in (OWNER, CO_OWNER, ADMIN, MEMBER)],
        change(sender, REMOVE, target),
    )

    own = RANK[ALL[sender]]
    below = RANK[before[target]] < own
    for role, outcome in zip((OWNER, CO_OWNER, ADMIN, MEMBER), outcomes, strict=False):
        allowed = below and RANK[role] < own
        assert not_changed(outcome) is (None if allowed else RefusalReason.NOT_ALLOWED)
    after = await roles(storage)
    if below:
        assert set(notified(outcomes[-1])) == set(before) - {sender}
        assert after == {name: role for name, role in before.items() if name != target}
    else:
        assert not_changed(outcomes[-1]) is RefusalReason.NOT_ALLOWED
        assert after == before


async def test_a_transfer_needs_the_owner_and_another_active_member(storage: Storage) -> None:
    await a_group_of_all(storage)
    await storage.revoke_device("second", NOW)

    outcomes = await send(
        storage,
        change("co", TRANSFER, "admin"),
        change("owner", TRANSFER, "owner"),
        change("owner", TRANSFER, "new"),
        change("owner", TRANSFER, "second"),
        change("owner", LEAVE),
        change("owner", TRANSFER, "member"),
        change("owner", LEAVE),
    )

    assert [not_changed(each) for each in outcomes] == [
        RefusalReason.NOT_ALLOWED,
        RefusalReason.NOT_ALLOWED,
        RefusalReason.NOT_MEMBER,
        RefusalReason.REVOKED,
        RefusalReason.NOT_ALLOWED,
        None,
        None,
    ]
    assert await roles(storage) == {"member": OWNER, "co": CO_OWNER, "admin": ADMIN, "second": ADMIN}


async def test_the_group_ends_with_its_last_member_and_so_do_routes_to_it(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await send(storage, create("a", "b"), group_route("b", 7), change("b", LEAVE), group_route("a", 8))

    assert not_changed(await one(storage, change("a", LEAVE))) is None

    assert await storage.load_group("g") is None
    assert await storage.routes_of("a") == await storage.routes_of("b") == {}
    # A group of the same id made by somebody else finds none of it.
    outcomes = await send(storage, by_route("b"), change("a", LEAVE), create("b", channel=9), by_route("a"))
    assert refused(outcomes[0]) == {"": RefusalReason.NO_ROUTE}
    assert not_changed(outcomes[1]) is RefusalReason.GROUP_UNKNOWN
    assert not_changed(outcomes[2]) is None
    assert refused(outcomes[3]) == {"": RefusalReason.NO_ROUTE}


async def test_a_channel_bound_to_one_group_carries_nothing_about_another(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    await send(storage, create("a", "b"), create("a", "b", group_id="other", channel=8))

    outcomes = await send(
        storage,
        invite("a", "c", channel=8),
        change("a", REMOVE, "b", channel=8),
        change("a", REMOVE, "b", channel=9),
    )

    assert [not_changed(each) for each in outcomes] == [
        RefusalReason.CHANNEL_CONFLICT,
        RefusalReason.CHANNEL_CONFLICT,
        None,
    ]
    assert await roles(storage) == {"a": OWNER}
    assert await roles(storage, "other") == {"a": OWNER, "b": MEMBER}


async def test_a_full_inbox_misses_the_notice_but_not_the_change(backend: "Backend") -> None:
    async with backend.open(max_rows=1) as storage:
        await add_devices(storage, "a", "b", "c")
        await send(storage, message("b"))

        outcome = await one(storage, create("a", "b", "c"))

        assert notified(outcome) == {"c": 1}
        assert isinstance(outcome, GroupOutcome)
        assert outcome.notice.refused == (refusal("b", RefusalReason.QUOTA),)
        assert await roles(storage) == {"a": OWNER, "b": MEMBER, "c": MEMBER}


async def test_a_full_disk_makes_no_groups_but_still_removes_members(backend: "Backend") -> None:
    async with backend.open() as storage:
        await add_devices(storage, "a", "b", "c")
        await send(storage, create("a", "b"))
    async with backend.open(min_free_bytes=2**62) as storage:
        outcomes = await send(
            storage, create("b", group_id="other"), invite("a", "c"), change("a", REMOVE, "b")
        )

        assert [not_changed(each) for each in outcomes] == [
            RefusalReason.DISK_LOW,
            RefusalReason.DISK_LOW,
            None,
        ]
        assert await roles(storage) == {"a": OWNER}
        assert await storage.load_group("other") is None


@pytest.mark.parametrize(
    "operation",
    [
        create("a", group_id=""),
        create(""),
        create("a", channel=2**32),
        invite("a", "b", channel=-1),
        change("a", LEAVE, "b"),
        change("a", SET_ROLE, "b"),
        change("a", REMOVE, "b", MEMBER),
        SetRoute("a", 7, Route(members=frozenset("b"), group_id="g")),
        Resolve("a", -1),
    ],
)
async def test_operations_that_make_no_sense_are_the_callers_mistake(
    storage: Storage, operation: Operation
) -> None:
    with pytest.raises(ValueError, match=r"out of range|group|role|leave"):
        await storage.commit([operation])


async def test_groups_are_there_after_the_store_was_opened_anew(backend: "Backend") -> None:
    async with backend.open() as storage:
        await a_group_of_all(storage)
        await send(storage, group_route("member", 3), change("owner", REMOVE, "co"))
    async with backend.open() as storage:
        assert await roles(storage) == {
            "owner": OWNER,
            "admin": ADMIN,
            "second": ADMIN,
            "member": MEMBER,
        }
        outcomes = await send(storage, by_route("member", 3), by_route("owner", 7))
        assert set(accepted(outcomes[0])) == {"owner", "admin", "second"}
        assert set(accepted(outcomes[1])) == {"member", "admin", "second"}


# -- peers -------------------------------------------------------------------------------------------


async def test_peers_share_a_group_or_name_each_other_on_one_channel(storage: Storage) -> None:
    await add_devices(storage, "a", "member", "mutual", "oneway", "other", "gone", "former")
    await send(
        storage,
        create("member", "a", "gone", "former"),
        change("member", REMOVE, "former"),
        route("a", 1, "mutual", "oneway", "other", "gone"),
        route("mutual", 1, "x", "a"),
        route("other", 2, "a"),
        route("former", 1, "a\0"),
    )
    # Put into a group by a stranger, it has not agreed to be seen.
    assert set(await storage.peers_of("a", 10)) == {"mutual"}
    await send(storage, group_route("a", 5))
    await storage.revoke_device("gone", NOW)

    assert set(await storage.peers_of("a", 10)) == {"member", "mutual"}
    assert set(await storage.peers_of("mutual", 10)) == {"a"}
    assert await storage.peers_of("oneway", 10) == ()
    each = await storage.peers_of_each(("oneway", "a", "ghost", "mutual"), 10)
    assert [set(peers) for peers in each] == [set(), {"member", "mutual"}, set(), {"a"}]
    assert await storage.peers_of_each((), 10) == ()
    assert len(await storage.peers_of("a", 1)) == 1
    assert await storage.peers_of("ghost", 1) == ()
    with pytest.raises(ValueError, match="limit"):
        await storage.peers_of("a", 0)
    with pytest.raises(ValueError, match="limit"):
        await storage.peers_of_each(("a",), 0)
