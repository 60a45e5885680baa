"""Backups as folders: what was written is read again, and any damage is found before anything is used."""

import json
import resource
import stat
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_storage import CreateGroup, GroupRole
from commucat_storage.moving import (
    TABLES,
    BackupFolder,
    BackupWriter,
    DamagedBackupError,
    Manifest,
    MoveError,
    back_up,
    copy_store,
    open_backup,
)
from commucat_storage.moving.manifest import FORMAT, decode_manifest
from storage.moving_builders import SqliteHome, contents, rows_of, silent
from storage.storage_builders import LATER, NOW, add_devices, message, route, secret, send, stored


async def a_store(path: Path) -> SqliteHome:
    home = SqliteHome(path)
    async with home.open() as storage:
        await add_devices(storage, "a", "b", "c")
        await storage.insert_secret(secret(1))
        group = CreateGroup(
            "a", 3, "g", (("b", GroupRole.MEMBER), ("c", GroupRole.ADMIN)), True, 10, b"", LATER, NOW
        )
        await send(storage, route("a", 9, "b"), group, message("a", "b", payload=b"to both"), message("c"))
    return home


async def a_backup(home: SqliteHome, folder: Path) -> BackupFolder:
    async with home.snapshot() as source:
        writer = BackupWriter(folder)
        await back_up(source, writer, silent)
        writer.add_file("keys/federation.seed", [b"ab", b"cd"])
        writer.complete(
            created_at=NOW, program="1", domain="cats.example", server_public="ab" * 32, facts=source.facts
        )
    return open_backup(folder)


