"""What operators' commands read and change in a store."""

import attrs
import pytest

from commucat_storage import (
    AdmissionRefusedError,
    AlreadyExistsError,
    DeviceStatus,
    OperatorRecord,
    Resealed,
    SecretRotation,
    Storage,
    StorageError,
)
from storage.conftest import Backend
from storage.storage_builders import (
    LATER,
    NOW,
    add_devices,
    asking,
    certificate,
    code,
    create,
    key_event,
    key_of,
    known,
    message,
    secret,
    session,
)


def record(name: str, recorded_at: int = NOW) -> OperatorRecord:
    return OperatorRecord(
        record_id=name, digest=key_of(name), metadata='{"scope": "test"}', recorded_at=recorded_at
    )


# -- secrets --------------------------------------------------------------------------------------


async def test_a_rotation_adds_a_version_and_says_how_long_earlier_ones_count(storage: Storage) -> None:
    await storage.insert_secret(secret(1, expires_at=NOW + 10))
    await storage.insert_secret(secret(1, name="admin-token"))

    await storage.rotate_secret(
        SecretRotation(secret=secret(2, valid_after=NOW + 5), until={1: NOW + 99}, record=record("r"))
    )

    versions = await storage.secret_versions("noise-static")
    assert [(each.version, each.expires_at) for each in versions] == [(2, LATER), (1, NOW + 99)]
    assert [(each.name, each.version) for each in await storage.secret_versions()] == [
        ("admin-token", 1),
        ("noise-static", 2),
        ("noise-static", 1),
    ]
    assert await storage.operator_records(10) == (record("r"),)


async def test_a_rotation_that_comes_second_changes_nothing(storage: Storage) -> None:
    await storage.insert_secret(secret(1, expires_at=NOW + 10))
    await storage.insert_secret(secret(2))
    with pytest.raises(AlreadyExistsError):
        await storage.rotate_secret(SecretRotation(secret=secret(2), until={1: NOW + 99}, record=record("r")))
    assert [each.expires_at for each in await storage.secret_versions("noise-static")] == [LATER, NOW + 10]
    assert await storage.operator_records(10) == ()


async def test_a_rotation_counts_only_beside_the_version_that_was_the_newest(storage: Storage) -> None:
    first = secret(1)
    await storage.insert_secret(first)
    for other in (attrs.evolve(first, secret=b"in another form"), secret(3)):
        rotation = SecretRotation(secret=secret(2), until={1: NOW + 99}, record=record("r"), newest=other)
        with pytest.raises(AlreadyExistsError, match="noise-static was changed meanwhile"):
            await storage.rotate_secret(rotation)
    assert await storage.secret_versions() == (first,)
    assert await storage.operator_records(10) == ()

    await storage.rotate_secret(SecretRotation(secret=secret(2), newest=first))
    assert [each.version for each in await storage.secret_versions()] == [2, 1]


async def test_the_end_of_a_version_can_be_set(storage: Storage) -> None:
    await storage.insert_secret(secret(1))
    assert await storage.set_secret_expiry("noise-static", 1, NOW, record("r"))
    assert not await storage.set_secret_expiry("noise-static", 2, NOW, record("s"))
    assert not await storage.set_secret_expiry("noise-static", 1, NOW + 9, record("t"), before=NOW + 1)
    assert await storage.set_secret_expiry("noise-static", 1, NOW + 9, before=NOW)
    assert await storage.set_secret_expiry("noise-static", 1, NOW, before=NOW + 9)
    assert [each.expires_at for each in await storage.secret_versions("noise-static")] == [NOW]
    assert await storage.operator_records(10) == (record("r"),)


