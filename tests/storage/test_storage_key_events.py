"""The audit trail of keys, for every backend, and the file that old events go to."""

from pathlib import Path

import attrs
import pytest

from commucat_storage import AlreadyExistsError, KeyEvent, Storage
from commucat_storage.key_archive import ArchiveError, append_events, read_archive
from storage.storage_builders import NOW, add_devices, certificate, key_of


def event(number: int, name: str = "a", recorded_at: int = NOW) -> KeyEvent:
    return KeyEvent(
        event_id=f"event-{number}", device_id=name, public_key=key_of(name), recorded_at=recorded_at
    )


async def add(storage: Storage, *events: KeyEvent) -> None:
    for each in events:
        serial = int(each.event_id.removeprefix("event-"))
        await storage.add_certificate(certificate(serial, each.device_id), each)


async def test_a_certificate_is_stored_with_its_event_or_not_at_all(storage: Storage) -> None:
    await add_devices(storage, "a")
    await add(storage, event(1))
    assert event(1) in await storage.key_events("a")

    with pytest.raises(AlreadyExistsError):
        await storage.add_certificate(certificate(8, "a", issued_at=NOW + 1), event(1))

    newest = await storage.newest_certificate("a")
    assert newest is not None
    assert newest.serial == 1


async def test_events_come_in_their_order_and_of_their_device_only(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await add(storage, event(2, recorded_at=NOW + 2), event(1, recorded_at=NOW + 1), event(3, "b", NOW + 3))
    assert [each.event_id for each in await storage.key_events("a")] == ["event-1", "event-2"]
    assert await storage.key_events("nobody") == ()


async def test_old_events_never_include_the_newest_of_a_device(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await add(storage, *(event(number, recorded_at=NOW + number) for number in (1, 2, 3)))
    await add(storage, event(9, "b", NOW - 50))

    async def old(before: int, limit: int = 10) -> list[str]:
        return [each.event_id for each in await storage.old_key_events(before, limit)]

    assert await old(NOW + 100) == ["event-1", "event-2"]
    assert await old(NOW + 2) == ["event-1"]
    assert await old(NOW + 1) == []
    assert await old(NOW + 100, 1) == ["event-1"]


async def test_forgotten_events_are_gone(storage: Storage) -> None:
    await add_devices(storage, "a")
    await add(storage, event(1, recorded_at=NOW + 1), event(2, recorded_at=NOW + 2))
    assert await storage.forget_key_events(["event-1", "unknown"]) == 1
    assert "event-1" not in {each.event_id for each in await storage.key_events("a")}


def test_an_archive_gives_back_each_event_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key-events.jsonl"
    assert read_archive(path) == []
    lines = append_events(path, [event(1), event(2)])
    append_events(path, [event(2), event(3)])  # after a crash before the deletion
    assert path.read_bytes().startswith(lines)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_archive(path) == [event(1), event(2), event(3)]


def test_a_torn_line_is_passed_over_and_a_damaged_one_named(tmp_path: Path) -> None:
    path = tmp_path / "key-events.jsonl"
    append_events(path, [event(1), event(2)])
    path.write_bytes(path.read_bytes()[:-30])
    append_events(path, [event(2)])
    assert read_archive(path) == [event(1), event(2)]
    path.write_bytes(path.read_bytes().replace(b'"recorded_at"', b'"recorded"', 1))
    with pytest.raises(ArchiveError, match="line 1"):
        read_archive(path)


def test_events_in_an_archive_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "key-events.jsonl"
    odd = attrs.evolve(event(1), device_id='quote" and \u2028 line')
    append_events(path, [odd])
    assert read_archive(path) == [odd]


async def test_no_certificate_and_event_of_a_key_that_is_gone(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    told = await storage.key_events("a")
    stranger = attrs.evolve(event(1), public_key=key_of("another"))
    assert not await storage.add_certificate(certificate(1, "a"), stranger)
    assert not await storage.add_certificate(certificate(2, "nobody"), event(2, "nobody"))
    await storage.revoke_device("b", NOW)
    assert not await storage.add_certificate(certificate(3, "b"), event(3, "b"))

    assert await storage.key_events("a") == told
    assert [await storage.newest_certificate(name) for name in ("a", "b", "nobody")] == [None] * 3
