"""Groups over the wire: created, joined, changed, and what members are told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from commucat_proto import Frame, FrameType
from commucat_storage import GROUP_REQUEST, GroupRole, Once, ReplaceReplica, SqliteSettings
from server.connect_builders import Client, Person, Server, running_server

CHANNEL = 9
GROUP = "g-1"
ALICE = Person(handle="alice")
BOB = Person(handle="bob")
CAROL = Person(handle="carol")
DAVE = Person(handle="dave")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as server:
        yield server


async def ask(client: Client, frame_type: FrameType, value: Any, channel: int = CHANNEL) -> dict[str, Any]:
    return await client.answer(client.send(frame_type, channel, value))


async def event(client: Client, name: str, **members: Any) -> dict[str, Any]:
    return await ask(client, FrameType.GROUP_EVENT, {"group_id": GROUP, "event": name, **members})


async def join_group(client: Client, group_id: str = GROUP, channel: int = CHANNEL) -> dict[str, Any]:
    return await ask(client, FrameType.JOIN, {"group_id": group_id}, channel)


def control(frame: Frame) -> dict[str, Any]:
    assert frame.channel == CHANNEL
    assert isinstance(frame.control, dict)
    return frame.control


async def group_of(server: Server, **roles: str) -> dict[str, Client]:
    """Alice's group with the people of ``roles``, all of them connected and joined."""
    people = {person.handle: person for person in (ALICE, BOB, CAROL, DAVE)}
    clients = {handle: await server.connect(people[handle]) for handle in roles}
    clients["alice"] = await server.connect(ALICE)
    members = [people[handle].device_id for handle in roles]
    wanted = {people[handle].device_id: role for handle, role in roles.items()}
    answer = await ask(
        clients["alice"],
        FrameType.GROUP_CREATE,
        {"group_id": GROUP, "members": members, "roles": wanted, "name": "hikers"},
    )
    assert answer["group_id"] == GROUP
    assert "refused" not in answer
    for handle in roles:
        await clients[handle].next_of(FrameType.GROUP_CREATE)
        assert (await join_group(clients[handle]))["group_id"] == GROUP
    return clients


async def roles_in(server: Server) -> dict[str, GroupRole]:
    group = await server.storage.load_group(GROUP)
    return (
        {} if group is None else {member.removeprefix("device-of-"): r for member, r in group.members.items()}
    )


async def quiet(client: Client) -> bool:
    """Whether nothing more comes."""
    await trio.testing.wait_all_tasks_blocked(0.02)
    with trio.move_on_after(0):
        await client.next_frame()
        return False
    return True


# -- creating ---------------------------------------------------------------------------------------------


async def test_members_learn_id_owner_and_name_of_a_new_group(server: Server) -> None:
    bob = await server.connect(BOB)
    alice = await server.connect(ALICE)

    answer = await ask(
        alice, FrameType.GROUP_CREATE, {"members": [BOB.device_id], "name": "hikers", "owner": "mallory"}
    )

    assert set(answer) == {"ack", "group_id"}
    assert len(answer["group_id"]) == 64
    told = await bob.next_of(FrameType.GROUP_CREATE)
    assert told.sequence == 1
    assert control(told) == {
        "group_id": answer["group_id"],
        "members": [BOB.device_id],
        "name": "hikers",
        "owner": ALICE.device_id,
    }


async def test_creator_is_owner_and_nobody_else_is_made_one(server: Server) -> None:
    await group_of(server, bob="owner", carol="co-owner", dave="gardener")

    assert await roles_in(server) == {
        "alice": GroupRole.OWNER,
        "bob": GroupRole.ADMIN,
        "carol": GroupRole.CO_OWNER,
        "dave": GroupRole.MEMBER,
    }


async def test_messages_of_every_member_reach_the_others_only(server: Server) -> None:
    clients = await group_of(server, bob="member", carol="member")
    outsider = await server.connect(DAVE)

    assert set(await clients["alice"].message(CHANNEL, b"one")) == {"ack"}
    assert (await clients["bob"].next_of(FrameType.MSG)).payload == b"one"
    assert set(await clients["bob"].message(CHANNEL, b"two")) == {"ack"}

    assert [(await clients["carol"].next_of(FrameType.MSG)).payload for _ in "12"] == [b"one", b"two"]
    assert (await clients["alice"].next_of(FrameType.MSG)).payload == b"two"
    assert await quiet(outsider)


