"""Friends over the REST interface: the documents of the specification, and what bad input gets."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from commucat_proto import Frame, FrameType
from commucat_storage import Admission, AdmissionKind, Device, DeviceStatus
from server.connect_builders import NOW, Client
from server.people_builders import Api, running_api

WHEN = "2027-01-15T08:00:00+00:00"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as api:
        await api.enter("ann", "bob")
        yield api


async def befriend(api: Api, asker: str = "ann", asked: str = "bob") -> None:
    assert (await api.ask("POST", f"/api/friends/requests/{asked}", asker)).status == 201
    assert (await api.ask("POST", f"/api/friends/requests/{asker}/accept", asked)).status == 200


async def put(api: Api, *entries: Any, who: str = "ann") -> Any:
    answer = await api.ask("PUT", "/api/friends", who, json={"friends": list(entries)})
    assert answer.status == 200, answer.body
    return answer.json


async def event_of(client: Client) -> tuple[Frame, Any]:
    frame = await client.next_of(FrameType.GROUP_EVENT)
    return frame, frame.control


# -- lists ---------------------------------------------------------------------------------------------


async def test_a_list_is_replaced_and_given_back_with_no_devices_of_those_who_did_not_agree(api: Api) -> None:
    bob = api.user_id("bob")

    answer = await put(api, {"user_id": f" {bob} ", "alias": " Bobby "}, {"user_id": "ghost", "alias": "  "})

    wanted = {
        "friends": [{"user_id": bob, "alias": "Bobby"}, {"user_id": "ghost"}],
        "devices": {bob: [], "ghost": []},
    }
    assert answer == wanted
    listed = await api.ask("GET", "/api/friends", "ann")
    assert listed.json == wanted
    assert listed.headers["cache-control"] == "no-store"
    assert listed.headers["content-type"] == "application/json"
    assert (await api.ask("GET", "/api/friends", "bob")).json == {"friends": [], "devices": {}}
    assert await put(api) == {"friends": [], "devices": {}}


async def test_the_entries_of_the_terminal_client_of_2025_are_taken(api: Api) -> None:
    """It writes handle and alias as null; the reference server refused every list with that."""
    answer = await put(api, {"user_id": "u", "handle": None, "alias": None})

    assert answer["friends"] == [{"user_id": "u"}]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "invalid JSON payload"),
        (b"{", "invalid JSON payload"),
        (b'{"friends":[]', "invalid JSON payload"),
        (b'"\\ud800"', "invalid JSON payload"),
        (b"[]", "payload must be a JSON object"),
        (b"null", "payload must be a JSON object"),
        (b"{}", '"friends" field is required'),
        (b'{"friends":null}', '"friends" must be an array'),
        (b'{"friends":{}}', '"friends" must be an array'),
        (b'{"friends":["u"]}', "friend entry must be a JSON object"),
        (b'{"friends":[{"handle":"h"}]}', "friend entry must specify user_id; handle is not supported"),
        (b'{"friends":[{"user_id":"u","x":null}]}', "unexpected field in friend entry: x"),
        (b'{"friends":[{}]}', "friend.user_id is required"),
        (b'{"friends":[{"user_id":null}]}', "friend.user_id must be a non-empty string"),
        (b'{"friends":[{"user_id":7}]}', "friend.user_id must be a non-empty string"),
        (b'{"friends":[{"user_id":" "}]}', "friend.user_id must be a non-empty string"),
        (b'{"friends":[{"user_id":"u","alias":1}]}', "friend.alias must be a string if present"),
        (b'{"friends":[{"user_id":"u"},{"user_id":" u "}]}', "duplicate friend user_id: u"),
        (b'{"friends":[{"user_id":"a\\u0000b"}]}', "friend.user_id must not hold control characters"),
        (b'{"friends":[{"user_id":"u","alias":"a\\nb"}]}', "friend.alias must not hold control characters"),
        (
            orjson.dumps({"friends": [{"user_id": "u" * 129}]}),
            "friend.user_id is too long (max 128 characters)",
        ),
        (
            orjson.dumps({"friends": [{"user_id": "u", "alias": "u" * 129}]}),
            "friend.alias is too long (max 128 characters)",
        ),
        (orjson.dumps({"friends": [{"user_id": str(n)} for n in range(513)]}), "too many friends"),
        (b" " * (2**20 + 1), "request body too large (max 1024 KB)"),
        (b"[" * 5000, "invalid JSON payload"),
    ],
)
async def test_what_is_no_list_is_refused_and_changes_nothing(api: Api, body: bytes, detail: str) -> None:
    await put(api, {"user_id": "kept"})

    assert (await api.ask("PUT", "/api/friends", "ann", body=body)).refused(400) == detail

    assert (await api.ask("GET", "/api/friends", "ann")).json["friends"] == [{"user_id": "kept"}]


async def test_the_longest_list_is_taken(api: Api) -> None:
    longest = [{"user_id": f"{n}".ljust(128, "\U0001f600"), "alias": "\U0001f600" * 128} for n in range(512)]

    assert (await put(api, *longest))["friends"] == longest


async def test_friends_see_each_others_devices(api: Api) -> None:
    await befriend(api)
    ann, bob = api.user_id("ann"), api.user_id("bob")

    answer = (await api.ask("GET", "/api/friends", "ann")).json

    [snapshot] = answer["devices"][bob]
    key = snapshot.pop("public_key")
    assert bytes.fromhex(key)
    assert snapshot == {
        "device_id": "device-of-bob",
        "status": "active",
        "created_at": WHEN,
        "last_rotated_at": WHEN,
    }
    for name in ("bob", bob, "bob@localhost", "%62ob", f"%20{bob}"):
        one = await api.ask("GET", f"/api/friends/{name}/devices", "ann")
        assert one.json == {"friend": bob, "devices": [snapshot | {"public_key": key}]}
    assert (await api.ask("GET", "/api/friends/ann/devices", "bob")).json["friend"] == ann


async def test_devices_of_a_listed_user_who_did_not_agree_are_not_told(api: Api) -> None:
    """The reference server gave the devices and keys of anybody to anybody who put the id into a list."""
    bob = api.user_id("bob")
    await put(api, {"user_id": bob}, {"user_id": "ghost"})

    assert (await api.ask("GET", "/api/friends/bob/devices", "ann")).json == {"friend": bob, "devices": []}
    assert (await api.ask("GET", "/api/friends/ghost/devices", "ann")).json["devices"] == []
    assert (await api.ask("GET", "/api/friends/ann/devices", "bob")).refused(404) == "friend not found"


async def test_a_friend_is_removed_on_one_side_by_id_or_handle(api: Api) -> None:
    await befriend(api)

    gone = await api.ask("DELETE", "/api/friends/bob", "ann")

    assert (gone.status, gone.body, gone.headers["cache-control"]) == (204, b"", "no-store")
    assert (await api.ask("DELETE", "/api/friends/bob", "ann")).refused(404) == "friend not found"
    assert len((await api.ask("GET", "/api/friends", "bob")).json["friends"]) == 1
    await put(api, {"user_id": "no user"})
    assert (await api.ask("DELETE", "/api/friends/no%20user", "ann")).status == 204


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("DELETE", "/api/friends/%", 400, "invalid percent-encoding in friend user id"),
        ("DELETE", "/api/friends/a%2", 400, "invalid percent-encoding in friend user id"),
        ("DELETE", "/api/friends/%zz", 400, "invalid percent-encoding in friend user id"),
        ("DELETE", "/api/friends/%ff", 400, "friend user id must be valid UTF-8"),
        ("DELETE", "/api/friends/%20", 400, "missing friend user id"),
        ("DELETE", "/api/friends/", 400, "missing friend user id"),
        ("DELETE", "/api/friends/%00", 404, "friend not found"),
        ("DELETE", "/api/friends/x%00", 404, "friend not found"),
        ("DELETE", "/api/friends/nobody", 404, "friend not found"),
        ("GET", "/api/friends/%ff/devices", 400, "friend user id must be valid UTF-8"),
        ("GET", "/api/friends/%20/devices", 400, "missing friend user id"),
        ("GET", "/api/friends/x'%20OR%201=1--/devices", 404, "friend not found"),
        ("POST", "/api/friends/requests/%20", 400, "missing user id"),
        ("POST", "/api/friends/requests/%ff", 400, "friend user id must be valid UTF-8"),
        ("POST", "/api/friends/requests/nobody", 404, "user not found"),
        ("POST", "/api/friends/requests/x%00", 404, "user not found"),
        ("POST", "/api/friends/requests/carol@elsewhere.example", 400, "unknown domain: elsewhere.example"),
        ("POST", "/api/friends/requests/a@b@c.example", 400, "unknown domain: c.example"),
        ("POST", "/api/friends/requests/x@y/accept", 400, "unknown domain: y"),
        ("POST", "/api/friends/requests/nobody/accept", 404, "user not found"),
        ("POST", "/api/friends/requests/bob/accept", 404, "friend request not found"),
        ("POST", "/api/friends/requests/bob/reject", 404, "friend request not found"),
        ("POST", "/api/friends/requests/%20/reject", 400, "missing user id"),
        ("POST", "/api/friends/requests/ann", 400, "cannot send friend request to yourself"),
        ("POST", "/api/friends/requests/ann@LOCALHOST", 400, "cannot send friend request to yourself"),
    ],
)
async def test_paths_that_name_nobody(api: Api, method: str, path: str, status: int, detail: str) -> None:
    assert (await api.ask(method, path, "ann")).refused(status) == detail


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/friends"),
        ("PUT", "/api/friends"),
        ("DELETE", "/api/friends/bob"),
        ("GET", "/api/friends/bob/devices"),
        ("GET", "/api/friends/requests"),
        ("POST", "/api/friends/requests/bob"),
        ("POST", "/api/friends/requests/bob/accept"),
        ("POST", "/api/friends/requests/bob/reject"),
    ],
)
async def test_nobody_gets_in_without_a_session(api: Api, method: str, path: str) -> None:
    assert (await api.ask(method, path)).refused(401) == "missing Authorization header"
    wrong = await api.ask(method, path, headers={"authorization": "Bearer " + "0" * 64})
    assert wrong.refused(401) == "session not found or expired"
    await api.server.storage.revoke_device("device-of-ann", NOW)
    revoked = await api.ask(method, path, "ann")
    assert revoked.status in (401, 403)


# -- requests ------------------------------------------------------------------------------------------


async def test_a_request_is_told_listed_and_accepted(api: Api) -> None:
    ann, bob = api.user_id("ann"), api.user_id("bob")

    sent = await api.ask("POST", "/api/friends/requests/bob", "ann", json={"message": "hello\nthere"})

    assert sent.status == 201
    request = sent.json["request"]
    assert request == {
        "id": request["id"],
        "from_user_id": ann,
        "to_user_id": bob,
        "status": "pending",
        "message": "hello\nthere",
        "created_at": WHEN,
        "updated_at": WHEN,
    }
    assert sent.json["to_user"] == {
        "user_id": bob,
        "handle": "bob",
        "display_name": None,
        "avatar_url": None,
    }
    frame, event = await event_of(api.clients["bob"])
    assert frame.channel == 5
    assert event == {
        "type": "friend_request",
        "request_id": request["id"],
        "from": "ann@localhost",
        "from_user_id": ann,
        "user_id": bob,
        "handle": "bob",
        "federated": False,
        "message": "hello\nthere",
        "target_device": "device-of-bob",
        "timestamp": WHEN,
    }
    assert (await api.ask("GET", "/api/friends/requests", "bob")).json == {
        "incoming": [request],
        "outgoing": [],
        "federated": [],
    }

    accepted = await api.ask("POST", "/api/friends/requests/ann/accept", "bob")

    assert accepted.status == 200
    assert accepted.json["request"] == request | {"status": "accepted"}
    assert accepted.json["from_user"]["user_id"] == ann
    _, told = await event_of(api.clients["ann"])
    assert (told["type"], told["accept"], told["from"], told["user_id"]) == (
        "friend_response",
        True,
        "bob@localhost",
        ann,
    )
    listed = (await api.ask("GET", "/api/friends/requests", "ann")).json
    assert (listed["incoming"], [each["status"] for each in listed["outgoing"]]) == ([], ["accepted"])
    for who, other in (("ann", bob), ("bob", ann)):
        assert (await api.ask("GET", "/api/friends", who)).json["friends"] == [{"user_id": other}]


async def test_a_rejected_request_changes_no_list_and_may_be_repeated(api: Api) -> None:
    first = (await api.ask("POST", "/api/friends/requests/bob", "ann")).json["request"]

    rejected = await api.ask("POST", f"/api/friends/requests/{api.user_id('ann')}/reject", "bob", body=b"{}")

    assert rejected.json["request"]["status"] == "rejected"
    assert (await api.ask("GET", "/api/friends", "bob")).json["friends"] == []
    _, told = await event_of(api.clients["ann"])
    assert told["accept"] is False
    again = await api.ask("POST", "/api/friends/requests/ann/reject", "bob")
    assert again.refused(400) == "request is not pending"
    assert (await api.ask("POST", "/api/friends/requests/ann/accept", "bob")).refused(400)
    repeated = (await api.ask("POST", "/api/friends/requests/bob@localhost", "ann")).json["request"]
    assert (repeated["id"], repeated["status"]) == (first["id"], "pending")
    twice = await api.ask("POST", "/api/friends/requests/bob", "ann")
    assert twice.refused(409) == "friend request already exists"
    assert twice.json["title"] == "Conflict"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"message":null}', b'{"x":1}'])
async def test_a_request_needs_no_words(api: Api, body: bytes) -> None:
    sent = await api.ask("POST", "/api/friends/requests/bob", "ann", body=body)

    assert sent.json["request"]["message"] is None


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"x", "invalid JSON payload"),
        (b"[]", "payload must be a JSON object"),
        (b'{"message":1}', "message must be a string if present"),
        (b'{"message":"a\\u0000"}', "message must not hold control characters"),
        (orjson.dumps({"message": "x" * 501}), "message is too long (max 500 characters)"),
        (b" " * 65_537, "request body too large (max 64 KB)"),
    ],
)
async def test_a_request_with_wrong_words_is_not_sent(api: Api, body: bytes, detail: str) -> None:
    assert (await api.ask("POST", "/api/friends/requests/bob", "ann", body=body)).refused(400) == detail

    assert (await api.ask("GET", "/api/friends/requests", "ann")).json["outgoing"] == []


async def test_notices_wait_for_devices_that_are_away_and_reach_each_of_them(api: Api) -> None:
    second = Device(
        device_id="bob-2",
        user_id=api.user_id("bob"),
        public_key=bytes(31) + b"\x01",
        status=DeviceStatus.ACTIVE,
        created_at=NOW,
    )
    await api.server.storage.admit(
        Admission(kind=AdmissionKind.BY_HANDLE, device=second, device_limit=9, now=NOW)
    )

    await api.ask("POST", "/api/friends/requests/bob", "ann")

    page = await api.server.storage.read_after("bob-2", 0, limit_rows=9, limit_bytes=2**20, now=NOW)
    [row] = page.rows
    assert orjson.loads(row.payload)["target_device"] == "bob-2"
    assert (row.frame_type, row.channel) == (FrameType.GROUP_EVENT, 5)
    _, event = await event_of(api.clients["bob"])
    assert event["target_device"] == "device-of-bob"


async def presence_of(client: Client, device_id: str, state: str) -> None:
    while True:
        value = (await client.next_presence()).control
        assert isinstance(value, dict)
        if (value["entity"], value["state"]) == (device_id, state):
            return


async def test_friends_are_told_of_each_others_presence_and_strangers_are_not(api: Api) -> None:
    await api.enter("carol")
    ann, bob, carol = (api.clients[name] for name in ("ann", "bob", "carol"))
    await put(api, {"user_id": api.user_id("ann")}, who="carol")

    await befriend(api)

    # At once, both of the other; then whenever it changes.
    await presence_of(ann, "device-of-bob", "online")
    await presence_of(bob, "device-of-ann", "online")
    ann.send(FrameType.PRESENCE, 0, {"state": "away"})
    await presence_of(bob, "device-of-ann", "away")
    bob.stream.lose()
    await presence_of(ann, "device-of-bob", "offline")
    # What carol has been sent is all there is: it lists ann, who does not list it.
    carol.send(FrameType.PRESENCE, 0, {"state": "still here"})
    answer = await carol.join(7, "device-of-ann")
    assert "ack" in answer
    assert (carol.waiting, carol.presence) == ((), [])


async def test_a_client_that_leaves_in_the_middle_of_its_body_changes_nothing(api: Api) -> None:
    body = orjson.dumps({"friends": [{"user_id": "u"}]})

    await api.ask("PUT", "/api/friends", "ann", body=[body[:5]], leaves=True)

    assert (await api.ask("GET", "/api/friends", "ann")).json["friends"] == []


async def test_the_head_of_a_list_can_be_asked_for_and_other_methods_do_not_exist(api: Api) -> None:
    assert (await api.ask("HEAD", "/api/friends", "ann")).status == 200
    assert (await api.ask("PATCH", "/api/friends", "ann")).status == 404
    assert (await api.ask("GET", "/api/friends/requests/bob", "ann")).status == 404
