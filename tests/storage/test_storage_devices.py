"""Pairing codes, devices that wait, changes of keys, and the records of operators. For every backend."""

from typing import Any

import attrs
import pytest
import trio

from commucat_storage import (
    AlreadyExistsError,
    CertificateRow,
    Device,
    DeviceStatus,
    KeyEvent,
    NamedDevice,
    OperatorRecord,
    PairingClaim,
    PairingOffer,
    PairingRefusal,
    PairingRefusedError,
    PendingDevice,
    Rotation,
    RotationRefusal,
    RotationRefusedError,
    Storage,
)
from storage.storage_builders import LATER, NOW, add_devices, certificate, device, key_of, known, session

LIMIT = 10


def offer(code: str = "code", issuer: str = "tom", **changes: Any) -> PairingOffer:
    values: dict[str, Any] = {
        "code_hash": code,
        "user_id": f"user-{issuer}",
        "issuer_device_id": issuer,
        "issued_at": NOW,
        "expires_at": LATER,
    }
    return PairingOffer(**(values | changes))


def certificate_of(device: Device, serial: int = 2**64 - 1) -> CertificateRow:
    return attrs.evolve(
        certificate(serial, "tom"),
        device_id=device.device_id,
        public_key=device.public_key,
        source="pair-claim",
    )


def event_of(device: Device, event_id: str | None = None) -> KeyEvent:
    return KeyEvent(
        event_id=event_id or f"event-{device.device_id}",
        device_id=device.device_id,
        public_key=device.public_key,
        recorded_at=NOW,
    )


def claim(name: str = "phone", code: str = "code", **changes: Any) -> PairingClaim:
    fresh = device(name, "tom")
    values: dict[str, Any] = {
        "code_hash": code,
        "device": fresh,
        "name": f"{name}'s name",
        "certificate": certificate_of(fresh, serial=hash(name) % 2**64),
        "key_event": event_of(fresh),
        "device_limit": LIMIT,
        "now": NOW + 1,
    }
    return PairingClaim(**(values | changes))


def waiting(name: str = "phone", **changes: Any) -> PairingClaim:
    return claim(name, certificate=None, key_event=None, waits_until=LATER, **changes)


async def refused_claim(storage: Storage, attempt: PairingClaim) -> PairingRefusal:
    with pytest.raises(PairingRefusedError) as refused:
        await storage.claim_pairing(attempt)
    return refused.value.refusal


async def test_a_claimed_code_makes_a_device_with_key_event_certificate_name_and_inbox(
    storage: Storage,
) -> None:
    await add_devices(storage, "tom")
    await storage.offer_pairing(offer(), most=1)
    assert await storage.load_pairing("code") == offer()
    assert await storage.load_pairing("other") is None

    done = await storage.claim_pairing(claim())

    phone = device("phone", "tom")
    assert (done.device, done.user.user_id, done.issuer_device_id) == (phone, "user-tom", "tom")
    assert not done.waits
    assert not done.repeated
    assert await storage.load_device("phone") == phone
    assert await storage.newest_certificate("phone") == claim().certificate
    assert await storage.key_events("phone") == (event_of(phone),)
    state = await storage.inbox_state("phone")
    assert state is not None
    assert state.next_number == 1
    assert {(each.device.device_id, each.name) for each in await storage.devices_of("user-tom")} == {
        ("tom", None),
        ("phone", "phone's name"),
    }


async def test_a_code_works_once_and_again_only_for_the_device_that_used_it(storage: Storage) -> None:
    await add_devices(storage, "tom")
    await storage.offer_pairing(offer(), most=1)
    await storage.claim_pairing(claim())

    again = await storage.claim_pairing(claim(certificate=None, key_event=None))

    assert again.repeated
    assert again.device == device("phone", "tom")
    assert await refused_claim(storage, claim("tablet")) is PairingRefusal.INVALID
    assert await refused_claim(storage, claim(now=LATER)) is PairingRefusal.INVALID
    await storage.revoke_device("phone", NOW)
    assert await refused_claim(storage, claim()) is PairingRefusal.INVALID