async def test_unknown_members_are_left_out_and_named(server: Server) -> None:
    (await server.connect(BOB)).stream.lose()
    alice = await server.connect(ALICE)

    answer = await ask(
        alice, FrameType.GROUP_CREATE, {"group_id": GROUP, "members": [BOB.device_id, "ghost"]}
    )

    assert answer["refused"] == [{"device": "ghost", "reason": "unknown_device"}]
    assert set(await roles_in(server)) == {"alice", "bob"}


async def test_group_of_oneself_is_a_group(server: Server) -> None:
    alice = await server.connect(ALICE)

    assert await ask(alice, FrameType.GROUP_CREATE, {"group_id": GROUP}) == {"ack": 3, "group_id": GROUP}
    assert await roles_in(server) == {"alice": GroupRole.OWNER}


async def test_group_id_that_exists_is_refused_and_changes_nothing(server: Server) -> None:
    await group_of(server, bob="member")
    mallory = await server.connect(DAVE)

    answer = await ask(mallory, FrameType.GROUP_CREATE, {"group_id": GROUP, "members": []})

    assert (answer["error"], answer["title"], answer["ref"]) == ("group_exists", "Frame refused", 3)
    assert set(await roles_in(server)) == {"alice", "bob"}


async def test_notice_waits_for_a_member_that_is_away(server: Server) -> None:
    away = await server.connect(BOB)
    away.stream.lose()
    await trio.testing.wait_all_tasks_blocked()
    alice = await server.connect(ALICE)
    await ask(alice, FrameType.GROUP_CREATE, {"group_id": GROUP, "members": [BOB.device_id]})
    await alice.message(CHANNEL, b"welcome")

    bob = await server.connect(BOB)

    assert control(await bob.next_of(FrameType.GROUP_CREATE))["group_id"] == GROUP
    message = await bob.next_of(FrameType.MSG)
    assert (message.sequence, message.payload) == (2, b"welcome")


async def test_full_group_is_refused(tmp_path: Path) -> None:
    async with running_server(tmp_path, sqlite=SqliteSettings(max_group_members=2)) as server:
        clients = await group_of(server, bob="member")
        await server.connect(CAROL)
        answer = await ask(
            clients["alice"], FrameType.GROUP_INVITE, {"group_id": GROUP, "device": CAROL.device_id}
        )

        assert answer["error"] == "group_full"


# -- joining ----------------------------------------------------------------------------------------------


async def test_only_members_join_a_group(server: Server) -> None:
    await group_of(server, bob="member")
    mallory = await server.connect(DAVE)

    assert (await join_group(mallory))["error"] == "not_member"
    assert (await join_group(mallory, "no-such-group"))["error"] == "group_unknown"
    assert (await mallory.message(CHANNEL, b"x"))["error"] == "no_route"


# -- inviting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["device", "member"])
async def test_invited_device_and_members_are_told(server: Server, name: str) -> None:
    clients = await group_of(server, bob="admin")
    carol = await server.connect(CAROL)

    answer = await ask(
        clients["bob"], FrameType.GROUP_INVITE, {"group_id": GROUP, name: CAROL.device_id, "name": "hikers"}
    )

    assert (answer["group_id"], answer["device"]) == (GROUP, CAROL.device_id)
    for client in (carol, clients["alice"]):
        told = control(await client.next_of(FrameType.GROUP_INVITE))
        assert (told["device"], told["by"], told["name"]) == (CAROL.device_id, BOB.device_id, "hikers")
    assert (await roles_in(server))["carol"] is GroupRole.MEMBER
    await join_group(carol)
    assert "refused" not in await carol.message(CHANNEL, b"hello")
    assert (await clients["bob"].next_of(FrameType.MSG)).payload == b"hello"


@pytest.mark.parametrize(
    ("inviter", "role", "granted"),
    [
        ("alice", "owner", GroupRole.ADMIN),
        ("alice", "co-owner", GroupRole.CO_OWNER),
        ("alice", "nonsense", GroupRole.MEMBER),
        ("bob", "admin", None),
        ("bob", "member", GroupRole.MEMBER),
    ],
)
async def test_invitation_grants_only_what_is_below_the_inviter(
    server: Server, inviter: str, role: str, granted: GroupRole | None
) -> None:
    clients = await group_of(server, bob="admin")
    await server.connect(CAROL)

    answer = await ask(
        clients[inviter],
        FrameType.GROUP_INVITE,
        {"group_id": GROUP, "device": CAROL.device_id, "role": role},
    )

    assert ("error" in answer) is (granted is None)
    assert (await roles_in(server)).get("carol") is granted