async def test_secrets_are_resealed_all_or_none(storage: Storage) -> None:
    await storage.insert_secret(secret(1))
    await storage.insert_secret(secret(2))
    good = Resealed(name="noise-static", version=1, before=b"private", secret=b"sealed", metadata='{"a": 1}')
    stale = attrs.evolve(good, version=2, before=b"something else")

    with pytest.raises(StorageError, match="noise-static version 2 was changed meanwhile"):
        await storage.reseal_secrets([good, stale], record("r"))
    assert {each.secret for each in await storage.secret_versions()} == {b"private"}
    assert await storage.operator_records(10) == ()

    with pytest.raises(StorageError, match="noise-static has got a version meanwhile"):
        await storage.reseal_secrets([good], record("r"))
    assert {each.secret for each in await storage.secret_versions()} == {b"private"}

    await storage.reseal_secrets([good, attrs.evolve(good, version=2)], record("r"))
    [_, first] = await storage.secret_versions("noise-static")
    assert (first.secret, first.metadata) == (b"sealed", '{"a": 1}')


async def test_the_newest_version_is_never_forgotten(storage: Storage) -> None:
    for version in (1, 2, 3):
        await storage.insert_secret(secret(version, expires_at=NOW))
    assert await storage.forget_secrets(NOW) == 0
    assert await storage.forget_secrets(NOW + 1) == 2
    assert [each.version for each in await storage.secret_versions()] == [3]
    assert await storage.latest_secret_version("noise-static") == 3


# -- records --------------------------------------------------------------------------------------


async def test_a_record_is_handed_out_until_it_is_taken_and_seen_for_a_minute_more(storage: Storage) -> None:
    await storage.add_operator_record(record("b", NOW + 1))
    await storage.add_operator_record(record("a", NOW))
    assert await storage.operator_records(1) == (record("a"),)
    assert [each.record_id for each in await storage.operator_records(10)] == ["a", "b"]

    await storage.take_operator_records(["a", "b", "unknown"], NOW + 2)
    assert await storage.operator_records(10) == ()
    assert await storage.operator_record_ids() == {"a", "b"}

    await storage.take_operator_records([], NOW + 61)
    assert await storage.operator_record_ids() == {"a", "b"}
    await storage.take_operator_records([], NOW + 62)
    assert await storage.operator_record_ids() == set()


async def test_a_record_survives_a_restart(backend: Backend) -> None:
    async with backend.open() as storage:
        await storage.add_operator_record(record("a"))
    async with backend.open() as storage:
        assert await storage.operator_records(10) == (record("a"),)


# -- sessions -------------------------------------------------------------------------------------


async def test_sessions_are_listed_without_what_opens_one(storage: Storage) -> None:
    await add_devices(storage, "alice")
    await add_devices(storage, "bob")
    for token, name, refreshed in (("a" * 64, "alice", NOW), ("b" * 64, "bob", NOW + 5)):
        await storage.admit(attrs.evolve(known(name), session=session(token, name, refreshed)))

    newest, oldest = await storage.list_sessions(now=NOW + 99, limit=10)
    assert (newest.session_id, newest.device_id, newest.handle) == ("b" * 16, "bob", "bob")
    assert (oldest.created_at, oldest.refreshed_at, oldest.expires_at) == (NOW, NOW, NOW + 100)
    assert await storage.list_sessions(now=NOW + 100, limit=10) == (newest,)
    assert await storage.list_sessions(now=NOW, limit=10, device_id="alice") == (oldest,)
    assert await storage.list_sessions(now=NOW, limit=10, user_id="user-bob") == (newest,)
    assert await storage.list_sessions(now=NOW, limit=1) == (newest,)


async def test_ended_sessions_are_gone_for_whoever_asks(storage: Storage) -> None:
    await add_devices(storage, "alice")
    await add_devices(storage, "bob")
    for token, name in (("a", "alice"), ("b", "alice"), ("c", "bob")):
        await storage.admit(attrs.evolve(known(name), session=session(token, name)))

    assert await storage.sessions_ended(["a", "b", "c", "d'); --"]) == {"d'); --"}
    assert await storage.end_sessions("alice", lambda count: record(f"{count} ended")) == 2
    assert await storage.sessions_ended(["a", "b", "c"]) == {"a", "b"}
    assert await storage.end_sessions("nobody") == 0
    assert await storage.operator_records(10) == (record("2 ended"),)


