"""Devices, their keys and sessions over REST."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from commucat_crypto import (
    DeviceCertificate,
    DeviceKeyPair,
    history_statement,
    rotation_statement,
    verify_signature,
)
from commucat_ledger.key_chain import KeyChainEvent, links_of
from commucat_proto import FrameType
from commucat_server.ops.upkeep import REVOCATION_INTERVAL
from commucat_storage import DeviceStatus, RefusalReason, Submission
from server.connect_builders import AUTHORITY, NOW, Client, Person
from server.rest_builders import Reply, Rest, running_rest

ALICE = Person(handle="alice")
BOB = Person(handle="bob")
NEW = DeviceKeyPair.from_private(bytes([9]) * 32)
INTERVAL = 600
"""Seconds between two changes of a key: less than the life of a token."""


@pytest.fixture
async def now() -> list[float]:
    return [float(NOW)]


@pytest.fixture
async def rest(tmp_path: Path, now: list[float]) -> AsyncIterator[Rest]:
    policy = {"min_interval": INTERVAL}
    async with running_rest(tmp_path, clock=lambda: now[0], rotation_policy=policy) as rest:
        yield rest


async def paired(rest: Rest, alice: Client) -> tuple[Person, Client]:
    """A second device of alice, connected."""
    code = (await rest.ask("POST", "/api/pair", token=alice.token)).json["pair_code"]
    got = (await rest.ask("POST", "/api/pair/claim", {"pair_code": code})).json
    keys = DeviceKeyPair.from_private(bytes.fromhex(got["private_key"]))
    phone = Person(handle="alice", device_id=got["device_id"], keys=keys)
    return phone, await rest.connect(phone)


def rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def csr(
    device_id: str = ALICE.device_id,
    old: DeviceKeyPair = ALICE.keys,
    new: DeviceKeyPair = NEW,
    *,
    expires_at: int = NOW + INTERVAL + 60,
    nonce: bytes | None = b"12345678",
    **changes: Any,
) -> dict[str, Any]:
    statement = rotation_statement(device_id, new.public, expires_at=expires_at, nonce=nonce or b"")
    body: dict[str, Any] = {
        "public_key": new.public.hex(),
        "signature": old.sign(statement).hex(),
        "expires_at": rfc3339(expires_at),
        "nonce": None if nonce is None else nonce.hex(),
        "new_key_signature": new.sign(statement).hex(),
    }
    return body | changes


async def rotate(rest: Rest, client: Client, body: Any) -> Reply:
    return await rest.ask("POST", "/api/device/csr", body, token=client.token)


async def error_of(client: Client) -> str:
    """Why the server ends a session."""
    frame = await client.next_of(FrameType.ERROR)
    value: Any = frame.control
    assert await client.next_frame() is None
    return str(value["error"])


# -- listing and revoking --------------------------------------------------------------------------------


async def test_devices_of_the_user_are_listed_oldest_first_and_those_of_others_are_not(
    rest: Rest, now: list[float]
) -> None:
    alice, _ = await rest.connect(ALICE), await rest.connect(BOB)
    now[0] += 5
    phone, _ = await paired(rest, alice)

    answer = await rest.ask("GET", "/api/devices", token=alice.token)

    assert answer.status == 200
    assert answer.json == {
        "devices": [
            {
                "device_id": ALICE.device_id,
                "status": "active",
                "created_at": "2027-01-15T08:00:00+00:00",
                "public_key": ALICE.keys.public.hex(),
                "current": True,
            },
            {
                "device_id": phone.device_id,
                "status": "active",
                "created_at": "2027-01-15T08:00:05+00:00",
                "public_key": phone.keys.public.hex(),
                "current": False,
            },
        ]
    }


async def test_a_revoked_device_loses_session_token_certificate_and_queue_at_once(rest: Rest) -> None:
    alice = await rest.connect(ALICE)
    phone, client = await paired(rest, alice)
    sender = await rest.connect(BOB)
    storage = rest.server.storage
    event_count = len(await storage.key_events(phone.device_id))

    answer = await rest.ask("POST", "/api/devices/revoke", {"device_id": phone.device_id}, token=alice.token)

    assert answer.json == {"device_id": phone.device_id, "status": "revoked"}
    assert await error_of(client) == "revoked"
    assert (await rest.ask("GET", "/api/devices", token=client.token)).status == 401
    assert await storage.newest_certificate(phone.device_id) is None
    stored = await storage.load_device(phone.device_id)
    assert stored is not None
    assert stored.status is DeviceStatus.REVOKED
    assert len(await storage.key_events(phone.device_id)) == event_count + 1
    [record] = rest.records.of(action="revoke", device=phone.device_id)
    assert (record["by"], record["source"], record["event"]) == (ALICE.device_id, "device", "revoke")
    assert (await rest.connect(phone)).refused is not None
    await sender.join(7, phone.device_id)
    refused = await sender.message(7, b"x")
    assert refused["refused"][0]["reason"] == RefusalReason.REVOKED.value
    again = await rest.ask("POST", "/api/devices/revoke", {"device_id": phone.device_id}, token=alice.token)
    assert again.status == 200
    assert len(rest.records.of(action="revoke", device=phone.device_id)) == 1


async def test_the_queue_of_a_revoked_device_is_purged_without_waiting_for_the_next_round(rest: Rest) -> None:
    alice = await rest.connect(ALICE)
    phone, client = await paired(rest, alice)
    client.stream.lose()
    storage = rest.server.storage
    waiting = Submission("", 1, FrameType.MSG, b"secret", NOW + INTERVAL, (phone.device_id,))
    await storage.commit([waiting])

    await rest.ask("POST", "/api/devices/revoke", {"device_id": phone.device_id}, token=alice.token)

    with trio.fail_after(60):
        while (await storage.read_after(phone.device_id, 0, limit_rows=1, limit_bytes=1, now=NOW)).rows:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"", 400, "device_id is required"),
        ({"device_id": ""}, 400, "device_id is required"),
        ({"device_id": None}, 400, "device_id is required"),
        ({"device_id": 7}, 400, "invalid JSON payload"),
        (b"{", 400, "invalid JSON payload"),
        ({"device_id": ALICE.device_id}, 409, "cannot revoke active session device"),
        ({"device_id": "nobody"}, 404, "device not found"),
        ({"device_id": "' OR 1=1 --"}, 404, "device not found"),
        ({"device_id": "a\0b"}, 404, "device not found"),
        ({"device_id": BOB.device_id}, 403, "access denied"),
    ],
)
async def test_only_other_devices_of_the_same_user_can_be_revoked(
    rest: Rest, body: Any, status: int, detail: str
) -> None:
    alice, _ = await rest.connect(ALICE), await rest.connect(BOB)

    answer = await rest.ask("POST", "/api/devices/revoke", body, token=alice.token)

    assert (answer.status, answer.detail) == (status, detail)
    assert await rest.server.storage.not_active([ALICE.device_id, BOB.device_id]) == frozenset()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/devices"),
        ("POST", "/api/device/csr"),
        ("POST", "/api/devices/revoke"),
        ("POST", "/api/devices/approve"),
        ("POST", "/api/devices/reject"),
        ("GET", "/api/devices/x/certificate"),
        ("GET", "/api/devices/x/key-events"),
        ("DELETE", "/api/session"),
    ],
)
async def test_nothing_is_told_or_done_without_a_session(rest: Rest, method: str, path: str) -> None:
    answer = await rest.ask(method, path)
    assert (answer.status, answer.detail) == (401, "missing Authorization header")
    answer = await rest.ask(method, path, token="0" * 64)
    assert (answer.status, answer.detail) == (401, "session not found or expired")


# -- sessions --------------------------------------------------------------------------------------------


async def test_logging_out_deletes_the_token_and_ends_its_session_within_a_second(rest: Rest) -> None:
    alice, bob = await rest.connect(ALICE), await rest.connect(BOB)

    answer = await rest.ask("DELETE", "/api/session", token=alice.token)

    assert (answer.status, answer.body) == (204, b"")
    assert (await rest.ask("GET", "/api/devices", token=alice.token)).status == 401
    assert REVOCATION_INTERVAL < 1
    assert await error_of(alice) == "ended"
    assert (await bob.join(1, ALICE.device_id)).get("ack")
    assert (await rest.connect(ALICE)).ack["session"] != alice.token


# -- keys ------------------------------------------------------------------------------------------------


async def test_a_new_key_proved_by_the_old_one_takes_its_place_everywhere(
    rest: Rest, now: list[float]
) -> None:
    alice = await rest.connect(ALICE)
    now[0] += INTERVAL
    old_certificate = alice.ack["device_certificate"]

    answer = await rotate(rest, alice, csr())

    assert answer.status == 200, answer.body
    got = answer.json
    assert got["public_key"] == NEW.public.hex()
    assert got["old_public_key"] == ALICE.keys.public.hex()
    assert got["applied_at"] == rfc3339(now[0])
    assert got["proof_expires_at"] == rfc3339(NOW + INTERVAL + 60)
    certificate = DeviceCertificate.from_wire(got["certificate"])
    certificate.verify(AUTHORITY.public)
    assert certificate.public_key == NEW.public
    assert await error_of(alice) == "key_changed"
    assert (await rest.ask("GET", "/api/devices", token=alice.token)).status == 401
    assert (await rest.connect(ALICE)).refused is not None
    shown = DeviceCertificate.from_wire(old_certificate)
    assert (await rest.connect(ALICE, certificate=shown)).refused is not None
    renewed = await rest.connect(Person(handle="alice", keys=NEW))
    assert renewed.ack["device_certificate"] == got["certificate"]
    [record] = rest.records.of(action="rotate")
    assert (record["source"], record["rotation_id"]) == ("device-csr", got["rotation_id"])
    assert record["event_id"] == got["event_id"]
    assert rest.server.context.counters.device_rotations == 1


async def test_devices_that_write_to_it_are_told_and_can_check_the_old_keys_word(
    rest: Rest, now: list[float]
) -> None:
    alice, bob = await rest.connect(ALICE), await rest.connect(BOB)
    stranger = Person(handle="stranger")
    await rest.connect(stranger)
    _, phone = await paired(rest, alice)
    await alice.join(5, BOB.device_id)
    await bob.join(5, ALICE.device_id)
    now[0] += INTERVAL
    body = csr()

    assert (await rotate(rest, alice, body)).status == 200

    for client in (bob, phone):
        frame = await client.next_of(FrameType.KEY_UPDATE)
        update: Any = frame.control
        assert (frame.channel, update["type"]) == (0, "device-key-rotated")
        statement = rotation_statement(
            update["device_id"],
            bytes.fromhex(update["public_key"]),
            expires_at=update["proof_expires_at"],
            nonce=bytes.fromhex(update["nonce"]),
        )
        verify_signature(
            bytes.fromhex(update["old_public_key"]), statement, bytes.fromhex(update["signature"])
        )
        assert update["old_public_key"] == ALICE.keys.public.hex()
        assert update["expires_at"] == update["certificate"]["expires_at"]
    state = await rest.server.storage.inbox_state(stranger.device_id)
    assert state is not None
    assert state.next_number == 1


@pytest.mark.parametrize(
    ("changes", "status", "detail"),
    [
        ({"public_key": "xx"}, 400, "invalid public_key"),
        ({"public_key": None}, 400, "invalid public_key"),
        ({"public_key": 5}, 400, "invalid JSON payload"),
        ({"signature": "00"}, 400, "invalid signature encoding"),
        ({"signature": None}, 400, "invalid signature encoding"),
        ({"expires_at": None}, 400, "invalid expires_at"),
        ({"expires_at": "2027-01-16"}, 400, "invalid expires_at"),
        ({"expires_at": "2027-01-15T08:11:00"}, 400, "invalid expires_at"),
        ({"expires_at": "2027-02-30T08:01:00Z"}, 400, "invalid expires_at"),
        ({"expires_at": "0001-01-01T00:00:00+23:59"}, 400, "proof expired"),
        ({"expires_at": 1_800_000_660}, 400, "invalid JSON payload"),
        ({"expires_at": "2027-01-15T08:10:00Z"}, 400, "proof expired"),
        ({"expires_at": "2027-01-15T08:20:01Z"}, 400, "expires_at exceeds proof_ttl"),
        ({"expires_at": "9999-12-31T23:59:59Z"}, 400, "expires_at exceeds proof_ttl"),
        ({"nonce": "00" * 7}, 400, "invalid nonce"),
        ({"nonce": "00" * 65}, 400, "invalid nonce"),
        ({"nonce": "0"}, 400, "invalid nonce"),
        ({"nonce": ""}, 400, "invalid nonce"),
        ({"public_key": ALICE.keys.public.hex()}, 409, "public key unchanged"),
        ({"public_key": "01" + "00" * 31}, 400, "public_key is not a proper Ed25519 key"),
        ({"signature": "00" * 64}, 400, "signature verification failed"),
        ({"expires_at": "2027-01-15T08:11:01Z"}, 400, "signature verification failed"),
        ({"nonce": "00" * 8}, 400, "signature verification failed"),
        ({"nonce": None}, 400, "signature verification failed"),
        ({"public_key": BOB.keys.public.hex()}, 400, "signature verification failed"),
        ({"new_key_signature": "00" * 64}, 400, "the new key's signature verification failed"),
    ],
)
async def test_bad_requests_for_a_new_key_change_nothing(
    rest: Rest, now: list[float], changes: dict[str, Any], status: int, detail: str
) -> None:
    alice = await rest.connect(ALICE)
    now[0] += INTERVAL

    answer = await rotate(rest, alice, csr() | changes)

    assert (answer.status, answer.detail) == (status, detail)
    stored = await rest.server.storage.load_device(ALICE.device_id)
    assert stored is not None
    assert stored.public_key == ALICE.keys.public
    assert (await rest.ask("GET", "/api/devices", token=alice.token)).status == 200


@pytest.mark.parametrize(("body", "detail"), [(b"", "request body required"), (b"x", "invalid JSON payload")])
async def test_a_request_for_a_new_key_needs_a_body(rest: Rest, body: bytes, detail: str) -> None:
    alice = await rest.connect(ALICE)

    answer = await rotate(rest, alice, body)

    assert (answer.status, answer.detail) == (400, detail)


@pytest.mark.parametrize("spelled", ["2027-01-15T08:11:00Z", "2027-01-15t09:11:00.000000000+01:00"])
@pytest.mark.parametrize("nonce", [None, bytes(8), bytes(64)])
async def test_the_proof_may_be_spelled_in_any_form_of_rfc_3339(
    rest: Rest, now: list[float], spelled: str, nonce: bytes | None
) -> None:
    alice = await rest.connect(ALICE)
    now[0] += INTERVAL

    answer = await rotate(rest, alice, csr(nonce=nonce, new_key_signature=None) | {"expires_at": spelled})

    assert answer.status == 200, answer.body


async def test_keys_change_at_most_once_in_the_configured_interval(rest: Rest, now: list[float]) -> None:
    alice = await rest.connect(ALICE)
    now[0] += INTERVAL - 1
    early = await rotate(rest, alice, csr())
    later = datetime.fromtimestamp(now[0] + 1, UTC).isoformat()
    assert early.status == 409
    assert early.detail == f"rotation interval not elapsed; try again at {later}"
    now[0] += 1
    assert (await rotate(rest, alice, csr())).status == 200
    renewed = await rest.connect(Person(handle="alice", keys=NEW))
    now[0] += INTERVAL

    back = await rotate(rest, renewed, csr(old=NEW, new=ALICE.keys, expires_at=NOW + 2 * INTERVAL + 60))

    assert (back.status, back.detail) == (409, "public key was used before")


async def test_where_keys_may_not_change_the_path_is_unknown(tmp_path: Path) -> None:
    async with running_rest(tmp_path, rotation_policy={"enabled": False}) as rest:
        alice = await rest.connect(ALICE)
        assert (await rotate(rest, alice, csr())).status == 404


# -- history ---------------------------------------------------------------------------------------------


async def test_a_device_sees_the_chain_of_its_keys_signed_by_the_server(rest: Rest, now: list[float]) -> None:
    alice = await rest.connect(ALICE)
    now[0] += INTERVAL
    await rotate(rest, alice, csr())
    client = await rest.connect(Person(handle="alice", keys=NEW))

    answer = await rest.ask("GET", f"/api/devices/{ALICE.device_id}/key-events", token=client.token)

    got = answer.json
    assert got["device_id"] == ALICE.device_id
    assert [each["public_key"] for each in got["events"]] == [ALICE.keys.public.hex(), NEW.public.hex()]
    events = [
        KeyChainEvent(
            event_id=each["event_id"],
            device_id=ALICE.device_id,
            public_key=bytes.fromhex(each["public_key"]),
            recorded_at=each["recorded_at"],
        )
        for each in got["events"]
    ]
    assert [link.hex() for link in links_of(events)] == [each["link"] for each in got["events"]]
    head = got["head"]
    assert head["key"] == AUTHORITY.public.hex()
    statement = history_statement(
        ALICE.device_id, events=2, link=bytes.fromhex(head["link"]), signed_at=head["signed_at"]
    )
    verify_signature(AUTHORITY.public, statement, bytes.fromhex(head["signature"]))
    assert head["link"] == got["events"][-1]["link"]


async def test_key_histories_of_other_users_are_not_shown(rest: Rest) -> None:
    alice, _ = await rest.connect(ALICE), await rest.connect(BOB)
    for device_id in (BOB.device_id, "nobody"):
        answer = await rest.ask("GET", f"/api/devices/{device_id}/key-events", token=alice.token)
        assert (answer.status, answer.detail) == (404, "device not found")


@pytest.mark.parametrize("what", ["certificate", "key-events"])
@pytest.mark.parametrize(
    ("segment", "status", "detail"),
    [
        ("%zz", 400, "invalid percent-encoding in device id"),
        ("a%2", 400, "invalid percent-encoding in device id"),
        ("%ff", 400, "device id must be valid UTF-8"),
        ("device%2Dof%2Dbob", 404, "device not found"),
    ],
)
async def test_device_ids_in_paths_are_decoded_strictly_and_once(
    rest: Rest, what: str, segment: str, status: int, detail: str
) -> None:
    alice = await rest.connect(ALICE)

    answer = await rest.ask("GET", f"/api/devices/{segment}/{what}", token=alice.token)
    own = await rest.ask("GET", f"/api/devices/device%2Dof%2Dalice/{what}", token=alice.token)

    assert (answer.status, answer.detail) == (status, detail)
    assert own.status == 200
