"""Opening the SQLite store: files that are not what they should be, and migrations."""

import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
import trio

from commucat_storage import (
    SchemaError,
    SqliteSettings,
    StorageUnavailableError,
    migrate_sqlite,
    open_sqlite,
    sqlite_status,
)
from commucat_storage.sqlite import migrate
from commucat_storage.sqlite.connection import connect_writer
from commucat_storage.sqlite.migrate import Migration, apply_migrations, bundled_migrations
from storage.storage_builders import add_devices, message, send, stored

PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def open_and_close(path: Path) -> None:
    async with open_sqlite(path):
        pass


@contextmanager
def without_privileges() -> Iterator[None]:
    """Modes mean nothing to root; act as somebody else meanwhile."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def spoil(path: Path, start: int, count: int) -> None:
    """Overwrite ``count`` pages with rubbish, from page ``start`` on (from the end if negative)."""
    content = bytearray(path.read_bytes())
    offset = (start if start >= 0 else len(content) // PAGE + start) * PAGE
    content[offset : offset + count * PAGE] = b"\xa5" * (count * PAGE)
    path.write_bytes(content)


async def test_a_new_database_is_created_for_its_owner_only(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a")
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


async def test_every_commit_is_forced_to_the_disk(path: Path) -> None:
    connection = connect_writer(path, SqliteSettings())

    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # 2: FULL
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
    connection.close()


def test_a_file_that_is_no_database_is_named_and_left_alone(path: Path) -> None:
    text = b"Dear diary, today I met a cat. " * 100
    path.write_bytes(text)

    for attempt in (migrate_sqlite, sqlite_status):
        with pytest.raises(SchemaError, match="not a SQLite database"):
            attempt(path)

    assert path.read_bytes() == text


async def test_a_damaged_database_is_refused(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a")
        for _ in range(20):
            await send(storage, *[message("a", payload=bytes(500))] * 20)
    spoil(path, -20, 3)

    with pytest.raises(SchemaError, match="damaged"):
        await open_and_close(path)


async def test_damage_met_while_reading_is_told(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a")
        await send(storage, *[message("a", payload=bytes(500))] * 400)
    spoil(path, -20, 10)

    async with open_sqlite(path, settings=SqliteSettings(quick_check_bytes=0)) as storage:
        with pytest.raises(SchemaError, match="damaged"):
            await stored(storage, "a")


def test_a_database_of_another_program_is_not_touched(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    before = path.read_bytes()

    for attempt in (migrate_sqlite, sqlite_status):
        with pytest.raises(SchemaError, match="another program"):
            attempt(path)

    assert path.read_bytes() == before


async def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError, match=r"nowhere/store\.db"):
        await open_and_close(tmp_path / "nowhere" / "store.db")


async def test_a_path_that_is_a_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError, match="cannot write"):
        await open_and_close(tmp_path)


def test_a_directory_that_is_not_writable_is_named(path: Path) -> None:
    path.parent.chmod(0o555)
    with without_privileges(), pytest.raises(StorageUnavailableError, match="check the data directory"):
        migrate_sqlite(path)
    path.parent.chmod(0o755)


def test_a_file_that_is_read_only_is_named(path: Path) -> None:
    migrate_sqlite(path)
    path.chmod(0o444)
    with without_privileges(), pytest.raises(StorageUnavailableError, match="check the data directory"):
        migrate_sqlite(path)


# -- migrations ------------------------------------------------------------------------------------


def test_migrations_are_numbered_without_gaps() -> None:
    assert [each.version for each in bundled_migrations()] == list(range(1, len(bundled_migrations()) + 1))


def test_migrating_applies_what_is_pending_once(path: Path) -> None:
    names = [each.name for each in bundled_migrations()]

    before = sqlite_status(path)
    assert (before.schema_version, before.pending) == (0, tuple(names))
    assert not path.exists()
    assert migrate_sqlite(path) == names
    assert migrate_sqlite(path) == []
    after = sqlite_status(path)
    assert (after.schema_version, after.pending) == (after.latest_version, ())
    assert after.size_bytes > 0


def test_the_status_of_an_empty_file(path: Path) -> None:
    path.touch()

    assert sqlite_status(path).schema_version == 0
    assert path.read_bytes() == b""


def test_a_checksum_is_sha_256_of_the_text(path: Path) -> None:
    migrate_sqlite(path)
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT version, name, checksum FROM schema_migration").fetchall()
    connection.close()

    assert rows == [(each.version, each.name, each.checksum) for each in bundled_migrations()]


async def test_an_edited_migration_is_refused(path: Path) -> None:
    migrate_sqlite(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE schema_migration SET checksum = zeroblob(32)")
    connection.commit()
    connection.close()

    for attempt in (sqlite_status, migrate_sqlite):
        with pytest.raises(SchemaError, match=r"store\.db.*edited"):
            attempt(path)
    with pytest.raises(SchemaError, match=r"store\.db.*edited"):
        await open_and_close(path)


async def test_a_newer_database_is_refused(path: Path) -> None:
    migrate_sqlite(path)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO schema_migration VALUES (9999, 'of_the_future', zeroblob(32), 0)")
    connection.commit()
    connection.close()

    for attempt in (sqlite_status, migrate_sqlite):
        with pytest.raises(SchemaError, match=r"9999 \(of_the_future\)"):
            attempt(path)
    with pytest.raises(SchemaError, match=r"store\.db.*does not know"):
        await open_and_close(path)


def test_a_migration_that_fails_leaves_nothing_and_the_ones_before_it_stay(path: Path) -> None:
    good = Migration(version=1, name="good", sql="CREATE TABLE good (a TEXT);\n", checksum=bytes(32))
    bad = Migration(
        version=2,
        name="bad",
        sql="CREATE TABLE half (a TEXT);\nCREATE TABLE half (a TEXT);\n",
        checksum=bytes(32),
    )
    connection = connect_writer(path, SqliteSettings())
    with pytest.raises(sqlite3.OperationalError):
        apply_migrations(connection, path, (good, bad))

    tables = {name for [name] in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert tables == {"schema_migration", "good"}
    fixed = attrs.evolve(bad, sql="CREATE TABLE half (a TEXT);\n")
    assert apply_migrations(connection, path, (good, fixed)) == ["bad"]
    connection.close()


def test_a_migration_that_was_left_out_is_noticed(path: Path) -> None:
    first, second = (
        Migration(version=version, name=f"m{version}", sql="", checksum=bytes(32)) for version in (1, 2)
    )
    connection = connect_writer(path, SqliteSettings())
    apply_migrations(connection, path, (second,))
    with pytest.raises(SchemaError, match=r"store\.db: migration 1 \(m1\) was left out"):
        apply_migrations(connection, path, (first, second))
    connection.close()


def test_a_migration_with_half_a_statement_is_refused(path: Path) -> None:
    connection = connect_writer(path, SqliteSettings())
    half = Migration(version=1, name="half", sql="CREATE TABLE t (a TEXT)", checksum=bytes(32))
    with pytest.raises(SchemaError, match="middle"):
        apply_migrations(connection, path, (half,))
    assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
    connection.close()


async def test_processes_that_migrate_at_once_do_it_once(path: Path) -> None:
    program = (
        "import sys, pathlib, commucat_storage as s; print(*s.migrate_sqlite(pathlib.Path(sys.argv[1])))"
    )
    outputs: list[str] = []

    async def process() -> None:
        done = await trio.run_process([sys.executable, "-c", program, str(path)], capture_stdout=True)
        outputs.extend(done.stdout.decode().split())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(process)

    # Each is a transaction of its own: they may share the work, and end in any order.
    assert sorted(outputs) == sorted(each.name for each in bundled_migrations())


def test_a_new_store_that_somebody_writes_to_is_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite gives up at once when the journal mode is to change and another process may write."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            other.execute("COMMIT")

    monkeypatch.setattr(time, "sleep", wait)
    connect_writer(path, SqliteSettings()).close()
    assert len(waits) == 2
    other.close()


def test_a_new_store_that_somebody_keeps_for_himself_is_named(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailableError, match=r"store\.db is locked by another process"):
        connect_writer(path, SqliteSettings(busy_timeout=0.05))
    other.close()


def test_opening_once_more_leaves_the_log_to_who_uses_it(path: Path) -> None:
    """A process gives up its locks on a file when it closes it, however it opened it. Another one that
    ends would take itself for the last, and delete the log."""
    first = connect_writer(path, SqliteSettings())
    second = connect_writer(path, SqliteSettings())
    first.execute("CREATE TABLE kept (a)")
    another = (
        "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM kept').connection.close()"
    )
    subprocess.run([sys.executable, "-c", another, str(path)], check=True)
    assert path.with_name("store.db-wal").exists()
    second.close()
    first.close()


def test_the_migration_files_are_part_of_the_package() -> None:
    assert (Path(migrate.__file__).parent / "migrations" / "0001_initial.sql").is_file()
