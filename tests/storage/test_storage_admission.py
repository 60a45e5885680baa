"""Admission: all checks and all rows in one transaction. For every backend."""

import attrs
import pytest
import trio

from commucat_storage import (
    Admission,
    AdmissionKind,
    AdmissionRefusal,
    AdmissionRefusedError,
    AlreadyExistsError,
    DeviceStatus,
    InboxState,
    Storage,
)
from storage.storage_builders import (
    NOW,
    add_devices,
    certificate,
    code,
    device,
    key_event,
    key_of,
    known,
    message,
    new_user,
    numbers,
    send,
    session,
    stored,
    user,
)


async def refusal_of(storage: Storage, admission: Admission) -> AdmissionRefusal:
    with pytest.raises(AdmissionRefusedError) as refused:
        await storage.admit(admission)
    return refused.value.refusal


def by_code(name: str, owner: str, text: str) -> Admission:
    return Admission(kind=AdmissionKind.BY_CODE, device=device(name, owner), code_hash=key_of(text), now=NOW)


def by_handle(name: str, owner: str, limit: int) -> Admission:
    return Admission(kind=AdmissionKind.BY_HANDLE, device=device(name, owner), device_limit=limit, now=NOW)


async def test_a_new_user_gets_everything_at_once(storage: Storage) -> None:
    admission = attrs.evolve(
        new_user("a"),
        certificate=certificate(1, "a"),
        key_event=key_event("a"),
        session=session("token", "a"),
        display_name="A cat",
    )

    admitted = await storage.admit(admission)

    assert admitted.user == attrs.evolve(user("a"), display_name="A cat")
    assert admitted.device == device("a")
    assert admitted.inbox == InboxState(admitted.inbox.epoch, 1, 0)
    assert len(bytes.fromhex(admitted.inbox.epoch)) == 16
    assert await storage.inbox_state("a") == admitted.inbox
    assert await storage.load_user("user-a") == admitted.user
    assert await storage.newest_certificate("a") == certificate(1, "a")
    assert await storage.load_session("token") == session("token", "a")


async def test_a_taken_handle_id_or_device_is_refused_and_nothing_written(storage: Storage) -> None:
    await add_devices(storage, "a")
    same_handle = attrs.evolve(
        new_user("b"), user=attrs.evolve(user("b"), handle="a"), session=session("token", "b")
    )
    same_user = attrs.evolve(
        new_user("b"),
        user=attrs.evolve(user("b"), user_id="user-a"),
        device=attrs.evolve(device("b"), user_id="user-a"),
    )
    same_device = attrs.evolve(new_user("b"), device=attrs.evolve(device("b"), device_id="a"))

    assert await refusal_of(storage, same_handle) is AdmissionRefusal.HANDLE_TAKEN
    assert await refusal_of(storage, same_user) is AdmissionRefusal.HANDLE_TAKEN
    assert await refusal_of(storage, same_device) is AdmissionRefusal.DEVICE_TAKEN

    assert await storage.load_user("user-b") is None
    assert await storage.load_device("b") is None
    assert await storage.load_session("token") is None
    await storage.admit(new_user("b"))


async def test_of_two_that_race_for_a_handle_one_gets_it(storage: Storage) -> None:
    results: list[str] = []

    async def race(name: str) -> None:
        admission = attrs.evolve(new_user(name), user=attrs.evolve(user(name), handle="same"))
        try:
            admitted = await storage.admit(admission)
        except AdmissionRefusedError as exc:
            results.append(exc.refusal.value)
        else:
            results.append(admitted.user.user_id)

    async with trio.open_nursery() as nursery:
        for index in range(5):
            nursery.start_soon(race, f"racer{index}")

    winners = [each for each in results if each.startswith("user-")]
    assert len(winners) == 1
    assert results.count("handle_taken") == 4
    owner = await storage.load_user_by_handle("same", "cats.example")
    assert owner is not None
    assert [owner.user_id] == winners


async def test_a_known_device_comes_in_with_its_own_key_and_user_only(storage: Storage) -> None:
    await add_devices(storage, "a", "b")

    admitted = await storage.admit(attrs.evolve(known("a"), session=session("token", "a")))

    assert admitted.device == device("a")
    assert await storage.load_session("token") == session("token", "a")
    other_key = attrs.evolve(known("a"), device=attrs.evolve(device("a"), public_key=key_of("other")))
    other_user = attrs.evolve(known("a"), device=attrs.evolve(device("a"), user_id="user-b"))
    assert await refusal_of(storage, other_key) is AdmissionRefusal.DEVICE_CHANGED
    assert await refusal_of(storage, other_user) is AdmissionRefusal.DEVICE_CHANGED
    assert await refusal_of(storage, known("nobody")) is AdmissionRefusal.DEVICE_UNKNOWN


async def test_a_revoked_or_diagnostic_device_is_not_admitted(storage: Storage) -> None:
    await add_devices(storage, "a")
    await storage.revoke_device("a", NOW)
    probe = attrs.evolve(new_user("probe"), device=device("probe", status=DeviceStatus.DIAGNOSTIC))
    await storage.admit(probe)

    assert await refusal_of(storage, known("a")) is AdmissionRefusal.DEVICE_INACTIVE
    assert await refusal_of(storage, known("probe")) is AdmissionRefusal.DEVICE_INACTIVE
    assert await refusal_of(storage, attrs.evolve(new_user("x"), device=device("a", "x"))) is (
        AdmissionRefusal.DEVICE_TAKEN
    )


