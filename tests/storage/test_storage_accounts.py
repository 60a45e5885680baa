"""Users, devices, certificates, sessions, secrets and presence. For every backend."""

from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from commucat_storage import (
    AlreadyExistsError,
    DeviceStatus,
    KnownDevice,
    Presence,
    Storage,
    StorageError,
)
from storage.storage_builders import (
    LATER,
    NOW,
    add_devices,
    certificate,
    code,
    device,
    new_user,
    secret,
    session,
    user,
)

if TYPE_CHECKING:
    from storage.conftest import Backend


async def test_a_user_is_found_by_id_and_by_handle_within_its_domain(storage: Storage) -> None:
    tom = attrs.evolve(user("tom"), display_name="Tom", avatar_url="https://cats.example/t.png")
    await storage.create_user(tom)

    assert await storage.load_user("user-tom") == tom
    assert await storage.load_user_by_handle("tom", "cats.example") == tom
    assert await storage.load_user_by_handle("tom", "dogs.example") is None
    assert await storage.load_user("user-nobody") is None


async def test_a_handle_is_unique_within_its_domain_only(storage: Storage) -> None:
    await storage.create_user(user("tom"))
    await storage.create_user(attrs.evolve(user("tom"), user_id="u2", domain="dogs.example"))

    with pytest.raises(AlreadyExistsError):
        await storage.create_user(attrs.evolve(user("tom"), user_id="u3"))
    with pytest.raises(AlreadyExistsError):
        await storage.create_user(attrs.evolve(user("tim"), user_id="user-tom"))

    assert await storage.load_user("u3") is None


async def test_a_user_whose_code_is_refused_is_not_created(storage: Storage) -> None:
    await storage.create_user(user("tom"), code("same", "tom"))

    with pytest.raises(AlreadyExistsError):
        await storage.create_user(user("tim"), code("same", "tim"))

    assert await storage.load_user("user-tim") is None


async def test_a_code_needs_its_user(storage: Storage) -> None:
    with pytest.raises(StorageError, match="no user"):
        await storage.add_enrolment_code(code("text", "nobody"))


async def test_a_device_is_loaded_as_it_was_admitted(storage: Storage) -> None:
    await add_devices(storage, "a")

    assert await storage.load_device("a") == device("a")
    assert await storage.load_device("nobody") is None


async def test_revoking_marks_device_and_certificates_and_ends_sessions(storage: Storage) -> None:
    admission = attrs.evolve(new_user("a"), certificate=certificate(1, "a"), session=session("token", "a"))
    await storage.admit(admission)

    assert await storage.revoke_device("a", NOW + 1)

    loaded = await storage.load_device("a")
    assert loaded is not None
    assert loaded.status is DeviceStatus.REVOKED
    assert await storage.newest_certificate("a") is None
    assert await storage.load_session("token") is None
    assert not await storage.revoke_device("nobody", NOW)


async def test_the_newest_certificate_wins_and_serials_are_unsigned_64_bit(storage: Storage) -> None:
    await add_devices(storage, "a")
    newest = certificate(2**64 - 1, "a", issued_at=NOW + 5)
    for each in (certificate(7, "a", issued_at=NOW), newest, certificate(2**63, "a", issued_at=NOW + 3)):
        await storage.add_certificate(each)

    assert await storage.newest_certificate("a") == newest
    assert await storage.newest_certificate("nobody") is None
    with pytest.raises(AlreadyExistsError):
        await storage.add_certificate(newest)
    with pytest.raises(StorageError):
        await storage.add_certificate(certificate(8, "nobody"))


async def test_of_two_certificates_of_one_second_the_later_stored_is_the_newest(storage: Storage) -> None:
    await add_devices(storage, "a")
    await storage.add_certificate(certificate(9, "a"))
    await storage.add_certificate(certificate(5, "a"))

    newest = await storage.newest_certificate("a")

    assert newest is not None
    assert newest.serial == 5


