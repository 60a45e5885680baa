"""The tables that only PostgreSQL has: carried whole, or refused, never dropped in silence."""

from pathlib import Path

import pytest

from commucat_storage.moving import (
    TABLES,
    BackupWriter,
    MoveError,
    Table,
    back_up,
    copy_store,
    open_backup,
)
from commucat_storage.moving.tables import Column, Kind
from commucat_storage.postgres import migrate_postgres
from databases.postgres_cluster import run_sql
from databases.postgres_databases import PostgresDatabases
from storage.moving_builders import PostgresHome, SqliteHome, silent, transfer
from storage.storage_builders import NOW, add_devices

OTHERS = tuple(table for table in TABLES if not table.sqlite)
LITERALS = {
    Kind.TEXT: "'caf\u00e9 ''x''\n'",
    Kind.INT: "3",
    Kind.BYTES: "'\\x00ff'",
    Kind.TEXTS: "ARRAY['a', '', 'b,\"c']",
    Kind.DECIMAL: "18446744073709551615",
    Kind.MICROSECONDS: "'2025-10-05 10:00:00.123457+00'",
    Kind.JSON_VALUE: """'{"a": [1.50, null, "x"], "b": {}}'""",
}
# Those that refer to something, or take one of a few words.
WORDS = {"user_id": "user-a", "device_id": "a", "issuer_device_id": "a", "redeemed_device_id": "a"}
# What makes a second row possible, where that is not another first column.
DIFFERENT = {
    "friend_requests": ["id = 'other'", "from_user_id = 'other'"],
    "device_rotation_audit": ["rotation_id = 'other'", "new_public_key = '\\x01'"],
}


def literal(column: Column) -> str:
    word = WORDS.get(column.name)
    return LITERALS[column.kind] if word is None else f"'{word}'"


def fill_others(dsn: str) -> None:
    """One row with all values, and a second one with what may be absent being so."""
    for table in OTHERS:
        names = ", ".join(column.name for column in table.columns)
        full = ", ".join(map(literal, table.columns))
        run_sql(dsn, f"INSERT INTO {table.name} ({names}) VALUES ({full})")
        absent = [f"{column.name} = NULL" for column in table.columns if column.optional]
        if absent:
            changes = ", ".join([*DIFFERENT.get(table.name, [f"{table.columns[0].name} = 'other'"]), *absent])
            run_sql(
                dsn,
                f"CREATE TEMP TABLE t AS SELECT * FROM {table.name}; UPDATE t SET {changes}; "
                f"INSERT INTO {table.name} SELECT * FROM t",
            )


def texts_of(dsn: str) -> dict[str, str]:
    """All rows as PostgreSQL itself writes them."""
    return {
        table.name: run_sql(dsn, f"SELECT * FROM {table.name} ORDER BY {table.order}") for table in OTHERS
    }


@pytest.fixture
async def full(postgres_databases: PostgresDatabases) -> PostgresHome:
    home = PostgresHome(postgres_databases.empty())
    async with home.open() as storage:
        await add_devices(storage, "a")
    fill_others(home.dsn)
    return home


async def test_between_databases_nothing_of_them_changes(
    full: PostgresHome, postgres_databases: PostgresDatabases
) -> None:
    there = PostgresHome(postgres_databases.empty())
    before = texts_of(full.dsn)
    assert all(before.values())
    cluster = run_sql(full.dsn, "SELECT cluster_id FROM cluster")

    await transfer(full, there)

    assert texts_of(there.dsn) == before
    assert run_sql(there.dsn, "SELECT cluster_id FROM cluster") == cluster


async def test_a_backup_carries_them(
    full: PostgresHome, postgres_databases: PostgresDatabases, tmp_path: Path
) -> None:
    there = PostgresHome(postgres_databases.empty())
    async with full.snapshot() as source:
        writer = BackupWriter(tmp_path / "backup")
        await back_up(source, writer, silent)
        writer.complete(created_at=NOW, program="1", domain="d", server_public=None, facts=source.facts)
    async with there.target() as target:
        await copy_store(open_backup(tmp_path / "backup"), target, origin="backup", progress=silent)

    assert texts_of(there.dsn) == texts_of(full.dsn)


async def test_the_embedded_store_refuses_what_it_has_no_place_for(
    full: PostgresHome, tmp_path: Path
) -> None:
    there = SqliteHome(tmp_path / "store.db")
    with pytest.raises(MoveError, match="has no place for") as caught:
        await transfer(full, there)
    for table in OTHERS:
        assert f"{table.name} (" in str(caught.value)
    async with full.open() as storage:
        assert await storage.load_device("a") is not None

    names = [table.name for table in OTHERS]
    async with full.movable() as source, there.target() as target:
        copied = await copy_store(source, target, origin="x", progress=silent, leave_out=names)
    assert set(copied.left_out) == set(names)
    async with there.open() as storage:
        assert await storage.load_device("a") is not None


@pytest.mark.parametrize("table", OTHERS, ids=lambda table: table.name)
def test_every_value_of_them_is_filled(table: Table) -> None:
    assert all(column.kind in LITERALS for column in table.columns)


async def test_a_database_that_was_never_used_is_told(postgres_databases: PostgresDatabases) -> None:
    home = PostgresHome(postgres_databases.empty())
    with pytest.raises(MoveError, match="older schema, or none; run first: commucat-cli migrate"):
        async with home.snapshot():
            pass
    await migrate_postgres(home.dsn)
    async with home.snapshot() as source:
        assert [await source.count(table) for table in source.tables] == [0] * len(TABLES)