async def test_a_known_devices_inbox_keeps_its_place(storage: Storage) -> None:
    before = (await add_devices(storage, "a"))["a"]
    await send(storage, message("a"), message("a"))

    admitted = await storage.admit(known("a"))

    assert admitted.inbox == InboxState(before.epoch, 3, 0)
    assert numbers(await stored(storage, "a")) == [1, 2]


async def test_a_code_lets_one_device_in(storage: Storage) -> None:
    await storage.create_user(user("tom"), code("secret", "tom"))

    admitted = await storage.admit(by_code("phone", "tom", "secret"))

    assert admitted.user == user("tom")
    assert await refusal_of(storage, by_code("laptop", "tom", "secret")) is AdmissionRefusal.CODE_INVALID
    await storage.add_enrolment_code(code("another", "tom"))
    await storage.admit(by_code("laptop", "tom", "another"))


async def test_two_that_race_for_a_code_do_not_both_get_in(storage: Storage) -> None:
    await storage.create_user(user("tom"), code("secret", "tom"))
    refusals: list[AdmissionRefusal] = []

    async def race(name: str) -> None:
        try:
            await storage.admit(by_code(name, "tom", "secret"))
        except AdmissionRefusedError as exc:
            refusals.append(exc.refusal)

    async with trio.open_nursery() as nursery:
        for index in range(4):
            nursery.start_soon(race, f"device{index}")

    assert refusals == [AdmissionRefusal.CODE_INVALID] * 3


async def test_a_code_is_for_its_user_until_it_expires(storage: Storage) -> None:
    await storage.create_user(user("tom"), code("secret", "tom", expires_at=NOW))
    await storage.create_user(user("tim"), code("tims", "tim"))

    assert await refusal_of(storage, by_code("x", "tom", "secret")) is AdmissionRefusal.CODE_INVALID
    assert await refusal_of(storage, by_code("x", "tom", "tims")) is AdmissionRefusal.CODE_INVALID
    assert await refusal_of(storage, by_code("x", "tom", "unknown")) is AdmissionRefusal.CODE_INVALID
    assert await refusal_of(storage, by_code("x", "nobody", "tims")) is AdmissionRefusal.USER_UNKNOWN
    assert await storage.load_device("x") is None


async def test_a_refused_admission_does_not_use_up_its_code(storage: Storage) -> None:
    await storage.create_user(user("tom"), code("secret", "tom"))
    await storage.admit(attrs.evolve(new_user("a"), session=session("token", "a")))
    clash = attrs.evolve(
        by_code("phone", "tom", "secret"), session=attrs.evolve(session("token", "tom"), device_id="phone")
    )

    with pytest.raises(AlreadyExistsError):
        await storage.admit(clash)

    assert await storage.load_device("phone") is None
    await storage.admit(by_code("phone", "tom", "secret"))


async def test_by_handle_the_limit_counts_active_devices(storage: Storage) -> None:
    await add_devices(storage, "tom")

    assert await refusal_of(storage, by_handle("x", "tom", 0)) is AdmissionRefusal.DEVICE_LIMIT
    await storage.admit(by_handle("phone", "tom", 2))
    assert await refusal_of(storage, by_handle("laptop", "tom", 2)) is AdmissionRefusal.DEVICE_LIMIT
    await storage.revoke_device("phone", NOW)
    await storage.admit(by_handle("laptop", "tom", 2))
    assert await refusal_of(storage, by_handle("y", "nobody", 2)) is AdmissionRefusal.USER_UNKNOWN


async def test_profile_changes_are_applied_and_none_leaves_what_is_stored(storage: Storage) -> None:
    await add_devices(storage, "a")
    await storage.admit(attrs.evolve(known("a"), display_name="Tom", avatar_url="https://x.example/1"))

    admitted = await storage.admit(attrs.evolve(known("a"), display_name="Thomas"))

    assert admitted.user == attrs.evolve(user("a"), display_name="Thomas", avatar_url="https://x.example/1")
    assert await storage.load_user("user-a") == admitted.user


@pytest.mark.parametrize(
    "admission",
    [
        attrs.evolve(new_user("a"), user=None),
        attrs.evolve(new_user("a"), user=user("b")),
        attrs.evolve(by_code("a", "tom", "x"), code_hash=None),
        attrs.evolve(by_handle("a", "tom", 1), device_limit=None),
    ],
)
async def test_an_admission_that_lacks_what_its_kind_needs_is_the_callers_mistake(
    storage: Storage, admission: Admission
) -> None:
    with pytest.raises(ValueError, match="needs"):
        await storage.admit(admission)


async def test_a_refused_admission_does_not_hurt_messages_committed_with_it(storage: Storage) -> None:
    await add_devices(storage, "a")
    refusals: list[AdmissionRefusal] = []

    async def refused() -> None:
        refusals.append(await refusal_of(storage, new_user("a")))

    async def sends() -> None:
        await send(storage, message("a"))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(sends)
            nursery.start_soon(refused)

    assert refusals == [AdmissionRefusal.DEVICE_TAKEN] * 10
    assert numbers(await stored(storage, "a")) == list(range(1, 11))
