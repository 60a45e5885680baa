"""Records as rows. Times are whole Unix seconds in records and timestamps in tables."""

from typing import TypeVar

import asyncpg
import attrs

from commucat_storage.errors import AlreadyExistsError, StorageError
from commucat_storage.postgres.connection import Connection

RecordT = TypeVar("RecordT", bound=attrs.AttrsInstance)

# Fields that a table, as servers of this protocol have shared it, calls otherwise.
_COLUMNS = {
    "user_device": {"device_id": "opaque_id", "public_key": "pubkey"},
    "session": {"token_hash": "opaque_id"},
}
_TIMES = {
    "created_at",
    "recorded_at",
    "issued_at",
    "expires_at",
    "revoked_at",
    "refreshed_at",
    "valid_after",
    "rotates_at",
    "requested_at",
}
# metadata is JSON, serial a number beyond 64 bits of asyncpg's integers: both travel as text.
_READ_AS_TEXT = {"metadata", "serial"}
_WRITTEN = {"metadata": "::text::json", "serial": "::text::numeric"}


async def insert(
    connection: Connection, table: str, record: attrs.AttrsInstance, *, taken: str, **replaced: object
) -> None:
    """Insert ``record``; ``replaced`` are fields that are stored otherwise.

    Raises:
        AlreadyExistsError: a key is taken; the text is ``taken``.
        StorageError: any other constraint, such as an owner that does not exist.
    """
    values = {field.name: getattr(record, field.name) for field in attrs.fields(type(record))} | replaced
    names = _COLUMNS.get(table, {})
    columns = ", ".join(names.get(name, name) for name in values)
    places = ", ".join(_place(index, name) for index, name in enumerate(values, start=1))
    try:
        await connection.execute(
            f"INSERT INTO {table} ({columns}) VALUES ({places})",  # noqa: S608 - names of ours
            *values.values(),
        )
    except asyncpg.UniqueViolationError as exc:
        raise AlreadyExistsError(taken) from exc
    except asyncpg.IntegrityConstraintViolationError as exc:
        raise StorageError(f"{table} refused a row: {exc}") from exc


async def select(
    connection: Connection, kind: type[RecordT], table: str, condition: str, *parameters: object
) -> list[RecordT]:
    """All records of ``table`` for which ``condition`` (SQL, fixed text) holds."""
    fields = [field.name for field in attrs.fields(kind)]
    columns = columns_of(kind, table, table)
    rows = await connection.fetch(f"SELECT {columns} FROM {table} WHERE {condition}", *parameters)  # noqa: S608
    return [kind(**dict(zip(fields, row, strict=True))) for row in rows]


async def first(
    connection: Connection, kind: type[RecordT], table: str, condition: str, *parameters: object
) -> RecordT | None:
    """The first of those records, if any."""
    records = await select(connection, kind, table, condition, *parameters)
    return records[0] if records else None


def columns_of(kind: type[attrs.AttrsInstance], table: str, alias: str) -> str:
    """The columns of ``kind``, in the order of its fields, for a statement that joins ``table``."""
    names = _COLUMNS.get(table, {})
    fields = [field.name for field in attrs.fields(kind)]
    return ", ".join(_read(name, f"{alias}.{names.get(name, name)}") for name in fields)


def _place(index: int, name: str) -> str:
    if name in _TIMES:
        return f"to_timestamp(${index}::float8)"
    return f"${index}{_WRITTEN.get(name, '')}"


def _read(name: str, column: str) -> str:
    if name in _TIMES:
        return f"extract(epoch FROM {column})::bigint"
    return f"{column}::text" if name in _READ_AS_TEXT else column
