"""What is believed of other servers, and what becomes of it: stored once, or refused by name."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from commucat_crypto import DeviceKeyPair
from commucat_proto import DeliveryReport, DeliveryStatus, Frame, FrameType
from commucat_proto.federation import MAX_BATCH
from commucat_server.federation.client import PeerAnswer
from commucat_storage import Friend, Peer, PeerStatus, Route, SetRoute, SqliteSettings
from server.federation_builders import (
    CHANNEL,
    DAY,
    LIFETIME,
    Site,
    framed,
    open_sites,
    payload,
    signed_by,
    tampered,
)

STRANGER = DeviceKeyPair.from_seed(b"s" * 32)


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[list[Site]]:
    async with open_sites(tmp_path, "a.test", "b.test", carry=False) as sites:
        yield sites


def refused(answer: PeerAnswer) -> tuple[int, Any, Any]:
    return answer.status, answer.document.get("title"), answer.document.get("detail")


async def test_an_event_is_stored_once_however_often_it_comes(sites: list[Site]) -> None:
    a, b = sites
    event = a.event(payload("alice", "bob@b.test", "hello"), "b.test")

    first, second = await b.take(event), await b.take(event)

    assert (first.status, first.document) == (202, {"status": "accepted"})
    assert (second.status, second.document) == (200, {"status": "duplicate"})
    assert await b.texts("bob") == ["hello"]
    assert b.counters.federation_inbound_processed == 1


async def test_the_same_event_at_the_same_time_is_stored_once(sites: list[Site]) -> None:
    a, b = sites
    event = a.event(payload("alice", "bob@b.test", "hello"), "b.test")
    answers: list[str] = []

    async def take() -> None:
        answers.append((await b.take(event)).document["status"])

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(take)

    assert sorted(answers) == ["accepted"] + ["duplicate"] * 4
    assert await b.texts("bob") == ["hello"]


async def test_domains_are_compared_in_lower_case_and_relay_is_a_scope(sites: list[Site]) -> None:
    a, b = sites
    for number, scope in enumerate(("b.test", "B.Test", "relay")):
        event = a.event(
            payload("alice@A.test", "bob@B.TEST"), scope, event_id=f"evt-{number}", origin="A.Test"
        )
        assert (await b.take(event)).status == 202
    assert (await b.take(a.event(payload("alice", "bob"), "b.test", event_id="no-domain"))).status == 202


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"origin": "c.test"}, (403, "UnknownPeer", "origin not allowed")),
        ({"scope": "c.test"}, (403, "InvalidScope", "the event is for another server")),
        ({"scope": ""}, (403, "InvalidScope", "the event is for another server")),
    ],
)
async def test_an_event_of_or_for_somebody_else_is_refused(
    sites: list[Site], changes: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    a, b = sites
    event = a.event(payload("alice", "bob@b.test"), **({"scope": "b.test"} | changes))
    assert refused(await b.take(event)) == expected
    assert await b.rows("bob") == []


async def test_what_was_not_signed_by_the_peer_is_refused(sites: list[Site]) -> None:
    a, b = sites
    event = a.event(payload("alice", "bob@b.test"), "b.test")

    def another_sender(document: dict[str, Any]) -> None:
        document["event"]["payload"]["sender"] = "mallory"

    def moved_border(document: dict[str, Any]) -> None:
        # The digest stays the same: it does not tell where origin ends and scope begins.
        document["event"]["origin"], document["event"]["scope"] = "a.tes", "tb.test"

    forged = [
        signed_by(STRANGER, event),
        tampered(event, another_sender),
        tampered(event, lambda document: document["signature"].reverse()),
        tampered(event, lambda document: document["digest"].reverse()),
        tampered(event, lambda document: document["signature"].pop()),
    ]

    for each in forged:
        assert refused(await b.take(each))[:2] == (403, "InvalidSignature")
    assert refused(await b.take(tampered(event, moved_border)))[:2] == (403, "UnknownPeer")
    assert await b.rows("bob") == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"event": 1}', b"\xff", b"[" * 200])
async def test_what_is_no_event_is_refused(sites: list[Site], body: bytes) -> None:
    status, title, detail = refused(await sites[1].take(body))
    assert (status, title) == (400, "InvalidRequest")
    assert detail == ("invalid JSON payload" if body else "request body required")


@pytest.mark.parametrize("age", [LIFETIME + DAY + 1, -DAY - 1])
async def test_an_event_of_another_time_is_refused_but_not_for_good(sites: list[Site], age: int) -> None:
    a, b = sites
    created_at = int((b.clock() - age) * 10**9)
    event = a.event(payload("alice", "bob@b.test"), "b.test", created_at=created_at)
    # 403 is tried again: a clock that is put right loses nothing.
    assert refused(await b.take(event))[:2] == (403, "StaleEvent")


@pytest.mark.parametrize("age", [LIFETIME + DAY - 1, -DAY + 1])
async def test_an_outage_or_a_clock_that_is_off_is_no_reason_to_refuse(sites: list[Site], age: int) -> None:
    a, b = sites
    created_at = int((b.clock() - age) * 10**9)
    event = a.event(payload("alice", "bob@b.test"), "b.test", created_at=created_at)
    assert (await b.take(event)).status == 202


async def test_the_id_is_kept_as_long_as_the_event_may_come(sites: list[Site]) -> None:
    a, b = sites
    event = a.event(payload("alice", "bob@b.test"), "b.test")
    assert (await b.take(event)).status == 202
    b.clock.now += LIFETIME + DAY - 10
    await b.storage.purge_expired(int(b.clock()))
    assert (await b.take(event)).document == {"status": "duplicate"}


@pytest.mark.parametrize(
    ("sender", "target", "expected"),
    [
        ("alice", "bob@c.test", (400, "InvalidTarget", "target domain mismatch")),
        ("alice", "@b.test", (400, "InvalidTarget", "missing target device")),
        ("alice", "", (400, "InvalidTarget", "missing target device")),
        ("alice", "nobody@b.test", (404, "UnknownDevice", "device not found")),
        ("alice", "bob\0@b.test", (404, "UnknownDevice", "device not found")),
        ("mallory@c.test", "bob@b.test", (400, "InvalidPayload", "the sender is no device of the origin")),
        ("bob@b.test", "bob@b.test", (400, "InvalidPayload", "the sender is no device of the origin")),
        ("@a.test", "bob@b.test", (400, "InvalidPayload", "the sender is no device of the origin")),
        ("a\nb", "bob@b.test", (400, "InvalidPayload", "the sender is no device of the origin")),
        (None, "bob@b.test", (400, "InvalidPayload", "the sender is no device of the origin")),
    ],
)
async def test_a_message_of_or_for_the_wrong_device_is_refused(
    sites: list[Site], sender: str | None, target: str, expected: tuple[int, str, str]
) -> None:
    a, b = sites
    assert refused(await b.take(a.event(payload(sender, target), "b.test"))) == expected
    assert await b.rows("bob") == []


@pytest.mark.parametrize("frame_type", sorted(set(FrameType) - {FrameType.MSG, FrameType.KEY_UPDATE}))
async def test_no_peer_writes_frames_as_if_it_were_the_server(
    sites: list[Site], frame_type: FrameType
) -> None:
    a, b = sites
    text = b"sealed" if frame_type.is_opaque else b'{"device_id": "bob", "event": "delivery-status"}'
    for number, sender in enumerate(("alice", None)):
        event = a.event(
            framed(Frame(frame_type, 0, 3, text), sender, "bob@b.test"), "b.test", event_id=f"evt-{number}"
        )
        assert (await b.take(event)).status == 400
    assert await b.rows("bob") == []


async def test_a_revoked_device_gets_nothing(sites: list[Site]) -> None:
    a, b = sites
    await b.storage.revoke_device("bob", int(b.clock()))
    event = a.event(payload("alice", "bob@b.test"), "b.test")
    assert refused(await b.take(event)) == (404, "UnknownDevice", "device was revoked")


async def test_an_event_from_ahead_is_known_for_as_long_as_it_is_believed(sites: list[Site]) -> None:
    a, b = sites
    ahead = int((b.clock() + DAY - 1) * 10**9)
    event = a.event(payload("alice", "bob@b.test"), "b.test", created_at=ahead)
    assert (await b.take(event)).status == 202
    # The last moment at which it is taken.
    b.clock.now += LIFETIME + 2 * DAY - 1
    await b.storage.purge_expired(int(b.clock()))
    assert (await b.take(event)).document == {"status": "duplicate"}
    b.clock.now += 1
    assert refused(await b.take(event))[1] == "StaleEvent"


async def test_what_a_server_itself_tells_takes_a_small_part_of_an_inbox(tmp_path: Path) -> None:
    """Else one that is let in could fill the inbox of everybody, and shut all others out."""
    store = SqliteSettings(stranger_rows=2)
    async with open_sites(tmp_path, "a.test", "b.test", carry=False, settings=store) as (a, b):
        report = DeliveryReport(
            status=DeliveryStatus.DELIVERED, device="alice", channel=CHANNEL, messages=("ab" * 16,)
        )
        told = Frame.of_control(FrameType.GROUP_EVENT, 0, 1, report.to_wire())
        refusal = {"event": "group-change-refused", "group_id": "g", "reason": "not_allowed"}
        of_group = Frame.of_control(FrameType.GROUP_EVENT, 0, 1, refusal)

        async def tell(number: int, frame: Frame = told, **more: str) -> int:
            event = framed(frame, None, "bob@b.test") | more
            return (await b.take(a.event(event, "b.test", event_id=f"evt-{number}"))).status

        assert [await tell(1), await tell(2, of_group, group="g"), await tell(3)] == [202, 202, 409]
        assert await tell(4, of_group, group="g") == 409
        # Whom the device writes to, or whose user is a friend, may be told of without such a bound.
        await b.storage.commit([SetRoute("bob", CHANNEL, Route(members=frozenset({"alice@a.test"})))])
        assert [await tell(5), await tell(6, of_group, group="g")] == [202, 202]
        await b.storage.commit([SetRoute("bob", CHANNEL, Route(members=frozenset({"carol@c.test"})))])
        assert await tell(7) == 409
        await b.storage.replace_friends("user-bob", [Friend(user_id="alice@a.test")])
        assert await tell(8) == 202


async def test_what_a_home_has_refused_is_told_outside_of_conversations(sites: list[Site]) -> None:
    a, b = sites
    value = {"event": "group-change-refused", "group_id": "g", "reason": "not_allowed"}
    frame = Frame.of_control(FrameType.GROUP_EVENT, CHANNEL, 1, value)
    answer = await b.take(a.event(framed(frame, None, "bob@b.test") | {"group": "g"}, "b.test"))
    assert refused(answer)[:2] == (400, "InvalidPayload")


async def test_a_conversation_of_others_is_not_entered(sites: list[Site]) -> None:
    a, b = sites
    await b.storage.commit([SetRoute("bob", CHANNEL, Route(members=frozenset({"carol@a.test"})))])
    refusal = refused(await b.take(a.event(payload("alice", "bob@b.test"), "b.test")))
    assert refusal[:2] == (409, "ChannelConflict")
    await b.storage.commit([SetRoute("bob", CHANNEL, Route(members=frozenset({"alice@a.test"})))])
    assert (await b.take(a.event(payload("alice", "bob@b.test"), "b.test"))).status == 202


async def test_strangers_of_other_servers_share_a_small_part_of_an_inbox(tmp_path: Path) -> None:
    store = SqliteSettings(stranger_rows=2)
    async with open_sites(tmp_path, "a.test", "b.test", carry=False, settings=store) as (a, b):

        async def send(number: int) -> int:
            message = payload("alice", "bob@b.test", sender_user="alice")
            return (await b.take(a.event(message, "b.test", event_id=f"evt-{number}"))).status

        assert [await send(number) for number in range(3)] == [202, 202, 409]
        # What was refused was not remembered as taken.
        await b.storage.replace_friends("user-bob", [Friend(user_id="alice@a.test")])
        assert await send(2) == 202
        # Nobody becomes a friend by calling itself so from elsewhere.
        claimed = payload("mallory", "bob@b.test", sender_user="alice@c.test")
        assert (await b.take(a.event(claimed, "b.test", event_id="evt-9"))).status == 409


async def test_a_report_is_told_under_the_name_by_which_the_device_is_known(sites: list[Site]) -> None:
    a, b = sites
    report = DeliveryReport(
        status=DeliveryStatus.DELIVERED, device="alice", channel=CHANNEL, messages=("ab" * 16,)
    )
    frame = Frame.of_control(FrameType.GROUP_EVENT, 0, 1, report.to_wire())
    assert (await b.take(a.event(framed(frame, None, "bob@b.test"), "b.test"))).status == 202

    [row] = await b.rows("bob")
    assert json.loads(row.payload) == report.to_wire() | {"device": "alice@a.test"}

    of_another = Frame.of_control(
        FrameType.GROUP_EVENT, 0, 1, attrs.evolve(report, device="carol@c.test").to_wire()
    )
    event = a.event(framed(of_another, None, "bob@b.test"), "b.test", event_id="evt-2")
    assert (await b.take(event)).status == 400


@pytest.mark.parametrize("sender", ["alice", None])
async def test_a_new_key_is_announced_for_devices_of_the_origin_only(
    sites: list[Site], sender: str | None
) -> None:
    a, b = sites

    def announced(device_id: object) -> dict[str, Any]:
        value: Any = {"device_id": device_id, "public_key": "00"}
        return framed(Frame.of_control(FrameType.KEY_UPDATE, 0, 1, value), sender, "bob@b.test")

    assert (await b.take(a.event(announced("alice"), "b.test"))).status == 202
    [row] = await b.rows("bob")
    assert json.loads(row.payload) == {"device_id": "alice@a.test", "public_key": "00"}
    for number, device_id in enumerate(("bob@b.test", "carol@c.test", 7, None)):
        event = a.event(announced(device_id), "b.test", event_id=f"evt-{number + 2}")
        assert (await b.take(event)).status == 400


async def test_a_new_key_can_be_announced_to_all_devices_of_a_user(sites: list[Site]) -> None:
    a, b = sites
    value: Any = {"device_id": "alice", "public_key": "00"}
    announced = Frame.of_control(FrameType.KEY_UPDATE, 0, 1, value)

    taken = await b.take(a.event(framed(announced, None, "user:bob@b.test"), "b.test"))
    unknown = a.event(framed(announced, None, "user:nobody@b.test"), "b.test", event_id="evt-2")
    of_a_device = a.event(payload("alice", "user:bob@b.test"), "b.test", event_id="evt-3")

    assert taken.status == 202
    assert [json.loads(row.payload)["device_id"] for row in await b.rows("bob")] == ["alice@a.test"]
    assert refused(await b.take(unknown))[:2] == (404, "NotFound")
    # Devices write to devices.
    assert refused(await b.take(of_a_device))[:2] == (404, "UnknownDevice")


async def test_a_batch_is_answered_message_by_message(sites: list[Site]) -> None:
    a, b = sites
    entries = [
        payload("alice", "bob@b.test", "one", event_id="1"),
        payload("alice", "nobody@b.test", "two", event_id="2"),
        payload("alice", "bob@b.test", "three", event_id="3"),
        payload("alice", "bob@b.test", "one again", event_id="1"),
        payload("alice", "bob@b.test", "no id"),
        7,
        payload("alice", "bob@b.test", "last", event_id="4"),
    ]
    batch = {"type": "messages", "messages": entries}

    answer = await b.take(a.event(batch, "b.test"))

    assert answer.status == 200
    assert [each["status"] for each in answer.document["results"]] == [
        "accepted",
        "refused",
        "accepted",
        "duplicate",
        "refused",
        "refused",
        "accepted",
    ]
    assert answer.document["results"][1]["title"] == "UnknownDevice"
    assert await b.texts("bob") == ["one", "three", "last"]

    again = await b.take(a.event(batch, "b.test"))
    assert [each["status"] for each in again.document["results"]].count("duplicate") == 4
    assert await b.texts("bob") == ["one", "three", "last"]


async def test_a_store_without_room_is_told_as_later(tmp_path: Path) -> None:
    full = SqliteSettings(min_free_bytes=2**62)
    async with open_sites(tmp_path, "a.test", "b.test", carry=False, settings=full) as (a, b):
        single = await b.take(a.event(payload("alice", "bob@b.test"), "b.test"))
        entries = [payload("alice", "bob@b.test", event_id=str(number)) for number in range(3)]
        many = await b.take(a.event({"type": "messages", "messages": entries}, "b.test"))
    assert (single.status, single.document["title"]) == (500, "DeliveryFailed")
    assert [each["status"] for each in many.document["results"]] == ["later"] * 3


async def test_an_event_with_too_many_messages_is_refused(sites: list[Site]) -> None:
    a, b = sites
    batch = {"type": "messages", "messages": [1] * (MAX_BATCH + 1)}
    assert refused(await b.take(a.event(batch, "b.test")))[:2] == (400, "InvalidPayload")


async def test_a_peer_that_sends_too_much_is_told_to_wait(tmp_path: Path) -> None:
    async with open_sites(tmp_path, "a.test", "b.test", carry=False, events_per_second=3) as (a, b):
        statuses = []
        for number in range(4):
            event = a.event(payload("alice", "bob@b.test"), "b.test", event_id=f"evt-{number}")
            statuses.append((await b.take(event)).status)
    assert statuses == [202, 202, 202, 429]


async def test_a_batch_counts_as_what_it_holds(tmp_path: Path) -> None:
    async with open_sites(tmp_path, "a.test", "b.test", carry=False, events_per_second=3) as (a, b):
        entries = [payload("alice", "bob@b.test", event_id=str(number)) for number in range(10)]
        batch = a.event({"type": "messages", "messages": entries}, "b.test")
        # Taken as a whole, and owed.
        assert (await b.take(batch)).status == 200
        assert (await b.take(batch)).status == 429


async def test_a_blocked_peer_is_unknown_and_known_again(sites: list[Site]) -> None:
    a, b = sites
    event = a.event(payload("alice", "bob@b.test"), "b.test")
    blocked = Peer(
        domain="a.test",
        endpoint="https://a.test",
        public_key=a.keys.public,
        status=PeerStatus.BLOCKED,
        created_at=1,
        updated_at=1,
    )
    await b.storage.put_peer(blocked)
    await b.federation.changed()
    assert refused(await b.take(event))[:2] == (403, "UnknownPeer")
    await b.storage.put_peer(attrs.evolve(blocked, status=PeerStatus.ACTIVE))
    await b.federation.changed()
    assert (await b.take(event)).status == 202


async def test_two_keys_are_good_while_a_peer_changes_its_key(sites: list[Site]) -> None:
    a, b = sites
    message = payload("alice", "bob@b.test")
    await b.storage.put_peer(
        Peer(
            domain="a.test",
            endpoint="https://a.test",
            public_key=a.keys.public,
            status=PeerStatus.ACTIVE,
            next_key=STRANGER.public,
            created_at=1,
            updated_at=1,
        )
    )
    await b.federation.changed()
    old = a.event(message, "b.test", event_id="old")
    new = signed_by(STRANGER, a.event(message, "b.test", event_id="new"))
    assert [(await b.take(each)).status for each in (old, new)] == [202, 202]


async def test_nothing_that_comes_in_makes_a_pending_peer_active(tmp_path: Path) -> None:
    async with open_sites(tmp_path, "a.test", "b.test", carry=False) as (a, b):
        await b.knows()
        pending = Peer(
            domain="a.test",
            endpoint="https://a.test",
            public_key=a.keys.public,
            status=PeerStatus.PENDING,
            created_at=1,
            updated_at=1,
        )
        await b.storage.put_peer(pending)
        await b.federation.changed()
        assert (await b.take(a.event(payload("alice", "bob@b.test"), "b.test"))).status == 202
        stored = await b.storage.load_peer("a.test")
    assert stored is not None
    assert stored.status is PeerStatus.PENDING


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
members = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("channel", "payload", "sender", "target", "sender_user", "expires_at", "report"), json_values
    ),
)


def test_no_signed_nonsense_is_stored_or_breaks_anything(tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=40)
    @given(
        st.lists(json_values | members.map(lambda each: payload("alice", "bob") | each), max_size=4),
        st.booleans(),
    )
    def check(values: list[Any], batched: bool) -> None:
        async def run() -> None:
            async with open_sites(tmp_path_factory.mktemp("site"), "a.test", "b.test", carry=False) as (a, b):
                shaped = {"type": "messages", "messages": values} if batched else values
                answer = await b.take(a.event(shaped, "b.test"))
                assert answer.status in (200, 400)
                for row in await b.rows("bob"):
                    assert row.frame_type == FrameType.MSG

        trio.run(run)

    check()