@pytest.mark.parametrize(
    ("who", "group_id", "device", "kind"),
    [
        ("bob", GROUP, CAROL.device_id, "not_allowed"),
        ("carol", GROUP, CAROL.device_id, "not_member"),
        ("alice", "other", CAROL.device_id, "group_unknown"),
        ("alice", GROUP, BOB.device_id, "already_member"),
        ("alice", GROUP, "ghost", "unknown_device"),
    ],
)
async def test_invitation_is_refused_by_name(
    server: Server, who: str, group_id: str, device: str, kind: str
) -> None:
    clients = await group_of(server, bob="member")
    clients["carol"] = await server.connect(CAROL)

    answer = await ask(clients[who], FrameType.GROUP_INVITE, {"group_id": group_id, "device": device})

    assert answer["error"] == kind
    assert set(await roles_in(server)) == {"alice", "bob"}


# -- events -----------------------------------------------------------------------------------------------


async def test_removal_holds_from_its_ack_on(server: Server) -> None:
    clients = await group_of(server, bob="member", carol="member")

    assert (await event(clients["alice"], "remove", device=BOB.device_id))["group_id"] == GROUP

    for handle in ("bob", "carol"):
        told = control(await clients[handle].next_of(FrameType.GROUP_EVENT))
        assert told == {
            "group_id": GROUP,
            "event": "remove",
            "device": BOB.device_id,
            "by": ALICE.device_id,
        }
    assert (await clients["bob"].message(CHANNEL, b"still here?"))["error"] == "not_member"
    await clients["alice"].message(CHANNEL, b"gone")
    assert (await clients["carol"].next_of(FrameType.MSG)).payload == b"gone"
    assert await quiet(clients["bob"])


async def test_member_leaves_and_is_named_by_the_server(server: Server) -> None:
    clients = await group_of(server, bob="member")

    await event(clients["bob"], "leave", device=ALICE.device_id, by="mallory")

    told = control(await clients["alice"].next_of(FrameType.GROUP_EVENT))
    assert (told["device"], told["by"]) == (BOB.device_id, BOB.device_id)
    assert set(await roles_in(server)) == {"alice"}


async def test_role_and_transfer(server: Server) -> None:
    clients = await group_of(server, bob="member")

    assert "ack" in await event(clients["alice"], "role", device=BOB.device_id, role="admin")
    assert (await roles_in(server))["bob"] is GroupRole.ADMIN
    assert "ack" in await event(clients["alice"], "transfer", device=BOB.device_id)
    assert await roles_in(server) == {"alice": GroupRole.CO_OWNER, "bob": GroupRole.OWNER}


@pytest.mark.parametrize(
    ("who", "members", "kind"),
    [
        ("bob", {"event": "remove", "device": ALICE.device_id}, "not_allowed"),
        ("bob", {"event": "role", "device": BOB.device_id, "role": "admin"}, "not_allowed"),
        ("bob", {"event": "transfer", "device": BOB.device_id}, "not_allowed"),
        ("alice", {"event": "leave"}, "not_allowed"),
        ("alice", {"event": "remove", "device": CAROL.device_id}, "not_member"),
        ("carol", {"event": "leave"}, "not_member"),
        ("carol", {"event": "remove", "device": BOB.device_id}, "not_member"),
        ("alice", {"event": "role", "device": BOB.device_id, "role": "king"}, "bad_request"),
        ("alice", {"event": "role", "device": BOB.device_id}, "bad_request"),
        ("alice", {"event": "role", "device": BOB.device_id, "role": ["admin"]}, "bad_request"),
    ],
    ids=str,
)
async def test_change_is_refused_by_name(
    server: Server, who: str, members: dict[str, Any], kind: str
) -> None:
    clients = await group_of(server, bob="member")
    clients["carol"] = await server.connect(CAROL)

    answer = await ask(clients[who], FrameType.GROUP_EVENT, {"group_id": GROUP, **members})

    assert answer["error"] == kind
    assert await roles_in(server) == {"alice": GroupRole.OWNER, "bob": GroupRole.MEMBER}


async def test_last_owner_takes_the_group_along(server: Server) -> None:
    clients = await group_of(server, bob="member")
    await event(clients["bob"], "leave")

    assert "ack" in await event(clients["alice"], "leave")
    assert await server.storage.load_group(GROUP) is None


