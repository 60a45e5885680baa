"""docs/protocol.md, "Every frame type", against what the server does: each cell is driven.

For each kind of error there is a situation, or several, in which alice sends frames of all types;
exactly those types whose row names the kind must be refused with it.
"""

import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from commucat_proto import MAX_FRAME_LEN, FrameType
from commucat_server.calls.limits import CallLimits
from commucat_server.security.messages import MessageLimits
from commucat_storage import GroupRole, Once, ReplaceReplica, Submission, outbox_of
from proto.frame_builders import CONTROL_TYPES, UNREADABLE, raw_frame
from server.connect_builders import NOW, break_commits
from server.frame_stage import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    GROUP,
    GROUPED,
    OTHER,
    PLAIN,
    Stage,
    ask,
    stage,
)
from server.frame_table import cells_of, read_table, section, words

TABLE = read_table()
Situation = Callable[[Stage, pytest.MonkeyPatch], Awaitable[None]]


async def nothing(scene: Stage, _: pytest.MonkeyPatch) -> None:
    pass


async def without_a_route(scene: Stage, _: pytest.MonkeyPatch) -> None:
    await ask(scene.alice, FrameType.LEAVE, GROUPED, {})


async def removed_from_the_group(scene: Stage, _: pytest.MonkeyPatch) -> None:
    await ask(
        scene.bob,
        FrameType.GROUP_EVENT,
        GROUPED,
        {"group_id": GROUP, "event": "remove", "device": ALICE.device_id},
    )


async def to_nobody_known(scene: Stage, _: pytest.MonkeyPatch) -> None:
    await scene.alice.join(PLAIN, "ghost")
    scene.channel, scene.call, scene.invited = PLAIN, f"call-{PLAIN}", "ghost"


async def to_another_server(scene: Stage, _: pytest.MonkeyPatch) -> None:
    await scene.alice.join(PLAIN, "somebody@elsewhere.test")
    scene.channel, scene.call, scene.invited = PLAIN, f"call-{PLAIN}", "somebody@elsewhere.test"


async def handed_to_another_server(scene: Stage, _: pytest.MonkeyPatch) -> None:
    member = "somebody@elsewhere.test"
    await scene.server.storage.set_outbox("elsewhere.test", open=True)
    await ask(scene.alice, FrameType.GROUP_INVITE, GROUPED, {"group_id": GROUP, "device": member})
    transfer = {"group_id": GROUP, "event": "transfer", "device": ALICE.device_id}
    await ask(scene.bob, FrameType.GROUP_EVENT, GROUPED, transfer)
    await scene.server.storage.set_outbox("elsewhere.test", open=False)
    scene.change = {"event": "transfer", "device": member}


async def deleted(scene: Stage, _: pytest.MonkeyPatch) -> None:
    """By another program: no command of ours deletes a device."""
    with sqlite3.connect(scene.path / "store.db") as database:
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("DELETE FROM user_device WHERE device_id = ?", (ALICE.device_id,))
    database.close()


async def revoked(scene: Stage, _: pytest.MonkeyPatch) -> None:
    await scene.server.storage.revoke_device(ALICE.device_id, NOW)


async def others_revoked(scene: Stage, _: pytest.MonkeyPatch) -> None:
    for person in (BOB, CAROL, DAVE):
        await scene.server.storage.revoke_device(person.device_id, NOW)


async def shut_out_by_the_others(scene: Stage, _: pytest.MonkeyPatch) -> None:
    await scene.bob.join(GROUPED, "somebody")
    await scene.carol.join(GROUPED, "somebody")


async def on_the_channel_of_another_group(scene: Stage, _: pytest.MonkeyPatch) -> None:
    scene.channel = OTHER


async def full_inboxes(scene: Stage, _: pytest.MonkeyPatch) -> None:
    answer: dict[str, Any] = {}
    while "error" not in answer:
        answer = await scene.alice.message(GROUPED, b"x")