@pytest.mark.parametrize(
    ("attempt", "refusal"),
    [
        (claim(code="other"), PairingRefusal.UNKNOWN),
        (claim(now=LATER), PairingRefusal.INVALID),
        (claim(device=device("phone", "tim")), PairingRefusal.INVALID),
        (claim("tim", device=attrs.evolve(device("tim", "tom"))), PairingRefusal.DEVICE_TAKEN),
        (claim(device_limit=1), PairingRefusal.DEVICE_LIMIT),
        (waiting(device_limit=1), PairingRefusal.DEVICE_LIMIT),
    ],
    ids=["unknown", "expired", "foreign user", "id taken", "too many", "too many with those that wait"],
)
async def test_a_refused_claim_writes_nothing_and_leaves_the_code_usable(
    storage: Storage, attempt: PairingClaim, refusal: PairingRefusal
) -> None:
    await add_devices(storage, "tom", "tim")
    await storage.offer_pairing(offer(), most=1)

    assert await refused_claim(storage, attempt) is refusal

    assert await storage.load_device("phone") is None
    assert await storage.pending_devices() == ()
    assert not (await storage.claim_pairing(claim())).repeated


async def test_of_two_claims_at_once_one_wins(storage: Storage) -> None:
    await add_devices(storage, "tom")
    await storage.offer_pairing(offer(), most=1)
    outcomes: list[str] = []

    async def attempt(name: str) -> None:
        try:
            await storage.claim_pairing(claim(name))
            outcomes.append("in")
        except PairingRefusedError as exc:
            outcomes.append(exc.refusal.value)

    async with trio.open_nursery() as nursery:
        for name in ("phone", "tablet", "laptop"):
            nursery.start_soon(attempt, name)

    assert sorted(outcomes) == ["in", "invalid", "invalid"]
    assert len(await storage.devices_of("user-tom")) == 2


async def test_codes_of_a_revoked_device_are_dead_and_it_gets_no_more(storage: Storage) -> None:
    await add_devices(storage, "tom")
    await storage.offer_pairing(offer(), most=2)
    await storage.revoke_device("tom", NOW)

    assert await refused_claim(storage, claim()) is PairingRefusal.INVALID
    with pytest.raises(PairingRefusedError) as refused:
        await storage.offer_pairing(offer("more"), most=2)
    assert refused.value.refusal is PairingRefusal.ISSUER_INACTIVE


async def test_a_device_has_a_bounded_number_of_open_codes_and_none_for_others(storage: Storage) -> None:
    await add_devices(storage, "tom")
    await storage.offer_pairing(offer("old", expires_at=NOW), most=1)
    await storage.offer_pairing(offer("one"), most=1)

    with pytest.raises(PairingRefusedError) as refused:
        await storage.offer_pairing(offer("two"), most=1)
    assert refused.value.refusal is PairingRefusal.CODE_LIMIT
    with pytest.raises(AlreadyExistsError):
        await storage.offer_pairing(offer("one"), most=9)
    with pytest.raises(PairingRefusedError):
        await storage.offer_pairing(offer("three", user_id="user-tim"), most=9)
    await storage.claim_pairing(claim(code="one"))
    await storage.offer_pairing(offer("four"), most=1)


async def test_a_device_that_waits_is_none_until_it_is_approved(storage: Storage) -> None:
    await add_devices(storage, "tom", "tim")
    await storage.offer_pairing(offer(), most=1)

    done = await storage.claim_pairing(waiting())
    again = await storage.claim_pairing(waiting())

    assert done.waits
    assert again.waits
    assert again.repeated
    assert await storage.load_device("phone") is None
    pending = PendingDevice(
        device_id="phone",
        user_id="user-tom",
        public_key=key_of("phone"),
        name="phone's name",
        issuer_device_id="tom",
        requested_at=NOW + 1,
        expires_at=LATER,
    )
    assert await storage.pending_devices() == (pending,)
    assert await storage.pending_devices("user-tom") == (pending,)
    assert await storage.pending_devices("user-tim") == ()
    phone = device("phone", "tom")
    other = attrs.evolve(pending, public_key=key_of("other"))
    with pytest.raises(PairingRefusedError) as refused:
        await storage.approve_device(other, certificate_of(phone), event_of(phone), device_limit=LIMIT)
    assert refused.value.refusal is PairingRefusal.UNKNOWN

    approved = await storage.approve_device(
        pending, certificate_of(phone), event_of(phone), device_limit=LIMIT
    )

    assert approved == phone
    assert await storage.load_device("phone") == phone
    assert await storage.pending_devices() == ()
    assert NamedDevice(device=phone, name="phone's name") in await storage.devices_of("user-tom")
    assert (await storage.claim_pairing(waiting())).device == phone
    with pytest.raises(PairingRefusedError):
        await storage.approve_device(pending, certificate_of(phone), event_of(phone), device_limit=LIMIT)