async def test_other_events_are_passed_to_the_members_as_they_are(server: Server) -> None:
    clients = await group_of(server, bob="member")
    text = b'{"event":"topic", "group_id":"g-1", "topic":"rain"}'

    assert set(await clients["bob"].answer(clients["bob"].send(FrameType.GROUP_EVENT, CHANNEL, text))) == {
        "ack"
    }

    assert (await clients["alice"].next_of(FrameType.GROUP_EVENT)).payload == text


async def test_event_of_a_group_right_behind_its_join_is_passed_on(server: Server) -> None:
    clients = await group_of(server, bob="member")
    bob = clients["bob"]
    await bob.answer(bob.send(FrameType.LEAVE, CHANNEL, {}))

    bob.send(FrameType.JOIN, CHANNEL, {"group_id": GROUP})
    assert set(await event(bob, "topic")) == {"ack"}


async def test_events_come_only_from_members_and_only_on_the_groups_channel(server: Server) -> None:
    clients = await group_of(server, bob="member")
    carol = await server.connect(CAROL)
    await carol.join(CHANNEL, BOB.device_id)
    await clients["alice"].join(CHANNEL + 1, BOB.device_id)

    assert (await event(carol, "topic"))["error"] == "no_route"
    forged = {"group_id": "another", "event": "topic"}
    assert (await ask(clients["alice"], FrameType.GROUP_EVENT, forged))["error"] == "no_route"
    elsewhere = {"group_id": GROUP, "event": "topic"}
    answer = await ask(clients["alice"], FrameType.GROUP_EVENT, elsewhere, CHANNEL + 1)
    assert answer["error"] == "no_route"
    await event(clients["alice"], "remove", device=BOB.device_id)
    assert (await event(clients["bob"], "topic"))["error"] in ("not_member", "no_route")


async def test_groups_survive_a_restart(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        await group_of(server, bob="member")
    async with running_server(tmp_path) as server:
        bob, alice = await server.connect(BOB), await server.connect(ALICE)
        assert "refused" not in await alice.message(CHANNEL, b"again")
        assert (await bob.next_of(FrameType.MSG)).payload == b"again"


async def test_devices_of_other_servers_come_in_by_name(server: Server) -> None:
    await server.storage.set_outbox("b.test", open=True)
    alice = await server.connect(ALICE)
    named = ["x@B.Test", "y@c.test", "x@b.test"]
    creation = {"group_id": GROUP, "members": named, "roles": {"x@B.Test": "admin"}}

    made = await ask(alice, FrameType.GROUP_CREATE, creation)
    invited = await ask(alice, FrameType.GROUP_INVITE, {"group_id": GROUP, "device": "z@b.test"})

    assert made["refused"] == [{"device": "y@c.test", "reason": "unknown_domain"}]
    assert invited["device"] == "z@b.test"
    for wrong in ("z@", "z@b@c", f"{'z' * 129}@b.test"):
        answer = await ask(alice, FrameType.GROUP_INVITE, {"group_id": GROUP, "device": wrong})
        assert answer["error"] == "bad_request"
        answer = await ask(alice, FrameType.GROUP_CREATE, {"members": [wrong]})
        assert answer["error"] == "bad_request"
    group = await server.storage.load_group(GROUP)
    assert group is not None
    assert set(group.members) == {ALICE.device_id, "x@b.test", "z@b.test"}


async def test_changes_of_a_group_of_another_server_are_forwarded(server: Server) -> None:
    await server.storage.set_outbox("b.test", open=True)
    alice = await server.connect(ALICE)
    members = (("x@b.test", GroupRole.OWNER), (ALICE.device_id, GroupRole.ADMIN))
    once = Once("federation-inbox", "1", 2**40)
    await server.storage.commit([ReplaceReplica("b.test", GROUP, 1, True, members, 0, once)])

    left = await event(alice, "leave")

    assert (left["forwarded"], left["group_id"]) == (True, GROUP)
    page = await server.storage.outbox_page("b.test", 0, limit_rows=9, limit_bytes=10**6, now=0)
    assert page is not None
    assert [(row.frame_type, row.target) for row in page.rows] == [(GROUP_REQUEST, "@b.test")]
    forged = {"group_id": GROUP, "event": "group-change-refused", "reason": "x"}
    assert (await ask(alice, FrameType.GROUP_EVENT, forged))["error"] == "bad_request"