# -- queues ---------------------------------------------------------------------------------------


async def test_queues_tell_what_waits_and_what_has_expired(storage: Storage) -> None:
    for name in ("alice", "bob", "carol"):
        await add_devices(storage, name)
    await storage.commit([message("bob", "carol", payload=b"12345")])
    await storage.commit([message("bob", payload=b"1", expires_at=NOW + 1)])

    bob, carol, alice = await storage.queues(now=NOW, limit=10)
    assert (bob.device_id, bob.handle, bob.status) == ("bob", "bob", "active")
    assert (bob.waiting, bob.waiting_bytes, bob.expired, bob.first_expiry) == (2, 6, 0, NOW + 1)
    assert (bob.next_number, bob.confirmed) == (3, 0)
    assert (carol.waiting, carol.first_expiry) == (1, LATER)
    assert (alice.waiting, alice.waiting_bytes, alice.first_expiry) == (0, 0, None)
    assert await storage.queues(now=NOW, limit=1) == (bob,)

    [bob] = await storage.queues(now=NOW + 1, limit=10, device_id="bob")
    assert (bob.waiting, bob.waiting_bytes, bob.expired) == (1, 5, 1)
    assert await storage.queues(now=NOW, limit=10, device_id="nobody") == ()


async def test_an_expired_queue_is_read_by_nobody_and_purged_with_its_reports(storage: Storage) -> None:
    for name in ("alice", "bob"):
        await add_devices(storage, name)
    await storage.commit([message("bob", "alice"), asking(b"ref", "bob", sender="alice")])

    assert await storage.expire_queue("bob", lambda count: record(f"{count} expired")) == 2
    assert await storage.expire_queue("bob") == 0
    assert await storage.expire_queue("nobody", lambda count: record("s")) is None
    assert await storage.operator_records(10) == (record("2 expired"),)

    page = await storage.read_after("bob", 0, limit_rows=9, limit_bytes=99, now=NOW)
    assert page.rows == ()
    [bob] = await storage.queues(now=NOW, limit=1, device_id="bob")
    assert (bob.waiting, bob.expired) == (0, 2)

    # What comes afterwards is another matter, and so is the same message to somebody else.
    await storage.commit([message("bob", payload=b"later")])
    purged = await storage.purge_expired(NOW)
    assert purged.messages == 2
    assert [each.reference for each in purged.expired] == [b"ref"]
    [row] = (await storage.read_after("bob", 0, limit_rows=9, limit_bytes=99, now=NOW)).rows
    assert row.payload == b"later"
    assert len((await storage.read_after("alice", 0, limit_rows=9, limit_bytes=99, now=NOW)).rows) == 1