async def test_a_rejected_device_is_forgotten_and_its_code_stays_used(storage: Storage) -> None:
    await add_devices(storage, "tom")
    await storage.offer_pairing(offer(), most=1)
    await storage.claim_pairing(waiting())

    assert await storage.reject_device("phone")
    assert not await storage.reject_device("phone")

    assert await storage.pending_devices() == ()
    assert await refused_claim(storage, waiting()) is PairingRefusal.INVALID


async def test_codes_and_requests_whose_time_is_over_are_purged(storage: Storage) -> None:
    await add_devices(storage, "tom")
    await storage.offer_pairing(offer("a"), most=9)
    await storage.offer_pairing(offer("b"), most=9)
    await storage.claim_pairing(waiting(code="a"))

    assert (await storage.purge_expired(LATER - 1)).codes == 0
    assert (await storage.purge_expired(LATER)).codes == 3

    assert await storage.load_pairing("a") is None
    assert await storage.pending_devices() == ()


# -- keys ----------------------------------------------------------------------------------------------


def rotation(old: str = "tom", new: str = "new", **changes: Any) -> Rotation:
    fresh = attrs.evolve(device("tom"), public_key=key_of(new))
    values: dict[str, Any] = {
        "rotation_id": f"rotation-{new}",
        "device_id": "tom",
        "old_public_key": key_of(old),
        "new_public_key": key_of(new),
        "signature": bytes(64),
        "nonce": b"12345678",
        "proof_expires_at": LATER,
        "applied_at": NOW + 50,
        "key_event": event_of(fresh, f"event-{new}"),
        "certificate": certificate_of(fresh, serial=hash(new) % 2**64),
        "min_interval": 50,
    }
    return Rotation(**(values | changes))


async def refused_rotation(storage: Storage, attempt: Rotation) -> RotationRefusal:
    with pytest.raises(RotationRefusedError) as refused:
        await storage.rotate_device_key(attempt)
    return refused.value.refusal


async def test_a_new_key_ends_sessions_and_certificates_of_the_old_one(storage: Storage) -> None:
    await add_devices(storage, "tom", "tim")
    admission = attrs.evolve(known("tom"), session=session("token", "tom"), certificate=certificate(7, "tom"))
    await storage.admit(admission)
    await storage.admit(attrs.evolve(known("tim"), session=session("tims", "tim")))
    assert await storage.sessions_ended(["token", "tims", "none"]) == {"none"}

    await storage.rotate_device_key(rotation())

    stored = await storage.load_device("tom")
    assert stored is not None
    assert stored.public_key == key_of("new")
    assert await storage.load_session("token") is None
    assert await storage.sessions_ended(["token", "tims"]) == {"token"}
    assert await storage.newest_certificate("tom") == rotation().certificate
    assert rotation().key_event in await storage.key_events("tom")
    assert await storage.not_active(["tom"]) == frozenset()


@pytest.mark.parametrize(
    ("attempt", "refusal"),
    [
        (rotation(device_id="nobody"), RotationRefusal.UNKNOWN),
        (rotation(old="other"), RotationRefusal.KEY_CHANGED),
        (rotation(min_interval=51), RotationRefusal.TOO_SOON),
        (rotation(new="tim"), RotationRefusal.KEY_USED),
    ],
    ids=["unknown device", "another old key", "too soon", "key of another device"],
)
async def test_a_refused_rotation_writes_nothing(
    storage: Storage, attempt: Rotation, refusal: RotationRefusal
) -> None:
    await add_devices(storage, "tom", "tim")
    before = (await storage.load_device("tom"), await storage.key_events("tom"))

    assert await refused_rotation(storage, attempt) is refusal

    assert (await storage.load_device("tom"), await storage.key_events("tom")) == before
    await storage.rotate_device_key(rotation())


