"""Every table and column of both schemas is carried, or named with the reason why it is not."""

import sqlite3
from pathlib import Path

import pytest

from commucat_storage import migrate_sqlite
from commucat_storage.moving import TABLES, Table
from commucat_storage.moving.tables import NOT_MOVED, NOT_MOVED_COLUMNS
from commucat_storage.postgres import migrate_postgres
from databases.postgres_cluster import run_sql
from databases.postgres_databases import PostgresDatabases

Schema = dict[str, set[str]]


def carried(*, postgres: bool) -> Schema:
    """What the mover reads and writes, by table of the database."""
    found: Schema = {}
    for table in TABLES:
        if owned := table.owner_columns:
            found[table.database_name] = names(table, postgres=postgres, first=0, last=owned)
            found["inbox_offset"] = names(table, postgres=postgres, first=owned, last=None)
        elif postgres or table.sqlite:
            found[table.name] = names(table, postgres=postgres, first=0, last=None)
    return found


def names(table: Table, *, postgres: bool, first: int, last: int | None) -> set[str]:
    return {each.postgres_name if postgres else each.name for each in table.columns[first:last]}


def schema_of_sqlite(path: Path) -> Schema:
    migrate_sqlite(path)
    connection = sqlite3.connect(path)
    try:
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        return {
            name: {row[1] for row in connection.execute(f"PRAGMA table_info({name})")} for (name,) in tables
        }
    finally:
        connection.close()


async def schema_of_postgres(dsn: str) -> Schema:
    await migrate_postgres(dsn)
    lines = run_sql(
        dsn,
        "SELECT c.table_name, c.column_name FROM information_schema.columns AS c "
        "JOIN information_schema.tables AS t USING (table_schema, table_name) "
        "WHERE table_schema = 'public' AND t.table_type = 'BASE TABLE'",
    ).splitlines()
    schema: Schema = {}
    for line in lines:
        table, column = line.split("|")
        schema.setdefault(table, set()).add(column)
    return schema


def unknown_to_the_mover(schema: Schema, known: Schema) -> list[str]:
    """What a migration has added and nobody has thought of."""
    return [
        f"{table}.{column}"
        for table, columns in schema.items()
        if table not in NOT_MOVED
        for column in sorted(columns)
        if column not in known.get(table, set()) and f"{table}.{column}" not in NOT_MOVED_COLUMNS
    ]


def test_every_table_of_sqlite_is_known(tmp_path: Path) -> None:
    schema = schema_of_sqlite(tmp_path / "store.db")
    known = carried(postgres=False)

    assert unknown_to_the_mover(schema, known) == []
    assert {table: columns - schema[table] for table, columns in known.items()} == {
        table: set() for table in known
    }


async def test_every_table_of_postgres_is_known(postgres_databases: PostgresDatabases) -> None:
    schema = await schema_of_postgres(postgres_databases.empty())
    known = carried(postgres=True)

    assert unknown_to_the_mover(schema, known) == []
    assert {table: columns - schema[table] for table, columns in known.items()} == {
        table: set() for table in known
    }


def test_a_new_table_or_column_would_be_found() -> None:
    schema = {"route": {"device_id", "colour"}, "mood": {"cat"}, "session": {"anything"}}

    assert unknown_to_the_mover(schema, carried(postgres=True)) == ["route.colour", "mood.cat"]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_names_are_used_once(table: Table) -> None:
    assert len({column.name for column in table.columns}) == len(table.columns)
    assert [each.name for each in TABLES].count(table.name) == 1
