"""Groups with members on three servers: who is in them is one server's word, and everybody hears it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from commucat_proto import Frame, FrameType, json_text
from commucat_server.federation.client import PeerAnswer
from commucat_storage import (
    ChangeGroup,
    CommitFailedError,
    CreateGroup,
    GroupAction,
    GroupOutcome,
    GroupRole,
    InviteMember,
    Operation,
    Outcome,
    RefusalReason,
    Route,
    SetRoute,
    Submission,
    SubmissionOutcome,
)
from server.federation_builders import CHANNEL, LIFETIME, Site, open_sites, payload, wires_of
from storage.storage_builders import new_user

OWNER, ADMIN, MEMBER = GroupRole.OWNER, GroupRole.ADMIN, GroupRole.MEMBER


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[list[Site]]:
    """alice at a.test, bob and bea at b.test, carol at c.test."""
    async with open_sites(tmp_path, "a.test", "b.test", "c.test") as sites:
        await add(sites[1], "bea")
        yield sites


async def add(site: Site, name: str) -> None:
    admission = new_user(name)
    assert admission.user is not None
    user = attrs.evolve(admission.user, domain=site.domain)
    await site.storage.admit(attrs.evolve(admission, user=user))


async def do(site: Site, *operations: Operation) -> list[Outcome]:
    """As sessions would; returns when it is committed."""
    outcomes: list[Outcome] = []
    told = trio.Event()

    def answer(result: tuple[Outcome, ...] | CommitFailedError) -> None:
        assert isinstance(result, tuple), result
        outcomes.extend(result)
        told.set()

    await site.inbox.submit(operations, answer)
    await told.wait()
    return outcomes


def notice(sender: str, **members: Any) -> bytes:
    return json_text.dumps({"group_id": "g", "by": sender} | members)


def creation(site: Site, sender: str, *members: str, **roles: GroupRole) -> CreateGroup:
    named = tuple((member, roles.get(member, MEMBER)) for member in members)
    expires_at = int(site.clock()) + LIFETIME
    kind = FrameType.GROUP_CREATE
    return CreateGroup(
        sender, CHANNEL, "g", named, True, kind, notice(sender, owner=sender), expires_at, int(site.clock())
    )


def invitation(site: Site, sender: str, device: str, role: GroupRole = MEMBER) -> InviteMember:
    expires_at = int(site.clock()) + LIFETIME
    told = notice(sender, device=device, role=role.value)
    return InviteMember(sender, CHANNEL, "g", device, role, FrameType.GROUP_INVITE, told, expires_at)


def changing(
    site: Site, sender: str, action: GroupAction, device: str | None = None, role: GroupRole | None = None
) -> ChangeGroup:
    device = device or sender
    members: dict[str, Any] = {"event": action.value, "device": device}
    if role is not None:
        members["role"] = role.value
    expires_at = int(site.clock()) + LIFETIME
    told = notice(sender, **members)
    return ChangeGroup(sender, CHANNEL, "g", action, device, role, FrameType.GROUP_EVENT, told, expires_at)


def joining(device_id: str) -> SetRoute:
    return SetRoute(device_id, CHANNEL, Route(group_id="g", relay=True))


def writing(site: Site, sender: str, text: str, kind: FrameType = FrameType.MSG) -> Submission:
    return Submission(sender, CHANNEL, kind, text.encode(), int(site.clock()) + LIFETIME)


async def members(site: Site) -> dict[str, str]:
    group = await site.storage.load_group("g")
    return {} if group is None else {name: role.value for name, role in group.members.items()}


async def until_members(site: Site, wanted: dict[str, str]) -> None:
    with trio.fail_after(30):
        while (await members(site)) != wanted:
            commits = site.commits
            if (await members(site)) != wanted:
                await site._next_commit(commits)


async def quiet(*sites: Site) -> None:
    """Until nothing is on its way, nor comes back."""
    for _ in range(2):
        for site in sites:
            for other in sites:
                if other is not site:
                    await site.wait_sent(other.domain)


async def kinds(site: Site, device_id: str) -> list[FrameType]:
    return [FrameType(row.frame_type) for row in await site.rows(device_id)]


async def events(site: Site, device_id: str) -> list[dict[str, Any]]:
    return [
        json.loads(row.payload)
        for row in await site.rows(device_id)
        if row.frame_type in (FrameType.GROUP_EVENT, FrameType.GROUP_INVITE)
    ]


async def founded(sites: list[Site], **roles: GroupRole) -> None:
    """A group of alice, bob, bea and carol, all of whom have joined it."""
    a, b, c = sites
    await do(a, creation(a, "alice", "bob@b.test", "bea@b.test", "carol@c.test", **roles))
    await quiet(*sites)
    await do(b, joining("bob"), joining("bea"))
    await do(c, joining("carol"))


def refused(answer: PeerAnswer) -> tuple[int, Any, Any]:
    return answer.status, answer.document.get("title"), answer.document.get("detail")


@pytest.mark.parametrize("batches", [True, False])
async def test_messages_of_every_member_reach_exactly_the_others(sites: list[Site], batches: bool) -> None:
    a, b, c = sites
    wires_of(a).batches = batches
    await add(b, "ben")
    await founded(sites)

    await do(a, writing(a, "alice", "from alice"))
    await do(b, writing(b, "bob", "from bob"))
    await do(c, writing(c, "carol", "from carol"))
    await quiet(*sites)

    assert sorted(await a.texts("alice")) == ["from bob", "from carol"]
    assert sorted(await b.texts("bob")) == ["from alice", "from carol"]
    assert sorted(await b.texts("bea")) == ["from alice", "from bob", "from carol"]
    assert sorted(await c.texts("carol")) == ["from alice", "from bob"]
    assert await b.rows("ben") == []
    assert (await kinds(b, "bob"))[0] is FrameType.GROUP_CREATE
    everybody = {"alice@a.test": "owner", "bob": "member", "bea": "member", "carol@c.test": "member"}
    assert await members(b) == everybody
    assert await members(c) == {
        "alice@a.test": "owner",
        "bob@b.test": "member",
        "bea@b.test": "member",
        "carol": "member",
    }
    for site in sites:
        assert await site.storage.dead_letter_counts() == {}


async def test_a_removal_holds_at_home_at_once_and_elsewhere_when_it_is_told(sites: list[Site]) -> None:
    a, b, c = sites
    await founded(sites)
    wires_of(a).cut.add("b.test")

    await do(a, changing(a, "alice", GroupAction.REMOVE, "bob@b.test"))
    await until_members(c, {"alice@a.test": "owner", "bea@b.test": "member", "carol": "member"})
    await do(b, writing(b, "bob", "not for the home"))
    await b.wait_sent("a.test")
    await do(a, writing(a, "alice", "without bob"))
    wires_of(a).cut.clear()
    a.federation.courier.hurry_all()
    await quiet(*sites)

    assert "not for the home" not in await a.texts("alice")
    assert "not for the home" not in await c.texts("carol")
    assert "not for the home" in await b.texts("bea")
    assert await b.texts("bob") == []
    assert (await events(b, "bob"))[-1]["event"] == "remove"
    assert await members(b) == {"alice@a.test": "owner", "bea": "member", "carol@c.test": "member"}
    [outcome] = await do(b, writing(b, "bob", "again"))
    assert isinstance(outcome, SubmissionOutcome)
    assert outcome.refused[0].reason is RefusalReason.NOT_MEMBER
    assert await a.storage.dead_letter_counts() == {}


async def test_a_member_elsewhere_invites_leaves_and_is_told_of_refusals(sites: list[Site]) -> None:
    a, b, c = sites
    await add(c, "cleo")
    await add(a, "adam")
    await founded(sites, **{"bob@b.test": ADMIN})

    outcomes = await do(
        b,
        invitation(b, "bob", "cleo@c.test"),
        invitation(b, "bob", "adam@a.test"),
        changing(b, "bob", GroupAction.REMOVE, "alice@a.test"),
        changing(b, "bea", GroupAction.LEAVE),
    )
    await quiet(*sites)

    assert all(isinstance(each, GroupOutcome) and each.forwarded for each in outcomes)
    at_home = {"alice": "owner", "adam": "member", "bob@b.test": "admin"}
    at_home |= {"carol@c.test": "member", "cleo@c.test": "member"}
    assert await members(a) == at_home
    assert await members(b) == {
        "alice@a.test": "owner",
        "adam@a.test": "member",
        "bob": "admin",
        "carol@c.test": "member",
        "cleo@c.test": "member",
    }
    assert (await members(c))["cleo"] == "member"
    assert FrameType.GROUP_INVITE in await kinds(c, "cleo")
    assert FrameType.GROUP_INVITE in await kinds(a, "adam")
    assert [each.get("event", "invite") for each in await events(c, "carol")] == ["invite", "invite", "leave"]
    assert {"event": "group-change-refused", "group_id": "g", "reason": "not_allowed"} in await events(
        b, "bob"
    )
    for site in sites:
        assert await site.storage.dead_letter_counts() == {}
    await do(c, joining("cleo"), writing(c, "cleo", "hello"))
    await quiet(*sites)
    assert await b.texts("bob") == ["hello"]
    assert await a.texts("adam") == ["hello"]
    assert await b.texts("bea") == []


async def test_roles_and_ownership_go_to_other_servers(sites: list[Site]) -> None:
    a, b, c = sites
    await founded(sites)
    await do(a, changing(a, "alice", GroupAction.TRANSFER, "bob@b.test"))
    await quiet(*sites)

    await do(b, changing(b, "bob", GroupAction.SET_ROLE, "carol@c.test", ADMIN))
    await do(b, changing(b, "bob", GroupAction.REMOVE, "alice@a.test"))
    await quiet(*sites)

    # Without a member of its own the home is still the home.
    assert await members(a) == {"bob@b.test": "owner", "bea@b.test": "member", "carol@c.test": "admin"}
    await do(c, changing(c, "carol", GroupAction.REMOVE, "bea@b.test"))
    await until_members(b, {"bob": "owner", "carol@c.test": "admin"})
    await quiet(*sites)
    await do(c, writing(c, "carol", "hello"))
    await quiet(*sites)
    assert await b.texts("bob") == ["hello"]
    assert (await a.rows("alice"))[-1].frame_type == FrameType.GROUP_EVENT
    await do(c, changing(c, "carol", GroupAction.LEAVE))
    await quiet(*sites)
    assert await members(c) == {}
    await do(b, changing(b, "bob", GroupAction.LEAVE))
    await quiet(*sites)
    assert [await members(site) for site in sites] == [{}, {}, {}]


async def test_a_message_that_comes_before_the_state_waits_for_it(sites: list[Site]) -> None:
    a, b, c = sites
    wires_of(a).cut.add("c.test")
    await do(a, creation(a, "alice", "bob@b.test", "carol@c.test"))
    await a.wait_sent("b.test")
    await do(b, joining("bob"), writing(b, "bob", "first"))
    wires_of(a).cut.clear()
    # Only now can c.test be reached, by both, in whatever order.
    await quiet(*sites)

    assert await c.texts("carol") == ["first"]
    assert await b.storage.dead_letter_counts() == {}


async def test_nothing_of_a_group_overtakes_a_message_that_waits_for_a_state(tmp_path: Path) -> None:
    """adam has just come into the group and asks; alice's answer must not come to bob before the question.
    What is no part of that group goes on."""
    async with open_sites(tmp_path, "a.test", "b.test", "c.test", carry=False) as (a, b, c):
        ours = {"alice@a.test": "owner", "bob@b.test": "member"}
        assert (await b.take(c.event(state(1, members=ours), "b.test"))).status == 202
        messages = [
            payload("adam", "bob", "question", group="g", group_revision=2, event_id="1"),
            payload("alice", "bob", "answer", group="g", group_revision=2, event_id="2"),
            payload("alice", "bob", "aside", event_id="3"),
        ]

        async def results() -> list[str]:
            batch = {"type": "messages", "messages": messages}
            answer = await b.take(a.event(batch, "b.test"))
            return [each["status"] for each in answer.document["results"]]

        assert await results() == ["later"] * 3
        assert await b.texts("bob") == ["aside"]
        ours["adam@a.test"] = "member"
        assert (await b.take(c.event(state(2, members=ours), "b.test", event_id="2"))).status == 202
        assert await results() == ["accepted", "accepted", "duplicate"]
        assert await b.texts("bob") == ["aside", "question", "answer"]


async def test_one_who_waits_in_vain_is_refused(tmp_path: Path) -> None:
    async with open_sites(tmp_path, "a.test", "b.test", carry=False) as (a, b):
        early = payload("alice", "bob", group="g", group_revision=3)
        assert (await b.take(a.event(early, "b.test"))).status == 500
        old = payload("alice", "bob", group="g", event_id="2")
        assert refused(await b.take(a.event(old, "b.test"))) == (409, "Refused", "not_member")
        a.clock.now += 601
        b.clock.now += 601
        assert (await b.take(a.event(early, "b.test", event_id="3"))).status == 409


async def test_free_events_of_members_pass_and_nothing_that_looks_like_a_change(sites: list[Site]) -> None:
    a, b, c = sites
    await founded(sites)
    await do(b, writing(b, "bob", '{"event":"poll","group_id":"g"}', FrameType.GROUP_EVENT))
    await quiet(*sites)
    assert (await events(a, "alice"))[-1] == (await events(c, "carol"))[-1]
    assert (await events(c, "carol"))[-1]["event"] == "poll"
    before = len(await c.rows("carol"))

    forged = [
        ('{"event":"remove","group_id":"g","device":"carol"}', FrameType.GROUP_EVENT, "bob"),
        ('{"event":"group-change-refused","group_id":"g","reason":"x"}', FrameType.GROUP_EVENT, "bob"),
        ('{"event":"delivery-status","group_id":"g"}', FrameType.GROUP_EVENT, "bob"),
        ('{"event":"poll","group_id":"other"}', FrameType.GROUP_EVENT, "bob"),
        ('{"event":"poll"}', FrameType.GROUP_EVENT, "bob"),
        ('{"group_id":"g","owner":"bob"}', FrameType.GROUP_CREATE, "bob"),
        ('{"group_id":"g","device":"x"}', FrameType.GROUP_INVITE, "bob"),
        ('{"event":"poll","group_id":"g"}', FrameType.GROUP_EVENT, "alice@a.test"),
        ('{"event":"group-change-refused","group_id":"g","reason":"x"}', FrameType.GROUP_EVENT, None),
        ("x", FrameType.MSG, "alice@a.test"),
        ("x", FrameType.MSG, "ben"),
        ("{}", FrameType.CALL_OFFER, "bob"),
    ]
    for number, (text, kind, sender) in enumerate(forged):
        control = json.loads(text) if kind is not FrameType.MSG else None
        body = text.encode() if control is None else json_text.dumps(control)
        frame = Frame(kind, CHANNEL, 1, body)
        event = payload(sender, "carol", payload=frame.encode().hex(), group="g")
        answer = await c.take(b.event(event, "c.test", event_id=f"forged-{number}"))
        assert answer.status in (400, 409), text
    assert len(await c.rows("carol")) == before


def state(revision: int, **changes: Any) -> dict[str, Any]:
    return {
        "type": "group_state",
        "group_id": "g",
        "revision": revision,
        "relay": True,
        "members": {"alice": "owner", "bob@b.test": "member"},
    } | changes


async def test_only_the_home_says_who_is_in_a_group_and_each_state_once(sites: list[Site]) -> None:
    a, b, c = sites
    assert (await b.take(a.event(state(5), "b.test"))).status == 202
    assert (await b.take(a.event(state(5), "b.test"))).document == {"status": "duplicate"}
    assert (await b.take(a.event(state(5, members={}), "b.test", event_id="same"))).status == 202
    taken = state(9, members={"carol": "owner", "bob@b.test": "member"})
    assert (await b.take(c.event(taken, "b.test", event_id="theft"))).status == 409
    assert (await b.take(a.event(state(4, members={}), "b.test", event_id="late"))).status == 409
    assert await members(b) == {"alice@a.test": "owner", "bob": "member"}
    # The id of a group that was made here is nobody else's.
    await do(c, attrs.evolve(creation(c, "carol"), group_id="ours"))
    answer = await c.take(a.event(state(9, group_id="ours"), "c.test", event_id="ours"))
    assert answer.status == 409
    for number, wrong in enumerate(
        (
            {"members": {"alice": "king", "bob@b.test": "member"}},
            {"members": {"alice": "owner", "alice@a.test": "member"}},
            {"members": {"alice": "owner", "bob@b.test": "owner"}},
            {"members": {"": "owner"}},
            {"members": {"x@y@z": "owner"}},
            {"members": ["alice"]},
            {"members": {"alice": 7}},
            {"members": {"alice\n": "owner"}},
            {"revision": -1},
            {"revision": True},
            {"relay": 1},
            {"group_id": ""},
            {"group_id": "\x1froom:7"},
        )
    ):
        answer = await b.take(a.event(state(20) | wrong, "b.test", event_id=f"wrong-{number}"))
        assert answer.status == 400, wrong
    assert await members(b) == {"alice@a.test": "owner", "bob": "member"}


async def test_a_request_counts_once_and_only_for_a_member_of_its_server(sites: list[Site]) -> None:
    a, b, c = sites
    await founded(sites)
    asked = {
        "type": "group_request",
        "action": "leave",
        "group_id": "g",
        "channel": CHANNEL,
        "sender": "bob",
        "device": "bob",
        "role": None,
        "frame_type": int(FrameType.GROUP_EVENT),
        "notice": notice("bob", event="leave", device="bob").hex(),
        "expires_at": int(a.clock()) + LIFETIME,
    }

    def other(**changes: Any) -> dict[str, Any]:
        return asked | changes

    for number, (site, wrong) in enumerate(
        (
            (c, other(sender="bob@b.test", device="bob@b.test")),
            (b, other(sender="alice@a.test", device="alice@a.test")),
            (b, other(device="bea")),
            (b, other(action="remove", device="bea")),
            (b, other(action="dance")),
            (b, other(role="admin")),
            (b, other(action="invite")),
            (b, other(action="role", role="king")),
            (b, other(notice="zz")),
            (b, other(notice=b"[]".hex())),
            (b, other(notice=notice("bob", event="leave", device="alice").hex())),
            (b, other(channel=-1)),
            (b, other(group_id="h")),
        )
    ):
        answer = await a.take(site.event(wrong, "a.test", event_id=f"wrong-{number}"))
        assert answer.status == 400, wrong
    assert len(await members(a)) == 4

    event = b.event(asked, "a.test", event_id="leave")
    assert (await a.take(event)).document == {"status": "accepted"}
    assert (await a.take(event)).document == {"status": "duplicate"}
    await do(a, invitation(a, "alice", "bob@b.test"))
    assert (await a.take(event)).document == {"status": "duplicate"}
    assert len(await members(a)) == 4
    # A replica changes nothing.
    answer = await c.take(b.event(asked, "c.test", event_id="elsewhere"))
    assert answer.document == {"status": "accepted"}
    await quiet(*sites)
    assert "bob@b.test" in await members(c)