async def test_a_device_never_goes_back_to_a_key_and_waits_between_changes(storage: Storage) -> None:
    await add_devices(storage, "tom")
    await storage.rotate_device_key(rotation())
    back = rotation("new", "tom", applied_at=NOW + 100)
    soon = rotation("new", "third", applied_at=NOW + 99)

    assert await refused_rotation(storage, back) is RotationRefusal.KEY_USED
    with pytest.raises(RotationRefusedError) as refused:
        await storage.rotate_device_key(soon)
    assert (refused.value.refusal, refused.value.retry_at) == (RotationRefusal.TOO_SOON, NOW + 100)
    await storage.rotate_device_key(rotation("new", "third", applied_at=NOW + 100))


async def test_of_two_rotations_at_once_one_wins(storage: Storage) -> None:
    await add_devices(storage, "tom")
    outcomes: list[str] = []

    async def attempt(name: str) -> None:
        try:
            await storage.rotate_device_key(rotation(new=name))
            outcomes.append("in")
        except RotationRefusedError as exc:
            outcomes.append(exc.refusal.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt, "one")
        nursery.start_soon(attempt, "two")

    assert sorted(outcomes) == ["in", "key_changed"]


async def test_a_revoked_device_cannot_change_its_key(storage: Storage) -> None:
    await add_devices(storage, "tom")
    await storage.revoke_device("tom", NOW)

    assert await refused_rotation(storage, rotation()) is RotationRefusal.UNKNOWN


async def test_a_revocation_stores_its_event_once(storage: Storage) -> None:
    await add_devices(storage, "tom")
    before = await storage.key_events("tom")
    event = event_of(device("tom"), "revoked")

    assert await storage.revoke_device("tom", NOW, event)
    assert await storage.revoke_device("tom", NOW, attrs.evolve(event, event_id="again"))
    assert not await storage.revoke_device("nobody", NOW, attrs.evolve(event, event_id="nobody"))

    assert set(await storage.key_events("tom")) - set(before) == {event}
    [stored] = await storage.devices_of("user-tom")
    assert stored.device.status is DeviceStatus.REVOKED
    assert await storage.devices_of("user-nobody") == ()


# -- records of operators ------------------------------------------------------------------------------


def record(name: str) -> OperatorRecord:
    return OperatorRecord(record_id=name, digest=key_of(name), metadata='{"by":"operator"}', recorded_at=NOW)


async def test_an_approval_stores_its_records_or_nothing(storage: Storage) -> None:
    await add_devices(storage, "tom")
    await storage.offer_pairing(offer(), most=1)
    await storage.claim_pairing(waiting())
    [pending] = await storage.pending_devices()
    phone, records = device("phone", "tom"), (record("key"), record("paired"))
    await storage.add_operator_record(record("paired"))

    with pytest.raises(AlreadyExistsError):
        await storage.approve_device(
            pending, certificate_of(phone), event_of(phone), device_limit=LIMIT, records=records
        )
    assert await storage.pending_devices() == (pending,)
    assert await storage.load_device("phone") is None
    assert await storage.operator_records(9) == (record("paired"),)

    fresh = (record("key"), record("paired again"))
    await storage.approve_device(
        pending, certificate_of(phone), event_of(phone), device_limit=LIMIT, records=fresh
    )
    assert set(await storage.operator_records(9)) == {record("paired"), *fresh}


async def test_a_rejection_stores_its_record_once(storage: Storage) -> None:
    await add_devices(storage, "tom")
    await storage.offer_pairing(offer(), most=1)
    await storage.claim_pairing(waiting())

    assert await storage.reject_device("phone", [record("first")])
    assert not await storage.reject_device("phone", [record("second")])

    assert await storage.operator_records(9) == (record("first"),)


async def test_a_revocation_stores_its_record_once(storage: Storage) -> None:
    await add_devices(storage, "tom")

    assert await storage.revoke_device("tom", NOW, records=[record("first")])
    assert await storage.revoke_device("tom", NOW, records=[record("second")])
    assert not await storage.revoke_device("nobody", NOW, records=[record("third")])

    assert await storage.operator_records(9) == (record("first"),)