async def full_queue_to_the_home_of_the_group(scene: Stage, _: pytest.MonkeyPatch) -> None:
    home, storage = "elsewhere.test", scene.server.storage
    await storage.set_outbox(home, open=True)
    members = (
        (f"somebody@{home}", GroupRole.OWNER),
        (ALICE.device_id, GroupRole.ADMIN),
        (CAROL.device_id, GroupRole.MEMBER),
    )
    filling = Submission("", 0, FrameType.MSG, b"x", NOW + 600, (outbox_of(home),))
    once = Once("test", "replica", NOW + 600)
    replica = ReplaceReplica(home, "theirs", 1, True, members, NOW, once)
    await storage.commit([replica, *[filling] * LIMITS["quota"]["max_rows"]])
    scene.group, scene.channel = "theirs", 20


async def full_disk(scene: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = scene.server.storage._journal._writer  # type: ignore[attr-defined]
    writer._look_at_disk = 0.0  # not a second later
    empty = os.statvfs_result((1, 1, 1, 0, 0, 1, 1, 1, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: empty)


async def disk_that_fails(scene: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    break_commits(monkeypatch, scene.server, "broken")


async def group_that_is_not_there(scene: Stage, _: pytest.MonkeyPatch) -> None:
    scene.group = scene.joined = "nobody's"


async def group_that_is_there(scene: Stage, _: pytest.MonkeyPatch) -> None:
    scene.created = GROUP


async def plain_member(scene: Stage, _: pytest.MonkeyPatch) -> None:
    role = {"group_id": GROUP, "event": "role", "device": ALICE.device_id, "role": "member"}
    await ask(scene.bob, FrameType.GROUP_EVENT, GROUPED, role)


async def member_already(scene: Stage, _: pytest.MonkeyPatch) -> None:
    scene.invited = CAROL.device_id


async def large_groups(scene: Stage, _: pytest.MonkeyPatch) -> None:
    scene.created_members = (BOB.device_id, CAROL.device_id, DAVE.device_id)


async def same_call_again(scene: Stage, _: pytest.MonkeyPatch) -> None:
    scene.offered = scene.call


async def many_calls(scene: Stage, _: pytest.MonkeyPatch) -> None:
    for number in range(4):
        call = {"call_id": f"{number}", "from": ALICE.device_id, "to": []}
        await ask(scene.alice, FrameType.CALL_OFFER, PLAIN, call)


async def all_calls_there_may_be(scene: Stage, _: pytest.MonkeyPatch) -> None:
    calls = scene.server.context.calls
    calls.take_limits(CallLimits(total=len(calls.board)))


async def call_without_room(scene: Stage, _: pytest.MonkeyPatch) -> None:
    scene.server.context.calls.take_limits(CallLimits(participants=1))


async def call_of_somebody_busy(scene: Stage, _: pytest.MonkeyPatch) -> None:
    scene.server.context.calls.take_limits(CallLimits(call_waiting=False))
    scene.channel = PLAIN


async def call_of_a_stranger(scene: Stage, _: pytest.MonkeyPatch) -> None:
    scene.server.context.calls.take_limits(CallLimits(strangers=False))
    scene.channel = 40
    await scene.alice.join(scene.channel, DAVE.device_id)


async def call_that_is_not_there(scene: Stage, _: pytest.MonkeyPatch) -> None:
    scene.call = "nobody's"


async def call_of_others(scene: Stage, _: pytest.MonkeyPatch) -> None:
    await scene.bob.join(20, CAROL.device_id)
    await ask(scene.bob, FrameType.CALL_OFFER, 20, {"call_id": "theirs", "from": BOB.device_id, "to": []})
    scene.call = "theirs"


async def codec_that_is_not_made(scene: Stage, _: pytest.MonkeyPatch) -> None:
    session = scene.server.context.registry.receiver(ALICE.device_id)
    assert session is not None
    session.call_media = True
    await ask(scene.alice, FrameType.CALL_ANSWER, scene.channel, {"call_id": scene.call, "accept": True})
    scene.update = {"update": "receive", "transcode_audio": "opus"}


async def media_without_a_header(scene: Stage, _: pytest.MonkeyPatch) -> None:
    scene.media = b""


async def ack_of_the_future(scene: Stage, _: pytest.MonkeyPatch) -> None:
    scene.acked = 10**6


async def too_many_frames(scene: Stage, _: pytest.MonkeyPatch) -> None:
    limits = MessageLimits(lambda: 0.0)
    limits.configure(device=(1, 1.0), user=None)
    assert limits.take(ALICE.device_id, "") == 0.0
    scene.server.context.messages = limits


SITUATIONS: dict[str, tuple[Situation, ...]] = {
    "no_route": (without_a_route,),
    "not_member": (removed_from_the_group,),
    "unknown_device": (to_nobody_known, deleted),
    "revoked": (revoked, others_revoked),
    "channel_conflict": (shut_out_by_the_others, on_the_channel_of_another_group),
    "quota": (full_inboxes, full_queue_to_the_home_of_the_group),
    "disk_low": (full_disk,),
    "storage": (disk_that_fails,),
    "too_many_routes": (nothing,),
    "group_unknown": (group_that_is_not_there,),
    "group_exists": (group_that_is_there,),
    "group_full": (large_groups,),
    "not_allowed": (plain_member,),
    "already_member": (member_already,),
    "call_exists": (same_call_again,),
    "too_many_calls": (many_calls,),
    "server_busy": (all_calls_there_may_be,),
    "call_full": (call_without_room,),
    "busy": (call_of_somebody_busy,),
    "stranger": (call_of_a_stranger,),
    "call_unknown": (call_that_is_not_there,),
    "not_participant": (call_of_others,),
    "no_transcoding": (codec_that_is_not_made,),
    "bad_media": (media_without_a_header,),
    "ack_out_of_range": (ack_of_the_future,),
    "rate_limited": (too_many_frames,),
    "unknown_domain": (to_another_server, handed_to_another_server),
    "not_federated": (to_another_server,),
}
LIMITS = {
    "quota": {"max_rows": 8},
    "too_many_routes": {"max_routes": 3},
    "group_full": {"max_group_members": 3},
}
OF_FORM = {"bad_request", "too_large"}


def named_by(kind: str) -> set[FrameType]:
    return {frame_type for frame_type, row in TABLE.items() if kind in row.errors}


def test_the_table_has_a_row_for_every_type() -> None:
    assert list(TABLE) == list(FrameType)
    assert [row.name for row in TABLE.values()] == [frame_type.wire_name for frame_type in FrameType]


def test_every_kind_is_driven_and_explained() -> None:
    kinds = {kind for row in TABLE.values() for kind in row.errors}
    assert kinds == set(SITUATIONS) | OF_FORM
    about_one_frame, _, _ = section("### Error (0d)").partition("**About the session**")
    explained = {
        next(iter(words(cells[0]))) for cells in cells_of(about_one_frame.partition("**About one frame**")[2])
    }
    assert explained == kinds


@pytest.mark.parametrize("kind", SITUATIONS)
async def test_exactly_the_types_of_the_table_are_refused_as(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    refused: set[tuple[FrameType, str]] = set()
    for number, prepare in enumerate(SITUATIONS[kind]):
        path = tmp_path / str(number)
        path.mkdir()
        async with stage(path, **LIMITS.get(kind, {})) as scene:
            await prepare(scene, monkeypatch)
            refused |= {(sent, a["error"]) for sent, a in await scene.answers() if "error" in a}

    assert {frame_type for frame_type, error in refused if error == kind} == named_by(kind)
    assert {(sent, error) for sent, error in refused if error not in TABLE[sent].errors} == set()


@pytest.mark.parametrize(("why", "kind"), [("no JSON", "bad_request"), ("too long", "too_large")])
async def test_exactly_the_types_of_the_table_are_refused_for_their_form(
    tmp_path: Path, why: str, kind: str
) -> None:
    payload, _ = UNREADABLE[why]
    async with stage(tmp_path, max_frame_len=MAX_FRAME_LEN) as scene:
        alice = scene.alice
        alice.stream.write(alice.session.seal([raw_frame(t, t, 1000 + t, payload) for t in FrameType]))
        found = await scene.collect(1000 + FrameType.TRANSPORT_UPDATE)
        refused = {FrameType(v["ref"] - 1000) for v in found if v.get("error") == kind}
        if kind == "too_large":
            for opaque in set(FrameType) - set(CONTROL_TYPES):
                alice.session._sequence = 1
                answer = await alice.answer(
                    alice.send(opaque, GROUPED, scene.media + bytes(MAX_FRAME_LEN - 11))
                )
                refused |= {opaque} if answer.get("error") == kind else set()
    assert refused == named_by(kind)


async def test_acks_have_the_members_of_the_table(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        await scene.carol.join(GROUPED, "somebody")  # somebody must refuse, or ``refused`` is never seen
        scene.created_members = (BOB.device_id, "ghost")
        answers = await scene.answers()
        reason = {"call_id": f"call-{PLAIN}", "accept": False, "reason": "busy"}
        answers.append((FrameType.CALL_ANSWER, await ask(scene.alice, FrameType.CALL_ANSWER, PLAIN, reason)))

    assert [answer for _, answer in answers if "error" in answer] == []
    for frame_type, row in TABLE.items():
        members = [set(answer) for sent, answer in answers if sent is frame_type]
        if not row.ack:
            assert members == []
            continue
        assert set.intersection(*members) - row.ack_perhaps == row.ack, row.name
        assert set.union(*members) == row.ack | row.ack_perhaps, row.name


@asynccontextmanager
async def everybody_away(path: Path) -> AsyncIterator[Stage]:
    async with stage(path) as scene:
        for client in (scene.bob, scene.carol):
            client.stream.close()
            while await client.next_frame() is not None:
                pass
        await trio.testing.wait_all_tasks_blocked()
        yield scene


async def test_durable_frames_are_those_that_wait_for_whoever_is_away(tmp_path: Path) -> None:
    async with everybody_away(tmp_path) as scene:
        page = await scene.server.storage.read_after(
            BOB.device_id, 0, limit_rows=100, limit_bytes=10**6, now=NOW
        )
        before = page.head
        # The call of bob is over with his leaving: those that begin one and go on with it are alice's own.
        scene.offered = scene.call = "hers"
        scene.created_members = (BOB.device_id,)
        await scene.answers()
        page = await scene.server.storage.read_after(
            BOB.device_id, before, limit_rows=100, limit_bytes=10**6, now=NOW
        )

    stored = {FrameType(row.frame_type) for row in page.rows}
    # An answer comes from somebody who was called, so alice cannot send one in a call of her own.
    assert stored | {FrameType.CALL_ANSWER} == {t for t, row in TABLE.items() if row.kind == "durable"}


async def test_live_frames_reach_those_who_are_connected(tmp_path: Path) -> None:
    """Whatever is delivered is named as something the server sends."""
    async with stage(tmp_path) as scene:
        scene.created_members = (BOB.device_id,)
        await scene.answers()
        await trio.testing.wait_all_tasks_blocked(0.02)
        got: set[FrameType] = set()
        with trio.move_on_after(0):
            while (frame := await scene.bob.next_frame()) is not None:
                got.add(frame.type)

    # A second change of presence within a second is told later: test_frames_presence looks at that.
    passed_on = {t for t, row in TABLE.items() if row.kind in ("durable", "live")} - {FrameType.PRESENCE}
    assert passed_on <= got
    assert got <= {t for t, row in TABLE.items() if "ESTABLISHED" in row.server_states} | {FrameType.ERROR}


@pytest.mark.parametrize("frame_type", FrameType, ids=lambda frame_type: frame_type.label)
async def test_a_handshake_takes_only_the_frames_of_the_table(tmp_path: Path, frame_type: FrameType) -> None:
    async with stage(tmp_path) as scene:
        first = scene.server.open(ALICE)
        hello = first.session.start()
        position = hello.index(bytes((FrameType.HELLO, 0)))
        first.stream.write(hello[:position] + bytes((frame_type,)) + hello[position + 1 :])
        answer = await first.stream.read()
        assert (bytes((FrameType.AUTH, 0)) in answer[:4]) is (
            TABLE[frame_type].client_states == "AWAITING_HELLO"
        )