async def test_a_long_queue_expires_in_steps_and_what_comes_meanwhile_stays(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commucat_storage.sqlite.operating.EXPIRE_ROWS", 3)
    monkeypatch.setattr("commucat_storage.postgres.operating.EXPIRE_ROWS", 3)
    await add_devices(storage, "bob")
    await storage.commit([message("bob", payload=b"%d" % number) for number in range(7)])
    assert await storage.expire_queue("bob", lambda count: record(f"{count} expired")) == 7
    assert [each.record_id for each in await storage.operator_records(9)] == ["7 expired"]
    await storage.commit([message("bob", payload=b"later")])
    assert (await storage.purge_expired(NOW)).messages == 7
    [row] = (await storage.read_after("bob", 0, limit_rows=9, limit_bytes=99, now=NOW)).rows
    assert (row.number, row.payload) == (8, b"later")


async def test_a_queue_is_expired_beside_the_process_that_fills_it(backend: Backend) -> None:
    async with backend.open() as server, backend.open() as command:
        await add_devices(server, "bob")
        await server.commit([message("bob")])
        assert await command.expire_queue("bob") == 1
        await server.commit([message("bob", payload=b"later")])
        assert (await server.purge_expired(NOW)).messages == 1
        [row] = (await server.read_after("bob", 0, limit_rows=9, limit_bytes=99, now=NOW)).rows
        assert (row.number, row.payload) == (2, b"later")
        [bob] = await command.queues(now=NOW, limit=1)
        assert (bob.waiting, bob.waiting_bytes, bob.next_number) == (1, 5, 3)


# -- groups ---------------------------------------------------------------------------------------


async def test_groups_are_listed_with_their_owner_and_size(storage: Storage) -> None:
    for name in ("alice", "bob", "carol"):
        await add_devices(storage, name)
    await storage.commit([create("alice", "bob", "carol", group_id="big"), create("bob", group_id="small")])

    big, small = await storage.list_groups(limit=10)
    assert (big.group_id, big.owner, big.members) == ("big", "alice", 3)
    assert (small.group_id, small.owner, small.members) == ("small", "bob", 1)
    assert await storage.list_groups(limit=1) == (big,)
    assert await storage.list_groups(limit=10, device_id="carol") == (big,)
    assert await storage.list_groups(limit=10, device_id="nobody") == ()


# -- keys -----------------------------------------------------------------------------------------


async def test_a_replaced_key_ends_sessions_and_certificates_of_the_old_one(storage: Storage) -> None:
    await add_devices(storage, "alice")
    await storage.admit(
        attrs.evolve(known("alice"), session=session("t", "alice"), certificate=certificate(1, "alice"))
    )
    fresh = attrs.evolve(certificate(2, "alice"), public_key=key_of("new"))
    event = attrs.evolve(key_event("alice"), public_key=key_of("new"))

    assert await storage.replace_device_key(fresh, event, record("r"))

    found = await storage.load_device("alice")
    assert found is not None
    assert found.public_key == key_of("new")
    assert await storage.newest_certificate("alice") == fresh
    assert await storage.sessions_ended(["t"]) == {"t"}
    assert event in await storage.key_events("alice")
    assert await storage.operator_records(10) == (record("r"),)
    with pytest.raises(AdmissionRefusedError):
        await storage.admit(known("alice"))


@pytest.mark.parametrize("status", [None, DeviceStatus.REVOKED])
async def test_only_an_active_device_of_the_user_gets_another_key(
    status: DeviceStatus | None, storage: Storage
) -> None:
    await add_devices(storage, "alice")
    await add_devices(storage, "bob")
    owner = "alice"
    if status is None:
        owner = "bob"  # a device of somebody else
    else:
        await storage.revoke_device("alice", NOW)
    wrong = attrs.evolve(certificate(2, "alice"), user_id=f"user-{owner}", public_key=key_of("new"))
    assert not await storage.replace_device_key(wrong, key_event("alice"), record("r"))
    found = await storage.load_device("alice")
    assert found is not None
    assert found.public_key == key_of("alice")
    assert await storage.operator_records(10) == ()


# -- cleaning up ----------------------------------------------------------------------------------


async def test_cleaning_up_takes_what_nothing_needs(storage: Storage) -> None:
    await add_devices(storage, "alice")
    await storage.admit(attrs.evolve(known("alice"), session=session("t", "alice")))
    await storage.add_enrolment_code(code("c", "alice", expires_at=NOW + 1))
    await storage.insert_secret(secret(1, expires_at=NOW))
    await storage.insert_secret(secret(2))
    await storage.add_operator_record(record("r"))
    await storage.take_operator_records(["r"], NOW)
    await storage.commit([create("alice", group_id="kept"), message("alice", expires_at=NOW + 1)])

    nothing = await storage.clean_up(now=NOW, secrets_before=NOW)
    assert set(attrs.astuple(nothing)) == {0}

    cleaned = await storage.clean_up(now=NOW + 200, secrets_before=NOW + 1)
    assert (cleaned.sessions, cleaned.codes, cleaned.secrets, cleaned.operator_records) == (1, 1, 1, 1)
    assert (cleaned.groups, cleaned.payloads) == (0, 0)
    assert len(await storage.list_groups(limit=9)) == 1
