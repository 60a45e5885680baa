"""Pairing over REST: a device offers a code, a new one claims it, or waits for somebody's word."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from commucat_crypto import DeviceCertificate, DeviceKeyPair, claim_statement
from commucat_server.identity.pairing_codes import SYMBOLS, canonical_code, new_pairing_code
from commucat_storage import DeviceStatus
from server.connect_builders import AUTHORITY, DOMAIN, NOW, Client, Person
from server.rest_builders import Reply, Rest, limit, running_rest

ALICE = Person(handle="alice")
PHONE = DeviceKeyPair.from_private(bytes([7]) * 32)


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Rest]:
    async with running_rest(tmp_path) as rest:
        yield rest


async def code_of(rest: Rest, alice: Client) -> str:
    answer = await rest.ask("POST", "/api/pair", token=alice.token)
    assert answer.status == 200, answer.body
    return str(answer.json["pair_code"])


def own_key(code: str, keys: DeviceKeyPair = PHONE, **changes: Any) -> dict[str, Any]:
    """The claim of a device that has made its key itself."""
    device_id = changes.get("device_id", "phone")
    statement = claim_statement(
        domain=changes.pop("domain", DOMAIN),
        code=code,
        device_id=device_id or "",
        public_key=keys.public,
    )
    claim = {
        "pair_code": code,
        "device_id": device_id,
        "public_key": keys.public.hex(),
        "proof": keys.sign(statement).hex(),
    }
    return claim | changes


async def claim(rest: Rest, body: Any, path: str = "/api/pair/claim", **more: Any) -> Reply:
    return await rest.ask("POST", path, body, **more)


# -- offering ------------------------------------------------------------------------------------------


async def test_an_offered_code_has_the_members_and_the_form_of_the_protocol(rest: Rest) -> None:
    alice = await rest.connect(ALICE)

    answer = await rest.ask("POST", "/api/pair", {"ttl": 120}, token=alice.token)

    assert answer.status == 200
    offer = answer.json
    assert canonical_code(offer["pair_code"]) == offer["pair_code"]
    assert offer["ttl"] == 120
    assert offer["issued_at"] == "2027-01-15T08:00:00+00:00"
    assert offer["expires_at"] == "2027-01-15T08:02:00+00:00"
    assert offer["issuer_device_id"] == ALICE.device_id
    assert offer["device_ca_public"] == AUTHORITY.public.hex()
    assert len(bytes.fromhex(offer["device_seed"])) == 32
    [record] = rest.records.of(scope="pairing", event="create")
    assert record["device"] == ALICE.device_id
    assert offer["pair_code"] not in str(record)


@pytest.mark.parametrize(
    ("body", "ttl"),
    [
        (b"", 300),
        ({}, 300),
        ({"ttl": None}, 300),
        ({"ttl": 1}, 60),
        ({"ttl": 10**9}, 300),
        ({"ttl": 2**63 - 1, "more": [1]}, 300),
    ],
)
async def test_the_lifetime_of_a_code_is_bounded_both_ways(rest: Rest, body: Any, ttl: int) -> None:
    alice = await rest.connect(ALICE)

    answer = await rest.ask("POST", "/api/pairing", body, token=alice.token)

    assert (answer.status, answer.json["ttl"]) == (200, ttl)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"ttl": 0}, "ttl must be positive"),
        ({"ttl": -5}, "ttl must be positive"),
        ({"ttl": "60"}, "invalid JSON payload"),
        ({"ttl": True}, "invalid JSON payload"),
        ({"ttl": 1.5}, "invalid JSON payload"),
        ({"ttl": 2**64}, "invalid JSON payload"),
        ([], "invalid JSON payload"),
        (b"{", "invalid JSON payload"),
        (b"\xff", "invalid JSON payload"),
        (b"[" * 60_000, "invalid JSON payload"),
        (b'{"ttl": NaN}', "invalid JSON payload"),
        (b" " * (64 * 1024 + 1), "request body too large (max 64 KB)"),
    ],
)
async def test_bad_requests_for_a_code_are_refused(rest: Rest, body: Any, detail: str) -> None:
    alice = await rest.connect(ALICE)

    answer = await rest.ask("POST", "/api/pair", body, token=alice.token)

    assert (answer.status, answer.detail) == (400, detail)


async def test_only_a_session_of_an_active_device_gets_a_code(rest: Rest) -> None:
    alice = await rest.connect(ALICE)

    for token, status in ((None, 401), ("", 401), ("0" * 64, 401)):
        answer = await rest.ask("POST", "/api/pair", token=token)
        assert (answer.status, answer.headers["www-authenticate"]) == (status, "Bearer")
    await rest.server.storage.revoke_device(ALICE.device_id, NOW)
    assert (await rest.ask("POST", "/api/pair", token=alice.token)).status == 401


async def test_a_device_cannot_have_any_number_of_open_codes(rest: Rest) -> None:
    alice = await rest.connect(ALICE)
    codes = {await code_of(rest, alice) for _ in range(10)}

    answer = await rest.ask("POST", "/api/pair", token=alice.token)

    assert len(codes) == 10
    assert (answer.status, answer.detail) == (409, "too many open pairing codes")


def test_codes_use_all_symbols_alike() -> None:
    counts = dict.fromkeys(SYMBOLS, 0)
    for _ in range(2_000):
        for symbol in new_pairing_code().replace("-", ""):
            counts[symbol] += 1

    assert len(SYMBOLS) == 31
    # 16,000 symbols, 516 expected of each; a bias of 1/8 for some, as 256 modulo 31 has it, is 64 more.
    assert min(counts.values()) > 400
    assert max(counts.values()) < 640


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("abcd-efgh", "ABCD-EFGH"),
        ("  ABCDEFGH\n", "ABCD-EFGH"),
        ("ab cd ef gh", "ABCD-EFGH"),
        ("ABCD-EFG", None),
        ("ABCD-EFGHJ", None),
        ("ABCD-EFG0", None),
        ("ABCD-EFGß", None),
        ("", None),
    ],
)
def test_a_typed_code_is_read_as_people_type(typed: str, code: str | None) -> None:
    assert canonical_code(typed) == code


# -- claiming ------------------------------------------------------------------------------------------


async def test_a_device_with_its_own_key_comes_in_and_connects(rest: Rest) -> None:
    alice = await rest.connect(ALICE)
    code = await code_of(rest, alice)

    answer = await claim(rest, own_key(code, device_name="Alice's phone"))

    assert answer.status == 200, answer.body
    got = answer.json
    assert not {"private_key", "seed"} & got.keys()
    assert (got["status"], got["device_id"], got["device_name"]) == ("active", "phone", "Alice's phone")
    assert got["issuer_device_id"] == ALICE.device_id
    assert got["user"]["id"] == got["user"]["user_id"] == got["user_id"] == alice.ack["user_id"]
    assert got["user"]["handle"] == "alice"
    certificate = DeviceCertificate.from_wire(got["device_certificate"])
    certificate.verify(AUTHORITY.public)
    assert (certificate.public_key, certificate.user_id) == (PHONE.public, got["user_id"])
    phone = await rest.connect(Person(handle="alice", device_id="phone", keys=PHONE))
    assert phone.ack["user_id"] == got["user_id"]
    assert phone.ack["device_certificate"] == got["device_certificate"]
    [event] = await rest.server.storage.key_events("phone")
    [record] = rest.records.of(source="pair-claim")
    assert record["action"] == "certificate"
    assert record["event_id"] == event.event_id
    assert rest.records.of(scope="pairing", event="claim", device="phone", by=ALICE.device_id)


async def test_a_client_that_sends_no_key_gets_one_made_by_the_server(rest: Rest) -> None:
    alice = await rest.connect(ALICE)
    code = await code_of(rest, alice)

    answer = await claim(rest, {"pair_code": f" {code.lower()} ", "device_name": None}, "/api/pairing/claim")

    got = answer.json
    keys = DeviceKeyPair.from_seed(bytes.fromhex(got["seed"]))
    assert keys.private.hex() == got["private_key"]
    assert keys.public.hex() == got["public_key"]
    assert len(got["device_id"]) == 64
    assert "device_name" not in got
    phone = await rest.connect(Person(handle="alice", device_id=got["device_id"], keys=keys))
    assert phone.ack["user_id"] == alice.ack["user_id"]


async def test_a_code_works_once(rest: Rest) -> None:
    alice = await rest.connect(ALICE)
    code = await code_of(rest, alice)
    other = DeviceKeyPair.from_private(bytes([8]) * 32)
    assert (await claim(rest, {"pair_code": code})).status == 200

    for body in ({"pair_code": code}, own_key(code, other)):
        answer = await claim(rest, body)
        assert (answer.status, answer.detail) == (400, "pairing code invalid or expired")


async def test_a_device_that_missed_the_answer_gets_it_again(rest: Rest) -> None:
    alice = await rest.connect(ALICE)
    code = await code_of(rest, alice)
    first = await claim(rest, own_key(code))

    again = await claim(rest, own_key(code))

    assert again.json == first.json
    assert len(rest.records.of(source="pair-claim")) == 1


async def test_an_expired_code_and_one_of_a_revoked_device_are_refused(tmp_path: Path) -> None:
    now = [float(NOW)]
    async with running_rest(tmp_path, clock=lambda: now[0]) as rest:
        alice = await rest.connect(ALICE)
        code = await code_of(rest, alice)
        now[0] += 300
        assert (await claim(rest, own_key(code))).detail == "pairing code invalid or expired"
        now[0] -= 1
        await rest.server.storage.revoke_device(ALICE.device_id, NOW)
        assert (await claim(rest, own_key(code))).detail == "pairing code invalid or expired"
        assert await rest.server.storage.load_device("phone") is None


@pytest.mark.parametrize(
    ("changes", "status", "detail"),
    [
        ({"pair_code": ""}, 400, "pair_code is required"),
        ({"pair_code": "  "}, 400, "pair_code is required"),
        ({"pair_code": None}, 400, "pair_code is required"),
        ({"pair_code": 5}, 400, "invalid JSON payload"),
        ({"pair_code": ["x"]}, 400, "invalid JSON payload"),
        ({"device_name": 5}, 400, "invalid JSON payload"),
        ({"device_name": "x" * 65}, 400, "device_name must be at most 64 printable characters"),
        ({"device_name": "a\nb"}, 400, "device_name must be at most 64 printable characters"),
        ({"device_id": "a/b"}, 400, "invalid device_id"),
        ({"device_id": ""}, 400, "invalid device_id"),
        ({"device_id": "'; DROP TABLE user_device; --"}, 400, "invalid device_id"),
        ({"device_id": "x" * 129}, 400, "invalid device_id"),
        ({"public_key": "zz"}, 400, "invalid public_key"),
        ({"public_key": "00" * 31}, 400, "invalid public_key"),
        ({"public_key": None}, 400, "public_key is required"),
        ({"proof": None}, 400, "proof is required"),
        ({"proof": "00"}, 400, "invalid proof encoding"),
        ({"proof": "00" * 64}, 400, "proof does not belong to public_key and pair_code"),
        ({"public_key": "01" + "00" * 31}, 400, "public_key is not a proper Ed25519 key"),
        ({"device_id": "tablet"}, 400, "proof does not belong to public_key and pair_code"),
    ],
)
async def test_bad_claims_are_refused_and_leave_the_code_usable(
    rest: Rest, changes: dict[str, Any], status: int, detail: str
) -> None:
    alice = await rest.connect(ALICE)
    code = await code_of(rest, alice)

    answer = await claim(rest, own_key(code) | changes)

    assert (answer.status, answer.detail) == (status, detail)
    assert (await claim(rest, own_key(code))).status == 200


async def test_a_proof_made_for_another_server_or_code_is_worth_nothing(rest: Rest) -> None:
    alice = await rest.connect(ALICE)
    one, two = await code_of(rest, alice), await code_of(rest, alice)

    elsewhere = await claim(rest, own_key(one, domain="evil.example"))
    reused = await claim(rest, own_key(one) | {"pair_code": two})

    assert elsewhere.detail == reused.detail == "proof does not belong to public_key and pair_code"


@pytest.mark.parametrize("body", [b"", {}, b"null", b"5", b"\0"])
async def test_a_claim_without_a_code_is_refused(rest: Rest, body: Any) -> None:
    answer = await claim(rest, body)

    assert answer.status == 400
    assert answer.detail in ("pair_code is required", "invalid JSON payload")


async def test_an_unknown_code_is_not_found_whatever_its_form(rest: Rest) -> None:
    for typed in ("AAAA-AAAA", "x" * 10_000, "a\0b", "\uff21BCD-EFGH"):
        answer = await claim(rest, {"pair_code": typed}, address=f"198.51.100.{len(typed) % 250}")
        assert (answer.status, answer.json["title"], answer.detail) == (404, "NotFound", "resource not found")


async def test_a_device_id_that_exists_is_not_taken_over(rest: Rest) -> None:
    alice, bob = await rest.connect(ALICE), Person(handle="bob")
    await rest.connect(bob)
    code = await code_of(rest, alice)

    answer = await claim(rest, own_key(code, device_id=bob.device_id))

    assert (answer.status, answer.detail) == (409, "device_id is taken")
    stored = await rest.server.storage.load_device(bob.device_id)
    assert stored is not None
    assert stored.public_key == bob.keys.public


async def test_a_user_has_a_bounded_number_of_devices(tmp_path: Path) -> None:
    async with running_rest(tmp_path, pairing_policy={"devices_per_user": 2}) as rest:
        alice = await rest.connect(ALICE)
        assert (await claim(rest, {"pair_code": await code_of(rest, alice)})).status == 200

        answer = await claim(rest, {"pair_code": await code_of(rest, alice)})

        assert (answer.status, answer.detail) == (409, "the user has too many devices")


# -- guessing ------------------------------------------------------------------------------------------


async def test_claims_that_succeed_do_not_count(rest: Rest) -> None:
    alice = await rest.connect(ALICE)
    for _ in range(8):
        assert (await claim(rest, {"pair_code": await code_of(rest, alice)})).status == 200


async def test_guesses_from_many_addresses_have_one_budget(tmp_path: Path) -> None:
    async with running_rest(tmp_path, claim_failures=limit("pairing_failures", 3, 3600.0)) as rest:
        alice = await rest.connect(ALICE)
        code = await code_of(rest, alice)
        # What is no guess costs nothing.
        for n in range(5):
            assert (
                await claim(rest, own_key(code) | {"proof": "00" * 64}, address=f"10.0.1.{n}")
            ).status == 400
        for n in range(3):
            assert (await claim(rest, {"pair_code": "AAAA-AAAA"}, address=f"10.0.2.{n}")).status == 404

        assert (await claim(rest, {"pair_code": "AAAA-AAAA"}, address="10.0.3.1")).status == 429
        # Whoever knows a code is kept out too: otherwise the answer would tell a guesser that it was right.
        assert (await claim(rest, own_key(code), address="10.0.3.2")).status == 429
        assert len(rest.records.of(scope="pairing", event="refuse", reason="unknown")) == 3


async def test_devices_that_one_address_brings_are_limited_and_repeated_claims_are_not(
    tmp_path: Path,
) -> None:
    async with running_rest(tmp_path, new_device_limit=limit("new_device", 2, 3600.0)) as rest:
        alice = await rest.connect(ALICE)
        code = await code_of(rest, alice)
        for _ in range(4):
            assert (await claim(rest, own_key(code))).status == 200
        for _ in range(3):
            assert (await claim(rest, {"pair_code": "AAAA-AAAA"})).status == 404
        assert (await claim(rest, {"pair_code": await code_of(rest, alice)})).status == 200

        code = await code_of(rest, alice)
        assert (await claim(rest, {"pair_code": code})).status == 429
        assert (await claim(rest, {"pair_code": code}, address="10.0.0.1")).status == 200


async def test_codes_are_not_stored_in_clear(rest: Rest, tmp_path: Path) -> None:
    alice = await rest.connect(ALICE)
    code = await code_of(rest, alice)
    await rest.server.storage.check()

    stored = b"".join((tmp_path / name).read_bytes() for name in ("store.db", "store.db-wal"))

    assert code.encode() not in stored
    assert code.replace("-", "").encode() not in stored


# -- approval ------------------------------------------------------------------------------------------


@pytest.fixture
async def careful(tmp_path: Path) -> AsyncIterator[Rest]:
    async with running_rest(tmp_path, pairing_policy={"require_approval": True}) as rest:
        yield rest


async def test_with_approval_a_claimed_device_waits_until_another_one_agrees(careful: Rest) -> None:
    rest = careful
    alice = await rest.connect(ALICE)
    answer = await claim(rest, own_key(await code_of(rest, alice), device_name="phone"))
    assert answer.json["status"] == "pending"
    assert "device_certificate" not in answer.json
    phone = Person(handle="alice", device_id="phone", keys=PHONE)
    refused = await rest.connect(phone)
    assert refused.refused is not None
    assert refused.refused["reason"] == "the device waits for approval"
    stranger = await rest.connect(Person(handle="alice", device_id="phone"))
    assert stranger.refused is not None
    assert "needs pairing" in stranger.refused["reason"]
    listed = (await rest.ask("GET", "/api/devices", token=alice.token)).json["devices"]
    assert [(each["device_id"], each["status"]) for each in listed] == [
        (ALICE.device_id, "active"),
        ("phone", "pending"),
    ]
    assert listed[1]["issuer_device_id"] == ALICE.device_id

    done = await rest.ask("POST", "/api/devices/approve", {"device_id": "phone"}, token=alice.token)

    assert done.json == {"device_id": "phone", "status": "active"}
    client = await rest.connect(phone)
    assert client.ack["user_id"] == alice.ack["user_id"]
    assert rest.records.of(scope="pairing", event="wait", device="phone")
    assert rest.records.of(scope="pairing", event="approve", device="phone", by=ALICE.device_id)
    again = await rest.ask("POST", "/api/devices/approve", {"device_id": "phone"}, token=alice.token)
    assert again.status == 404


async def test_a_rejected_device_stays_out(careful: Rest) -> None:
    rest = careful
    alice = await rest.connect(ALICE)
    await claim(rest, own_key(await code_of(rest, alice)))

    done = await rest.ask("POST", "/api/devices/reject", {"device_id": "phone"}, token=alice.token)

    assert done.json == {"device_id": "phone", "status": "rejected"}
    assert (await rest.connect(Person(handle="alice", device_id="phone", keys=PHONE))).refused is not None
    assert rest.records.of(scope="pairing", event="reject", device="phone")


@pytest.mark.parametrize("action", ["approve", "reject"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"device_id": "phone"}, 404),
        ({}, 400),
        ({"device_id": 5}, 400),
        (b"[]", 400),
        ({"device_id": None}, 400),
    ],
)
async def test_nobody_decides_about_devices_of_others(
    careful: Rest, action: str, body: Any, status: int
) -> None:
    rest = careful
    alice, mallory = await rest.connect(ALICE), await rest.connect(Person(handle="mallory"))
    await claim(rest, own_key(await code_of(rest, alice)))

    answer = await rest.ask("POST", f"/api/devices/{action}", body, token=mallory.token)

    assert answer.status == status
    assert len(await rest.server.storage.pending_devices()) == 1
    assert (await rest.server.storage.load_device(ALICE.device_id)).status is DeviceStatus.ACTIVE  # type: ignore[union-attr]
