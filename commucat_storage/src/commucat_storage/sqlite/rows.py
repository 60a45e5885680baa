"""Records as rows: the columns of a table carry the names of the record's fields."""

import sqlite3
from typing import TypeVar

import attrs

from commucat_storage.errors import AlreadyExistsError, StorageError

RecordT = TypeVar("RecordT", bound=attrs.AttrsInstance)


def insert(
    connection: sqlite3.Connection, table: str, record: attrs.AttrsInstance, *, taken: str, **replaced: object
) -> None:
    """Insert ``record``; ``replaced`` are columns that are stored otherwise or are no fields.

    Raises:
        AlreadyExistsError: a key is taken; the text is ``taken``.
        StorageError: any other constraint, such as an owner that does not exist.
    """
    values = {field.name: getattr(record, field.name) for field in attrs.fields(type(record))} | replaced
    columns = ", ".join(values)
    places = ", ".join("?" * len(values))
    try:
        connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", tuple(values.values()))  # noqa: S608
    except sqlite3.IntegrityError as exc:
        if exc.sqlite_errorcode in (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE):
            raise AlreadyExistsError(taken) from exc
        raise StorageError(f"{table} refused a row: {exc}") from exc


def select(
    connection: sqlite3.Connection,
    kind: type[RecordT],
    table: str,
    condition: str,
    parameters: tuple[object, ...],
) -> list[RecordT]:
    """All records of ``table`` for which ``condition`` (SQL, fixed text) holds."""
    fields = attrs.fields(kind)
    columns = ", ".join(field.name for field in fields)
    rows = connection.execute(f"SELECT {columns} FROM {table} WHERE {condition}", parameters)  # noqa: S608
    names = [field.name for field in fields]
    return [kind(**dict(zip(names, row, strict=True))) for row in rows]


def first(records: list[RecordT]) -> RecordT | None:
    """The first record, if any."""
    return records[0] if records else None
