"""Friend requests between users of two servers, and what friends and senders may ask of the other server."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from commucat_crypto import DeviceKeyPair
from commucat_proto import json_text
from commucat_proto.federation import FriendEvent, FriendEventKind
from commucat_server.federation.addresses import FRIENDS_PATH, QUERY_PATH
from commucat_server.federation.client import PeerAnswer
from commucat_server.federation.queries import PeerQuestionError
from commucat_server.federation.queueing import NotQueuedError
from commucat_server.ops.times import rfc3339_micros
from commucat_storage import FriendRefusal, FriendRefusedError, RequestStatus, User
from server.federation_builders import DAY, LIFETIME, Site, open_sites, wires_of

STRANGER = DeviceKeyPair.from_seed(b"s" * 32)


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[list[Site]]:
    async with open_sites(tmp_path, "a.test", "b.test") as sites:
        yield sites


async def user_of(site: Site, handle: str) -> User:
    found = await site.storage.load_user_by_handle(handle, site.domain)
    assert found is not None
    return found


async def notices(site: Site, device_id: str, count: int) -> list[dict[str, Any]]:
    return [json.loads(row.payload) for row in await site.wait_for(device_id, count)]


async def friends(site: Site, handle: str) -> list[str]:
    return [each.user_id for each in await site.storage.friends_of((await user_of(site, handle)).user_id)]


def event(site: Site, **changes: Any) -> FriendEvent:
    made = FriendEvent(
        kind=FriendEventKind.REQUEST,
        request_id="req-1",
        sender=f"alice@{site.domain}",
        recipient="bob@b.test",
        timestamp=rfc3339_micros(int(site.clock() * 10**6)),
        message="hi",
    )
    return attrs.evolve(made, **changes)


async def deliver(site: Site, told: FriendEvent, keys: DeviceKeyPair) -> PeerAnswer:
    body = json_text.dumps(told.sign(keys).to_wire())
    return await site.answer(FRIENDS_PATH, body, batches=True)


@pytest.mark.parametrize("accept", [True, False])
async def test_a_request_is_asked_and_answered(sites: list[Site], accept: bool) -> None:
    a, b = sites
    alice, bob = await user_of(a, "alice"), await user_of(b, "bob")

    asked = await a.federation.friends.ask(alice, "bob@b.test", "let us talk")
    [notice] = await notices(b, "bob", 1)
    [incoming] = await b.storage.remote_requests(bob.user_id)
    await b.federation.friends.answer(bob, incoming.request_id, accept=accept)
    [answer] = await notices(a, "alice", 1)

    assert (notice["type"], notice["from"], notice["federated"]) == ("friend_request", "alice@a.test", True)
    assert (notice["message"], notice["handle"]) == ("let us talk", "bob")
    assert incoming.request_id == asked.request_id == notice["request_id"]
    assert (answer["type"], answer["from"], answer["accept"]) == ("friend_response", "bob@b.test", accept)
    [outgoing] = await a.storage.remote_requests(alice.user_id)
    assert outgoing.status is (RequestStatus.ACCEPTED if accept else RequestStatus.REJECTED)
    assert await friends(a, "alice") == (["bob@b.test"] if accept else [])
    assert await friends(b, "bob") == (["alice@a.test"] if accept else [])


async def test_a_request_that_comes_again_is_shown_once(sites: list[Site]) -> None:
    a, b = sites
    assert (await deliver(b, event(a), a.keys)).document == {"status": "accepted", "request_id": "req-1"}
    assert (await deliver(b, event(a), a.keys)).status == 200
    assert len(await notices(b, "bob", 1)) == 1
    # The same id with other words is another request, which there cannot be.
    assert (await deliver(b, event(a, message="other"), a.keys)).status == 409


@pytest.mark.parametrize(
    ("changes", "status", "detail"),
    [
        ({"sender": "alice"}, 400, "'from' must include domain"),
        ({"recipient": "bob@c.test"}, 400, "target domain 'c.test' does not match server domain 'b.test'"),
        ({"recipient": "bob"}, 400, "target domain '' does not match server domain 'b.test'"),
        ({"sender": "alice@c.test"}, 403, "unknown peer: c.test"),
        ({"recipient": "nobody@b.test"}, 404, "user not found"),
        (
            {"timestamp": "2001-01-01T00:00:00Z"},
            403,
            "created_at is too far from now; are both clocks right?",
        ),
    ],
)
async def test_a_wrong_request_is_refused(
    sites: list[Site], changes: dict[str, Any], status: int, detail: str
) -> None:
    a, b = sites
    answer = await deliver(b, event(a, **changes), a.keys)
    assert (answer.status, answer.document["detail"]) == (status, detail)
    assert await b.rows("bob") == []


async def test_a_request_that_the_peer_did_not_sign_is_refused(sites: list[Site]) -> None:
    a, b = sites
    answer = await deliver(b, event(a), STRANGER)
    assert (answer.status, answer.document["detail"]) == (403, "invalid signature")
    for body in (b"", b"{", b"[]", b'{"type": "friend_wish"}'):
        assert (await b.answer(FRIENDS_PATH, body, batches=True)).status == 400


async def test_only_who_was_asked_can_answer(tmp_path: Path) -> None:
    async with open_sites(tmp_path, "a.test", "b.test", "c.test") as (a, b, c):
        alice = await user_of(a, "alice")
        asked = await a.federation.friends.ask(alice, "bob@b.test", None)

        def answered(site: Site, sender: str) -> FriendEvent:
            return event(
                site,
                kind=FriendEventKind.RESPONSE,
                request_id=asked.request_id,
                sender=sender,
                recipient="alice@a.test",
                message=None,
                accept=True,
            )

        assert (await deliver(a, answered(c, "carol@c.test"), c.keys)).status == 404
        assert (await deliver(a, answered(c, "bob@b.test"), c.keys)).status == 403
        assert await friends(a, "alice") == []
        # A peer cannot answer what its user was never asked.
        unknown = attrs.evolve(answered(b, "bob@b.test"), request_id="never")
        assert (await deliver(a, unknown, b.keys)).status == 404
        assert (await deliver(a, answered(b, "bob@b.test"), b.keys)).status == 200
        assert await friends(a, "alice") == ["bob@b.test"]
        # An answer stays: another one is a conflict, the same one harmless.
        assert (await deliver(a, answered(b, "bob@b.test"), b.keys)).status == 200
        changed = attrs.evolve(answered(b, "bob@b.test"), accept=False)
        assert (await deliver(a, changed, b.keys)).status == 409


async def test_a_request_waits_for_a_server_that_is_away(sites: list[Site]) -> None:
    a, b = sites
    wires_of(a).cut.add("b.test")
    await a.federation.friends.ask(await user_of(a, "alice"), "bob@b.test", None)
    await a.write("alice", "bob@b.test", "behind it")
    wires_of(a).cut.clear()
    notice, message = await b.wait_for("bob", 2)
    assert json.loads(notice.payload)["type"] == "friend_request"
    assert message.payload == b"behind it"


async def test_an_event_that_cannot_be_queued_is_no_success(sites: list[Site]) -> None:
    a, _ = sites
    await a.storage.set_outbox("b.test", open=False)
    with pytest.raises(NotQueuedError, match="unknown_domain"):
        await a.federation.friends.ask(await user_of(a, "alice"), "bob@b.test", None)


async def test_nobody_answers_for_somebody_else(sites: list[Site]) -> None:
    a, b = sites
    await a.federation.friends.ask(await user_of(a, "alice"), "bob@b.test", None)
    await b.wait_for("bob", 1)
    [incoming] = await b.storage.remote_requests((await user_of(b, "bob")).user_id)
    mallory = User(user_id="user-mallory", handle="mallory", domain="b.test", created_at=1)
    with pytest.raises(FriendRefusedError) as caught:
        await b.federation.friends.answer(mallory, incoming.request_id, accept=True)
    assert caught.value.refusal is FriendRefusal.NO_REQUEST


# -- questions ---------------------------------------------------------------------------------------


async def test_a_certificate_is_given_with_the_key_that_signed_it(sites: list[Site]) -> None:
    a, b = sites
    certificate, authority = await a.federation.questions.certificate("bob@b.test")
    assert (certificate.device_id, authority) == ("bob", b.keys.public)
    certificate.verify(b.keys.public)


@pytest.mark.parametrize(
    ("address", "known", "found"),
    [
        ("bob@c.test", False, True),
        ("nobody@b.test", True, False),
        ("bob", False, True),
        ("\0@b.test", False, True),
    ],
)
async def test_no_certificate_of_a_device_that_is_not_there(
    sites: list[Site], address: str, known: bool, found: bool
) -> None:
    with pytest.raises(PeerQuestionError) as caught:
        await sites[0].federation.questions.certificate(address)
    assert (caught.value.known, caught.value.found) == (known, found)


async def test_a_certificate_of_somebody_else_counts_for_nothing(sites: list[Site]) -> None:
    a, b = sites
    own, _ = await b.federation.questions.certificate("alice@a.test")
    good, _ = await a.federation.questions.certificate("bob@b.test")
    for told in (own.to_wire(), {**good.to_wire(), "device_id": "eve"}, None, {}):
        wires_of(a).answers["b.test"] = PeerAnswer(200, {"certificate": told})
        with pytest.raises(PeerQuestionError, match="no certificate that it signed"):
            await a.federation.questions.certificate("bob@b.test")


async def test_devices_are_shown_to_friends_only(sites: list[Site]) -> None:
    a, b = sites
    ask = a.federation.questions.friend_devices
    assert await ask("bob@b.test", "alice@a.test") == ()
    asked = await a.federation.friends.ask(await user_of(a, "alice"), "bob@b.test", None)
    await b.wait_for("bob", 1)
    await b.federation.friends.answer(await user_of(b, "bob"), asked.request_id, accept=True)

    [device] = await ask("bob@b.test", "alice@a.test")

    assert device.device_id == "bob@b.test"
    stored = await b.storage.load_device("bob")
    assert stored is not None
    assert device.public_key == stored.public_key
    # A peer asks for its own users only.
    question: Any = {"type": "friend_devices", "user": "bob", "friend": "carol@c.test"}
    answer = await b.answer(QUERY_PATH, a.event(question, "b.test"), batches=True)
    assert answer.status == 400


@pytest.mark.parametrize("question", [None, {}, {"type": "secrets"}, {"type": "certificate", "device": 7}])
async def test_other_questions_have_no_answer(sites: list[Site], question: Any) -> None:
    a, b = sites
    assert (await b.answer(QUERY_PATH, a.event(question, "b.test"), batches=True)).status == 400


@pytest.mark.parametrize(
    "devices",
    [
        None,
        7,
        [7],
        [{"device_id": "x"}],
        [{"device_id": "x", "public_key": "zz", "status": "active", "created_at": 1}],
        [{"device_id": "x", "public_key": "00", "status": "great", "created_at": 1}],
        [{"device_id": "x", "public_key": "00", "status": "active", "created_at": 2**80}],
        [{}] * 20_000,
    ],
)
async def test_an_answer_that_is_none_is_told_as_that(sites: list[Site], devices: Any) -> None:
    a, _ = sites
    wires_of(a).answers["b.test"] = PeerAnswer(200, {"devices": devices})
    with pytest.raises(PeerQuestionError, match=r"b\.test sent"):
        await a.federation.questions.friend_devices("bob@b.test", "alice@a.test")


async def test_a_question_to_a_server_that_is_away_fails(sites: list[Site]) -> None:
    a, _ = sites
    wires_of(a).cut.add("b.test")
    with trio.fail_after(60), pytest.raises(PeerQuestionError, match=r"b\.test cannot be asked: cut off"):
        await a.federation.questions.certificate("bob@b.test")


async def test_an_old_question_is_not_answered(sites: list[Site]) -> None:
    a, b = sites
    old = a.event({"type": "certificate", "device": "bob"}, "b.test", created_at=0)
    assert (await b.answer(QUERY_PATH, old, batches=True)).status == 403
    assert b.clock() > LIFETIME + DAY