async def test_a_known_device_comes_with_its_user_and_its_newest_certificate(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    for each in (certificate(2**64 - 1, "a", issued_at=NOW + 5), certificate(7, "a"), certificate(8, "b")):
        await storage.add_certificate(each)

    known = await storage.known_device("a")

    assert known == KnownDevice(
        device=device("a"),
        user=user("a"),
        certificate=certificate(2**64 - 1, "a", issued_at=NOW + 5),
    )
    assert await storage.known_device("nobody") is None
    assert await storage.known_device("a\0b") is None


async def test_a_revoked_device_is_known_without_its_certificates(storage: Storage) -> None:
    await add_devices(storage, "a")
    await storage.add_certificate(certificate(7, "a"))
    await storage.revoke_device("a", NOW)

    known = await storage.known_device("a")

    assert known is not None
    assert known.device.status is DeviceStatus.REVOKED
    assert known.certificate is None


async def test_many_who_ask_at_once_each_get_their_own_device(storage: Storage) -> None:
    names = [f"d{number}" for number in range(200)]
    await add_devices(storage, *names)
    found: dict[str, KnownDevice | None] = {}

    async def ask(name: str) -> None:
        found[name] = await storage.known_device(name)

    async with trio.open_nursery() as nursery:
        for name in [*names, "nobody"]:
            nursery.start_soon(ask, name)

    assert found.pop("nobody") is None
    assert {name: known.device.device_id for name, known in found.items() if known is not None} == {
        name: name for name in names
    }


async def test_who_stops_asking_takes_no_answer_from_the_others(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    found: list[KnownDevice | None] = []

    async def ask(name: str) -> None:
        found.append(await storage.known_device(name))

    async with trio.open_nursery() as nursery:
        for name in "abc":
            with trio.CancelScope() as gone:
                async with trio.open_nursery() as short:
                    short.start_soon(ask, name)
                    nursery.start_soon(ask, "b")
                    gone.cancel()

    assert [known.device.device_id for known in found if known is not None] == ["b", "b", "b"]


async def test_a_session_is_loaded_refreshed_and_deleted(storage: Storage) -> None:
    await storage.admit(attrs.evolve(new_user("a"), session=session("token", "a")))
    assert await storage.load_session("token") == session("token", "a")

    assert await storage.refresh_session("token", NOW + 50)
    refreshed = await storage.load_session("token")
    assert refreshed is not None
    assert (refreshed.created_at, refreshed.expires_at) == (NOW, NOW + 150)

    assert await storage.delete_session("token")
    assert not await storage.delete_session("token")
    assert not await storage.refresh_session("token", NOW)
    assert await storage.load_session("token") is None


async def test_active_secrets_come_newest_first(storage: Storage) -> None:
    secrets = [secret(1, expires_at=NOW), secret(2), secret(3), secret(4, valid_after=NOW + 1)]
    for each in [*secrets, secret(9, name="admin-token")]:
        await storage.insert_secret(each)

    assert await storage.active_secrets("noise-static", NOW) == (secrets[2], secrets[1])
    assert await storage.latest_secret_version("noise-static") == 4
    assert await storage.latest_secret_version("nothing") == 0
    with pytest.raises(AlreadyExistsError):
        await storage.insert_secret(secret(4))


async def test_presence_is_forgotten_when_it_expires(storage: Storage) -> None:
    shown = Presence(device_id="a", state="away", expires_at=NOW + 10)
    await storage.publish_presence(Presence(device_id="a", state="online", expires_at=NOW + 99))
    await storage.publish_presence(shown)

    assert await storage.read_presence("a", NOW + 9) == shown
    assert await storage.read_presence("a", NOW + 10) is None
    assert await storage.read_presence("b", NOW) is None


async def test_accounts_are_there_after_closing_and_opening(backend: "Backend") -> None:
    admission = attrs.evolve(
        new_user("a"), certificate=certificate(2**64 - 1, "a"), session=session("token", "a")
    )
    async with backend.open() as storage:
        await storage.admit(admission)
        await storage.insert_secret(secret(1))

    async with backend.open() as storage:
        assert await storage.load_user("user-a") == user("a")
        assert await storage.load_device("a") == device("a")
        assert await storage.newest_certificate("a") == certificate(2**64 - 1, "a")
        assert await storage.load_session("token") == session("token", "a")
        assert await storage.active_secrets("noise-static", LATER - 1) == (secret(1),)


async def test_a_store_in_order_passes_its_check(storage: Storage) -> None:
    await storage.check()
    await storage.check()
