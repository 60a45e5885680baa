"""The SQL of a table: how its values are read from PostgreSQL and written there."""

from collections.abc import Sequence
from typing import Final

from commucat_storage.moving.tables import DEVICE, LATEST, OUTBOX, Column, Kind, Table

INBOX: Final = "inbox_offset"
_SMALL_ROW: Final = 65_536
"""Bytes up to which rows are read by the hundred."""
SMALL_ROWS: Final = 128
ENTITIES: Final = {DEVICE.name: "opaque_id", OUTBOX.name: "'@' || domain"}
"""What the inbox of an owner is called."""


def reading(table: Table) -> list[tuple[str, int]]:
    """Queries that together give all rows, in a fixed order, and how many rows to fetch at a time.

    Large rows come apart from the small ones: neither does a portion of them fill the memory, nor do
    single ones make everything slow.
    """
    columns = ", ".join(_read(column) for column in table.columns)
    source = table.database_name
    if table.owner_columns:
        source += f" JOIN {INBOX} ON entity_id = {ENTITIES[table.name]}"
    order = table.postgres_order or table.order
    # Texts are compared as bytes where that matters to nobody but the order's being fixed.
    base = f"SELECT {columns} FROM {source}"  # noqa: S608 - names of ours
    if table.size_of_row is None:
        return [(f"{base} ORDER BY {order}", SMALL_ROWS)]
    return [
        (f"{base} WHERE {table.size_of_row} <= {_SMALL_ROW} ORDER BY {order}", SMALL_ROWS),
        (f"{base} WHERE {table.size_of_row} > {_SMALL_ROW} ORDER BY {order}", 1),
    ]


def writing(table: str, columns: Sequence[Column]) -> str:
    """An INSERT with one parameter for each column."""
    names = ", ".join(column.postgres_name for column in columns)
    places = ", ".join(_written(column, index) for index, column in enumerate(columns, start=1))
    return f"INSERT INTO {table} ({names}) VALUES ({places})"  # noqa: S608 - names of ours


SETTLE: Final = (
    "UPDATE chat_group AS g SET owner_device = m.device_id FROM group_member AS m "
    "WHERE m.group_id = g.group_id AND m.role = 'owner'",
    # Ids that are given next lie above those that are here, of inboxes and in the keys of messages.
    "SELECT setval(pg_get_serial_sequence('inbox_offset', 'inbox'), top) FROM (SELECT greatest("
    "(SELECT max(inbox) FROM inbox_offset), (SELECT max(position) >> 32 FROM relay_queue)) AS top) AS t "
    "WHERE top IS NOT NULL",
    # Blocks of 65536 ids that begin with 1: the one of the highest id is taken.
    "SELECT setval('relay_payload_block', (top - 1) / 65536 * 65536 + 1) "
    "FROM (SELECT max(payload_id) AS top FROM relay_payload) AS t WHERE top IS NOT NULL",
)


def _read(column: Column) -> str:
    name = column.postgres_name
    match column.kind:
        case Kind.SECONDS:
            return f"extract(epoch FROM {name})::bigint"
        case Kind.EXPIRY:
            return f"extract(epoch FROM least({name}, to_timestamp({LATEST})))::bigint"
        case Kind.MICROSECONDS:
            return f"(extract(epoch FROM {name}) * 1000000)::bigint"
        case Kind.DECIMAL | Kind.JSON | Kind.JSON_VALUE:
            return f"{name}::text"
        case _:
            return name


def _written(column: Column, index: int) -> str:
    match column.kind:
        case Kind.SECONDS:
            return f"to_timestamp(${index}::float8)"
        case Kind.EXPIRY:
            value = f"${index}::bigint"
            return f"CASE WHEN {value} < {LATEST} THEN to_timestamp({value}) ELSE 'infinity' END"
        case Kind.MICROSECONDS:
            return f"'epoch'::timestamptz + ${index}::bigint * interval '1 microsecond'"
        case Kind.DECIMAL:
            return f"${index}::text::numeric"
        case Kind.JSON:
            return f"${index}::text::json"
        case Kind.JSON_VALUE:
            return f"${index}::text::jsonb"
        case _:
            return f"${index}"


def writing_owners(table: Table) -> tuple[str, str]:
    """An INSERT for the owners' columns, and one for those of their inboxes, entity and epoch."""
    owned = table.owner_columns
    inbox = [*table.columns[owned:], Column("entity_id", Kind.TEXT), Column("epoch", Kind.TEXT)]
    return writing(table.database_name, table.columns[:owned]), writing(INBOX, inbox)