async def test_what_was_written_is_read(tmp_path: Path) -> None:
    home = await a_store(tmp_path / "store.db")
    backup = await a_backup(home, tmp_path / "backup")

    backup.check_files(lambda name, done, total: None)

    expected = await contents(home)
    assert {table.name: await rows_of(backup, table) for table in backup.tables} == expected
    assert [await backup.count(table) for table in backup.tables] == list(map(len, expected.values()))
    assert b"".join(backup.parts("keys/federation.seed")) == b"abcd"
    assert decode_manifest(backup.manifest.encode()) == backup.manifest
    for path in [backup.folder, *backup.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


async def test_a_backup_is_a_snapshot_of_a_store_in_use(tmp_path: Path) -> None:
    home = await a_store(tmp_path / "store.db")
    before = await contents(home)
    async with home.open() as storage, home.snapshot() as source:
        await send(storage, message("a", payload=b"later"))
        [queue] = [table for table in source.tables if table.name == "relay_queue"]
        assert await rows_of(source, queue) == before["relay_queue"]
        assert (await stored(storage, "a"))[-1].payload == b"later"


async def test_a_store_that_was_restored_delivers_what_was_queued(tmp_path: Path) -> None:
    home = await a_store(tmp_path / "store.db")
    backup = await a_backup(home, tmp_path / "backup")
    there = SqliteHome(tmp_path / "other.db")
    async with there.target() as target:
        await copy_store(backup, target, origin="the backup", progress=silent)

    assert await contents(there) == await contents(home)
    async with home.open() as old, there.open() as new:
        for name in "abc":
            assert await stored(new, name) == await stored(old, name)
            before, after = await old.inbox_state(name), await new.inbox_state(name)
            assert before is not None
            assert after is not None
            assert before.epoch != after.epoch


def of_older_version(manifest: Manifest, name: str, columns: tuple[str, ...], rows: int) -> bytes:
    """The text of a manifest in which a table has these columns."""
    entry = attrs.evolve(manifest.tables["app_user"], columns=columns, rows=rows)
    return attrs.evolve(manifest, tables={**manifest.tables, name: entry}).encode()


async def test_columns_that_came_later_are_absent_in_older_backups(tmp_path: Path) -> None:
    manifest = (await a_backup(await a_store(tmp_path / "store.db"), tmp_path / "backup")).manifest
    [queue] = [table for table in TABLES if table.name == "relay_queue"]
    older = tuple(column.name for column in queue.columns[:-3])

    written = decode_manifest(of_older_version(manifest, "relay_queue", older, 3)).written(queue)

    assert written is not None
    assert written.columns == queue.columns[:-3]
    for wrong in (older[:3], (*older, "target"), (*older, "sender", "target", "group_id", "more")):
        with pytest.raises(MoveError, match="columns that this program does not know"):
            decode_manifest(of_older_version(manifest, "relay_queue", wrong, 3))


async def test_a_table_with_other_columns_is_passed_over_if_it_is_empty(tmp_path: Path) -> None:
    manifest = (await a_backup(await a_store(tmp_path / "store.db"), tmp_path / "backup")).manifest
    columns = ("key", "scope", "created_at")

    decoded = decode_manifest(of_older_version(manifest, "idempotency", columns, 0))

    assert [decoded.written(table) for table in TABLES if table.name == "idempotency"] == [None]
    with pytest.raises(MoveError, match="columns that this program does not know"):
        decode_manifest(of_older_version(manifest, "idempotency", columns, 1))


async def test_tables_that_are_not_moved_any_more_are_passed_over_in_older_backups(tmp_path: Path) -> None:
    manifest = (await a_backup(await a_store(tmp_path / "store.db"), tmp_path / "backup")).manifest

    decoded = decode_manifest(of_older_version(manifest, "call_sessions", ("call_id", "channel_id"), 3))

    assert "call_sessions" in decoded.tables
    assert "call_sessions" not in {table.name for table in TABLES}


def break_file(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    match how:
        case "flipped":
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[:-1])
        case "longer":
            path.write_bytes(content + b"\n")
        case "gone":
            path.unlink()
        case _:
            raise AssertionError(how)


@pytest.mark.parametrize("how", ["flipped", "cut", "longer", "gone"])
async def test_every_damaged_file_is_named(tmp_path: Path, how: str) -> None:
    home = await a_store(tmp_path / "store.db")
    backup = await a_backup(home, tmp_path / "backup")
    files = [path for path in backup.folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert len(files) == len(backup.tables) + 1
    for path in files:
        content = path.read_bytes()
        if not content and how in ("flipped", "cut"):
            continue
        break_file(path, how)
        with pytest.raises(DamagedBackupError) as caught:
            backup.check_files(lambda name, done, total: None)
        assert str(path) in str(caught.value)
        path.write_bytes(content)
    backup.check_files(lambda name, done, total: None)


def a_manifest() -> Manifest:
    return Manifest(
        created_at=NOW,
        program="1",
        domain="cats.example",
        server_public=None,
        backend="sqlite",
        schema_version=3,
        cluster_id=None,
        tables={},
        files={},
    )


@given(st.data())
def test_no_byte_of_a_manifest_can_be_changed(data: st.DataObject) -> None:
    text = bytearray(a_manifest().encode())
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_manifest(bytes(text))
    except MoveError:
        return
    # Only the white space between the values means nothing.
    assert found == a_manifest()


@given(st.binary(max_size=200))
def test_garbage_is_no_manifest(text: bytes) -> None:
    with pytest.raises(DamagedBackupError):
        decode_manifest(text)


def test_a_newer_format_is_named_whatever_else_it_has() -> None:
    with pytest.raises(MoveError, match=f"format {FORMAT + 1}, and this program knows {FORMAT}"):
        decode_manifest(json.dumps({"format": FORMAT + 1, "new": []}).encode())


async def test_a_table_or_column_of_another_version_is_refused(tmp_path: Path) -> None:
    backup = await a_backup(await a_store(tmp_path / "store.db"), tmp_path / "backup")
    tables = dict(backup.manifest.tables)
    entry = tables["route"]
    for changed in (
        {"mood": entry},
        {"route": attrs.evolve(entry, columns=(*entry.columns, "colour"))},
    ):
        text = attrs.evolve(backup.manifest, tables={**tables, **changed}).encode()
        with pytest.raises(MoveError, match=r"with the version of the program that wrote it \(1\)"):
            decode_manifest(text)


@pytest.mark.parametrize("name", ["../out", "keys/../../out", "/etc/passwd", "keys/", "other/x", "keys/.x"])
async def test_a_file_outside_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    backup = await a_backup(await a_store(tmp_path / "store.db"), tmp_path / "backup")
    entry = backup.manifest.files["keys/federation.seed"]
    with pytest.raises(MoveError, match="that no server has"):
        decode_manifest(attrs.evolve(backup.manifest, files={name: entry}).encode())


async def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path) -> None:
    home = await a_store(tmp_path / "store.db")
    await a_backup(home, tmp_path / "backup")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear cat")

    with pytest.raises(MoveError, match="holds a backup already"):
        BackupWriter(tmp_path / "backup")
    with pytest.raises(MoveError, match="is not empty already"):
        BackupWriter(tmp_path / "mine")
    assert (tmp_path / "mine" / "letter").read_text() == "dear cat"


async def test_an_unfinished_backup_is_none_and_can_be_made_anew(tmp_path: Path) -> None:
    home = await a_store(tmp_path / "store.db")
    async with home.snapshot() as source:
        await back_up(source, BackupWriter(tmp_path / "backup"), silent)

    with pytest.raises(MoveError, match="was not finished"):
        open_backup(tmp_path / "backup")
    backup = await a_backup(home, tmp_path / "backup")
    backup.check_files(lambda name, done, total: None)
    assert not (tmp_path / "backup" / "unfinished").exists()


def test_a_folder_without_a_manifest_is_no_backup(tmp_path: Path) -> None:
    with pytest.raises(MoveError, match=r"is no backup: manifest\.json is missing"):
        open_backup(tmp_path)


async def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    home = await a_store(tmp_path / "store.db")
    writer = BackupWriter(tmp_path / "backup")
    (tmp_path / "backup" / "tables").rmdir()
    async with home.snapshot() as source:
        with pytest.raises(MoveError, match=r"app_user\.jsonl: cannot be written: No such file or directory"):
            await back_up(source, writer, silent)


async def test_a_full_disk_is_one_line_and_leaves_no_backup(tmp_path: Path) -> None:
    home = await a_store(tmp_path / "store.db")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with home.snapshot() as source:
        writer = BackupWriter(tmp_path / "backup")
        # As a full disk, but of this process alone.
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
        try:
            with pytest.raises(MoveError, match="cannot be written: File too large"):
                await back_up(source, writer, silent)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(MoveError, match="was not finished"):
        open_backup(tmp_path / "backup")
