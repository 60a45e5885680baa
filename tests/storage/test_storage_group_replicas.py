"""Groups with members on several servers: at their home, and as replicas. For every backend."""

import json
from typing import Any

import attrs
import pytest

from commucat_storage import (
    GROUP_REQUEST,
    GROUP_STATE,
    Confirm,
    GroupAction,
    GroupOutcome,
    GroupRole,
    Once,
    OutboxRow,
    Outcome,
    RefusalReason,
    ReplaceReplica,
    Resolve,
    ResolveOutcome,
    RouteOutcome,
    Storage,
    Submission,
    SubmissionOutcome,
    outbox_of,
)
from storage.storage_builders import (
    LATER,
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

B, C = "b.example", "c.example"
X, Y, Z = f"x@{B}", f"y@{B}", f"z@{C}"
MEMBER, ADMIN, OWNER = GroupRole.MEMBER, GroupRole.ADMIN, GroupRole.OWNER


async def ready(storage: Storage, *names: str, domains: tuple[str, ...] = (B, C)) -> None:
    await add_devices(storage, *names)
    for domain in domains:
        await storage.set_outbox(domain, open=True)


async def rows(storage: Storage, domain: str, above: int = 0) -> tuple[OutboxRow, ...]:
    page = await storage.outbox_page(domain, above, limit_rows=1000, limit_bytes=2**30, now=NOW)
    assert page is not None
    return page.rows


async def waiting(storage: Storage, domain: str) -> list[tuple[str, Any]]:
    """Of each row the target, and a state's revision and members, or a payload; they are confirmed then."""
    found = []
    page = await storage.outbox_page(domain, 0, limit_rows=1000, limit_bytes=2**30, now=NOW)
    assert page is not None
    for row in page.rows:
        if row.frame_type == GROUP_STATE:
            state = json.loads(row.payload)
            assert state["group_id"] == "g"
            assert state["relay"] is True
            found.append((row.target, (state["revision"], state["members"])))
        else:
            assert row.group_id == "g"
            found.append((row.target, row.payload))
    if page.rows:
        await send(storage, Confirm(outbox_of(domain), page.epoch, page.head))
    return found


async def members(storage: Storage) -> dict[str, GroupRole]:
    group = await storage.load_group("g")
    return {} if group is None else group.members


def state(
    revision: int, *, home: str = B, key: str | None = None, group_id: str = "g", **roles: GroupRole
) -> ReplaceReplica:
    """``roles``: ``x_b`` stands for ``x@b.example``."""
    named = tuple(
        (f"{name[:-2]}@{name[-1]}.example" if name[-2:-1] == "_" else name, role)
        for name, role in roles.items()
    )
    once = Once("federation-inbox", key or f"{home}-{group_id}-{revision}", LATER)
    return ReplaceReplica(home, group_id, revision, True, named, NOW, once)


def from_afar(sender: str, *recipients: str, channel: int = 7, home: str | None = None) -> Submission:
    named = message(*recipients, sender=sender, channel=channel)
    return attrs.evolve(named, group_id="g", group_home=home)


def of_member(operation: Any, key: str) -> Any:
    return attrs.evolve(operation, once=Once("federation-inbox", key, LATER))


def changed(outcome: Outcome) -> GroupOutcome:
    assert isinstance(outcome, GroupOutcome)
    assert outcome.refused is None
    return outcome


# -- at home -------------------------------------------------------------------------------------------


async def test_a_new_group_is_told_to_the_servers_of_its_members_first(storage: Storage) -> None:
    await ready(storage, "a", "c")

    [outcome] = await send(storage, create("a", "c", X, Z, "q@d.example", **{Y: ADMIN}))

    assert notified(outcome) == {"c": 1, X: 2, Y: 3, Z: 2}
    assert changed(outcome).told == (f"@{B}", f"@{C}")
    assert changed(outcome).notice.refused == (refusal("q@d.example", RefusalReason.UNKNOWN_DOMAIN),)
    everybody = {"a": "owner", "c": "member", X: "member", Y: "admin", Z: "member"}
    assert await waiting(storage, B) == [(f"@{B}", (1, everybody)), (X, b"created"), (Y, b"created")]
    assert await waiting(storage, C) == [(f"@{C}", (1, everybody)), (Z, b"created")]
    group = await storage.load_group("g")
    assert group is not None
    assert (group.home, group.revision) == (None, 1)
    assert group.members == {"a": OWNER, "c": MEMBER, X: MEMBER, Y: ADMIN, Z: MEMBER}


@pytest.mark.parametrize("name", [f"@{B}", "x@d.example", f"x@{B.upper()}", f"x@y@{B}", "x@", f"x\n@{B}"])
async def test_what_is_no_device_that_can_be_written_to_does_not_come_in(storage: Storage, name: str) -> None:
    await ready(storage, "a", "c")

    made, invited = await send(storage, create("a", "c", name), invite("a", name))

    assert notified(made) == {"c": 1}
    assert [each.device_id for each in changed(made).notice.refused] == [name]
    assert not_changed(invited) is RefusalReason.UNKNOWN_DOMAIN
    assert await members(storage) == {"a": OWNER, "c": MEMBER}
    assert await rows(storage, B) == ()


async def test_changes_are_told_with_a_rising_revision(storage: Storage) -> None:
    await ready(storage, "a", "c")
    await send(storage, create("a", "c"))
    assert await rows(storage, B) == ()

    [invited] = await send(storage, invite("a", X, ADMIN))
    assert notified(invited) == {"c": 2, X: 2}
    assert await waiting(storage, B) == [
        (f"@{B}", (2, {"a": "owner", "c": "member", X: "admin"})),
        (X, b"invited"),
    ]

    await send(storage, invite("a", Z), change("a", GroupAction.SET_ROLE, X, MEMBER))
    with_z = {"a": "owner", "c": "member", Z: "member"}
    assert await waiting(storage, B) == [
        (f"@{B}", (3, with_z | {X: "admin"})),
        (X, b"invited"),
        (f"@{B}", (4, with_z | {X: "member"})),
        (X, b"changed"),
    ]
    await waiting(storage, C)

    await send(storage, change("a", GroupAction.REMOVE, X))
    # The server without members any more is told that, and the removed one, too.
    assert await waiting(storage, B) == [(f"@{B}", (5, {})), (X, b"changed")]
    assert await waiting(storage, C) == [(f"@{C}", (5, with_z)), (Z, b"changed")]
    await send(storage, change("a", GroupAction.TRANSFER, Z))
    assert await waiting(storage, C) == [
        (f"@{C}", (6, {"a": "co-owner", "c": "member", Z: "owner"})),
        (Z, b"changed"),
    ]
    assert await rows(storage, B) == ()


async def test_a_full_or_closed_outbox_does_not_keep_a_member_in(backend: Any) -> None:
    async with backend.open(max_rows=3) as storage:
        await ready(storage, "a", "c")
        await send(storage, create("a", "c", X), message(X, sender="a"))

        [removed] = await send(storage, change("a", GroupAction.REMOVE, X))

        assert changed(removed).notice.refused == (refusal(X, RefusalReason.QUOTA),)
        assert [row.target for row in await rows(storage, B)] == [f"@{B}", X, X, f"@{B}"]
        await send(storage, create("a", Z, group_id="h"))
        await storage.set_outbox(C, open=False)
        [removed] = await send(storage, change("a", GroupAction.REMOVE, Z, group_id="h", channel=8))
        assert changed(removed).told == ()
        assert [row.target for row in await rows(storage, C)] == [f"@{C}", Z]


async def test_messages_of_home_members_go_to_all_members(storage: Storage) -> None:
    await ready(storage, "a", "c")
    await send(storage, create("a", "c", X, Z))
    await waiting(storage, B)
    await waiting(storage, C)

    written, resolved, alone = await send(
        storage, by_route("a"), Resolve("a", 7), message(Y, "c", sender="a", channel=7)
    )

    assert accepted(written) == {"c": 2, X: 3, Z: 3}
    assert resolved == ResolveOutcome(("c",))
    assert accepted(alone) == {"c": 3}
    assert refused(alone) == {Y: RefusalReason.NOT_MEMBER}
    [row] = await rows(storage, B)
    assert (row.sender, row.target, row.group_id, row.group_revision) == ("a", X, "g", 1)
    await storage.set_outbox(B, open=False)
    [written] = await send(storage, by_route("a"))
    assert accepted(written) == {"c": 4, Z: 4}
    assert refused(written) == {X: RefusalReason.UNKNOWN_DOMAIN}


async def test_a_dead_letter_keeps_its_group(storage: Storage) -> None:
    await ready(storage, "a")
    await send(storage, create("a", X), message(X, sender="a", channel=9))
    page = await storage.outbox_page(B, 0, limit_rows=9, limit_bytes=2**20, now=NOW)
    assert page is not None

    letters = await storage.bury(B, page.epoch, [(2, "no"), (3, "no")], NOW)

    assert [(each.target, each.group_id) for each in letters] == [(X, "g"), (X, None)]
    assert {each.group_id for each in await storage.dead_letters(B, 9)} == {"g", None}


async def test_members_elsewhere_write_to_members_here_and_nobody_else_does(storage: Storage) -> None:
    await ready(storage, "a", "c", "d")
    await send(storage, create("a", "c", X), group_route("c", 7))

    outcomes = await send(
        storage,
        from_afar(X, "c"),
        from_afar(Y, "c"),
        from_afar(X, "d"),
        message("c", sender=X),
        route("a", 7, "c"),
        from_afar(X, "a"),
        from_afar(X, Z),
    )

    assert accepted(outcomes[0]) == {"c": 2}
    assert refused(outcomes[1]) == {"": RefusalReason.NOT_MEMBER}
    assert refused(outcomes[2]) == {"d": RefusalReason.NOT_MEMBER}
    # On the channel of the group, but not to the group.
    assert refused(outcomes[3]) == {"c": RefusalReason.CHANNEL_CONFLICT}
    assert refused(outcomes[5]) == {"a": RefusalReason.CHANNEL_CONFLICT}
    assert refused(outcomes[6]) == {Z: RefusalReason.NOT_MEMBER}
    await send(storage, change("a", GroupAction.REMOVE, X))
    [late] = await send(storage, from_afar(X, "c"))
    assert refused(late) == {"": RefusalReason.NOT_MEMBER}
    assert [row.payload for row in await stored(storage, "c")] == [b"created", b"meow", b"changed"]


async def test_a_member_elsewhere_is_no_stranger_to_who_has_joined(backend: Any) -> None:
    async with backend.open(stranger_rows=1) as storage:
        await ready(storage, "a", "c", "d")
        await send(storage, create("a", "c", "d", X))
        await send(storage, group_route("c", 7))

        outcomes = await send(storage, *(from_afar(X, each) for each in ("c", "c", "d", "d")))

        assert [bool(accepted(each)) for each in outcomes] == [True, True, False, False]
        assert refused(outcomes[3]) == {"d": RefusalReason.QUOTA}


async def test_a_server_itself_is_a_stranger_to_who_knows_nobody_there(backend: Any) -> None:
    """And no route shuts out what it tells, which is none of a conversation."""
    async with backend.open(stranger_rows=1) as storage:
        await ready(storage, "a", "c", "d", "e")
        await send(storage, create("a", "c", X), group_route("c", 7))
        await send(storage, route("d", 7, X), route("e", 7, Z))

        told = [message(each, sender=outbox_of(B)) for each in ("c", "d", "e")]
        outcomes = await send(storage, *told, *told)

        assert [bool(accepted(each)) for each in outcomes] == [True, True, True, True, True, False]
        assert refused(outcomes[5]) == {"e": RefusalReason.QUOTA}


async def test_members_elsewhere_change_the_group_by_the_same_rules(storage: Storage) -> None:
    await ready(storage, "a", "c", "d")
    await send(storage, create("a", "c", Y, Z, **{X: ADMIN}))
    await waiting(storage, B)
    await waiting(storage, C)

    outcomes = await send(
        storage,
        of_member(invite(X, "d"), "1"),
        of_member(invite(X, "d"), "1"),
        of_member(invite(X, "d"), "2"),
        of_member(invite(Y, "d"), "3"),
        of_member(change(X, GroupAction.REMOVE, "a"), "4"),
        of_member(change(X, GroupAction.REMOVE, Y), "5"),
        of_member(change(f"q@{B}", GroupAction.REMOVE, Z), "6"),
        of_member(change(Z, GroupAction.LEAVE), "7"),
    )

    assert notified(outcomes[0]) == {"a": 1, "c": 2, "d": 1, Y: 5, Z: 4}
    assert outcomes[1] == GroupOutcome(None, duplicate=True)
    assert [not_changed(each) for each in outcomes[2:]] == [
        RefusalReason.ALREADY_MEMBER,
        RefusalReason.NOT_ALLOWED,
        RefusalReason.NOT_ALLOWED,
        None,
        RefusalReason.NOT_MEMBER,
        None,
    ]
    assert await members(storage) == {"a": OWNER, "c": MEMBER, "d": MEMBER, X: ADMIN}
    told = await rows(storage, B)
    assert [(row.sender, row.target) for row in told] == [
        ("", f"@{B}"),
        (X, Y),
        ("", f"@{B}"),
        (X, Y),
        ("", f"@{B}"),
        (Z, X),
    ]
    assert [(row.sender, row.target) for row in (await rows(storage, C))[-1:]] == [("", f"@{C}")]
    # What was refused is asked again.
    [again] = await send(storage, of_member(change(X, GroupAction.REMOVE, "c"), "4"))
    assert not_changed(again) is None


async def test_memberships_go_with_the_device(backend: Any) -> None:
    async with backend.open() as storage:
        await ready(storage, "a", "c")
        await send(storage, create("a", "c", X))
    column = "opaque_id" if hasattr(backend, "dsn") else "device_id"
    backend.change(f"DELETE FROM user_device WHERE {column} = 'c'")
    async with backend.open() as storage:
        assert await members(storage) == {"a": OWNER, X: MEMBER}


# -- replicas ------------------------------------------------------------------------------------------


async def test_a_replica_is_made_changed_and_ended_by_its_home(storage: Storage) -> None:
    await ready(storage, "a", "c")

    [made] = await send(storage, state(3, x_b=OWNER, a=MEMBER, z_c=ADMIN, nobody=MEMBER))
    assert made == GroupOutcome(None)
    group = await storage.load_group("g")
    assert group is not None
    assert (group.home, group.revision) == (B, 3)
    assert group.members == {X: OWNER, "a": MEMBER, Z: ADMIN}
    assert (await send(storage, group_route("a", 7), group_route("c", 7))) == (
        RouteOutcome(),
        RouteOutcome(RefusalReason.NOT_MEMBER),
    )

    await send(storage, state(4, x_b=ADMIN, a=OWNER, c=MEMBER))
    assert await members(storage) == {X: ADMIN, "a": OWNER, "c": MEMBER}
    await send(storage, state(5, x_b=OWNER, c=MEMBER))
    assert await members(storage) == {X: OWNER, "c": MEMBER}
    [unheard] = await send(storage, by_route("a"))
    assert refused(unheard) == {"": RefusalReason.NOT_MEMBER}

    await send(storage, group_route("c", 8))
    await send(storage, state(6, x_b=OWNER))
    assert await members(storage) == {}
    assert await storage.routes_of("c") == {}
    assert await storage.routes_of("a") == {}
    [made] = await send(storage, create("a", "c"))
    assert notified(made) == {"c": 1}


async def test_only_the_home_and_only_newer_states_change_a_replica(storage: Storage) -> None:
    await ready(storage, "a", "c")
    await send(storage, create("a", "c", group_id="ours"), state(3, x_b=OWNER, a=MEMBER))

    outcomes = await send(
        storage,
        state(2, x_b=OWNER, c=MEMBER),
        state(9, home=C, z_c=OWNER, c=MEMBER),
        state(9, group_id="ours", x_b=OWNER, c=MEMBER),
        state(3, key="other", x_b=OWNER, c=MEMBER),
        state(3, x_b=OWNER, c=MEMBER),
        state(9),
        state(9, x_b=OWNER, a=MEMBER),
        state(4, x_b=OWNER, a=MEMBER),
    )

    assert outcomes[:3] == (GroupOutcome(RefusalReason.GROUP_EXISTS),) * 3
    assert outcomes[3] == GroupOutcome(None)
    assert outcomes[4] == GroupOutcome(None, duplicate=True)
    assert outcomes[5] == GroupOutcome(None)
    assert outcomes[6] == GroupOutcome(None, duplicate=True)
    assert await members(storage) == {X: OWNER, "a": MEMBER}


async def test_what_comes_before_its_state_holds_the_group_up_and_nothing_else(storage: Storage) -> None:
    """Also what stands behind it in the batch, and would be taken by itself; the next batch begins anew."""
    await ready(storage, "a")
    await send(storage, state(1, x_b=OWNER, a=MEMBER))

    def early(sender: str, key: str, revision: int | None) -> Any:
        return attrs.evolve(of_member(from_afar(sender, "a"), key), group_revision=revision)

    of_others = attrs.evolve(of_member(from_afar(Z, "a"), "4"), group_id=None)
    batch = [early(X, "1", 2), early(Z, "2", 2), early(X, "3", None), of_others]
    outcomes = await send(storage, *batch)
    assert outcomes[1:3] == (SubmissionOutcome((), early=True),) * 2
    assert accepted(outcomes[0]) == {"a": 1}
    assert accepted(outcomes[3]) == {"a": 2}

    [known] = await send(storage, early(Z, "5", 1))
    assert refused(known) == {"": RefusalReason.NOT_MEMBER}
    [unknown] = await send(storage, attrs.evolve(early(Z, "6", 1), group_id="other"))
    assert unknown == SubmissionOutcome((), early=True)
    await send(storage, state(2, x_b=OWNER, z_c=MEMBER, a=MEMBER))
    outcomes = await send(storage, *batch)
    assert outcomes[0] == outcomes[3] == SubmissionOutcome((), duplicate=True)
    assert [accepted(outcome) for outcome in outcomes[1:3]] == [{"a": 3}, {"a": 4}]


async def test_a_replica_has_bounds_and_names(backend: Any) -> None:
    async with backend.open(max_group_members=2) as storage:
        await ready(storage, "a")
        [outcome] = await send(storage, state(1, x_b=OWNER, y_b=MEMBER, a=MEMBER))
        assert not_changed(outcome) is RefusalReason.GROUP_FULL
        for wrong in (
            attrs.evolve(state(1), members=(("a", OWNER), (X, OWNER))),
            attrs.evolve(state(1), members=(("a", MEMBER), ("a", ADMIN))),
            attrs.evolve(state(1), members=((f"x@{B.upper()}", MEMBER),)),
            attrs.evolve(state(1), members=(("a\0", MEMBER),)),
            attrs.evolve(state(1), revision=-1),
            attrs.evolve(state(1), group_id="\x1froom:7"),
            attrs.evolve(state(1), home=""),
            attrs.evolve(from_afar(X, "a"), group_id=None, group_home=B),
        ):
            with pytest.raises(ValueError, match=r"."):
                await send(storage, wrong)


async def test_members_of_a_replica_write_to_everybody(storage: Storage) -> None:
    await ready(storage, "a", "c")
    await send(storage, state(3, x_b=OWNER, a=MEMBER, c=MEMBER, z_c=MEMBER))
    await send(storage, group_route("a", 7), group_route("c", 7))

    [written] = await send(storage, by_route("a"))

    assert accepted(written) == {"c": 1, X: 1, Z: 1}
    [row] = await rows(storage, C)
    assert (row.sender, row.target, row.group_id, row.group_revision) == ("a", Z, "g", 3)
    outcomes = await send(storage, from_afar(X, "a"), from_afar(Z, "c"), from_afar(Y, "c"))
    assert [accepted(each) for each in outcomes] == [{"a": 1}, {"c": 2}, {}]


async def test_the_home_tells_of_its_group_to_those_who_are_out_of_it(storage: Storage) -> None:
    await ready(storage, "a", "c")
    await send(storage, state(3, x_b=OWNER, a=MEMBER, c=MEMBER), group_route("a", 7), group_route("c", 7))
    await send(storage, state(4, x_b=OWNER, a=MEMBER), create("c", group_id="other", channel=8))

    outcomes = await send(
        storage,
        from_afar(X, "c", home=B),
        from_afar(f"@{B}", "a", home=B),
        from_afar(Z, "a", home=C),
        from_afar(X, "c", home=B, channel=8),
        from_afar("", "a", home=B),
        from_afar("", "a", home=C),
    )

    assert [accepted(each) for each in outcomes] == [{"c": 1}, {"a": 1}, {}, {}, {"a": 2}, {}]
    assert refused(outcomes[2]) == refused(outcomes[5]) == {"": RefusalReason.NOT_ALLOWED}
    assert refused(outcomes[3]) == {"c": RefusalReason.CHANNEL_CONFLICT}


async def test_changes_of_a_replica_are_forwarded(storage: Storage) -> None:
    await ready(storage, "a", "c")
    await send(storage, state(3, x_b=OWNER, a=ADMIN, z_c=MEMBER), create("a", group_id="other", channel=9))

    outcomes = await send(
        storage,
        invite("a", "c"),
        change("a", GroupAction.SET_ROLE, Z, ADMIN),
        change("c", GroupAction.REMOVE, "a"),
        change(Z, GroupAction.LEAVE),
        invite("a", "c", channel=9),
    )

    forwarded = GroupOutcome(None, told=(f"@{B}",), forwarded=True)
    assert outcomes[:2] == (forwarded, forwarded)
    assert [not_changed(each) for each in outcomes[2:]] == [
        RefusalReason.NOT_MEMBER,
        RefusalReason.GROUP_UNKNOWN,
        RefusalReason.CHANNEL_CONFLICT,
    ]
    assert await members(storage) == {X: OWNER, "a": ADMIN, Z: MEMBER}
    found = await rows(storage, B)
    assert [(row.frame_type, row.target, row.sender) for row in found] == [(GROUP_REQUEST, f"@{B}", "")] * 2
    assert json.loads(found[0].payload) == {
        "action": "invite",
        "group_id": "g",
        "channel": 7,
        "sender": "a",
        "device": "c",
        "role": "member",
        "frame_type": 11,
        "notice": b"invited".hex(),
        "expires_at": LATER,
    }
    assert json.loads(found[1].payload)["action"] == "role"
    assert await stored(storage, "c") == ()
    await storage.set_outbox(B, open=False)
    [outcome] = await send(storage, change("a", GroupAction.LEAVE))
    assert not_changed(outcome) is RefusalReason.UNKNOWN_DOMAIN


async def test_a_group_is_what_it_was_when_the_store_is_opened_again(backend: Any) -> None:
    async with backend.open() as storage:
        await ready(storage, "a", "c")
        await send(storage, state(3, x_b=OWNER, a=MEMBER), create("a", X, group_id="ours", channel=8))
    async with backend.open() as storage:
        [late] = await send(storage, state(2, x_b=OWNER, c=MEMBER))
        assert not_changed(late) is RefusalReason.GROUP_EXISTS
        [invited] = await send(storage, invite("a", "c", group_id="ours", channel=8))
        assert notified(invited) == {"c": 1, X: 4}
        told = json.loads((await rows(storage, B))[2].payload)
        assert told["revision"] == 2
