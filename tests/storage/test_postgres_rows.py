"""What rows become in PostgreSQL: renewed epochs, large inboxes, room on the disk."""

import pytest

from commucat_storage import Confirm, InboxState, RefusalReason, StorageError, StorageUnavailableError
from commucat_storage.admission import RENEWAL_NUMBER
from commucat_storage.postgres import PostgresSettings, PostgresStorage, open_postgres
from databases.postgres_cluster import run_sql
from databases.postgres_databases import PostgresDatabases
from storage.storage_builders import (
    LATER,
    NOW,
    accepted,
    add_devices,
    confirm,
    known,
    message,
    numbers,
    refused,
    send,
    stored,
)


@pytest.fixture
def dsn(postgres_databases: PostgresDatabases) -> str:
    return postgres_databases.migrated()


async def plan_of(storage: PostgresStorage, query: str, *args: object) -> str:
    rows = await storage._pool.read(lambda connection: connection.fetch(f"EXPLAIN {query}", *args))
    return "\n".join(str(row[0]) for row in rows)


async def test_an_inbox_near_the_end_of_its_numbers_gets_a_new_epoch_and_keeps_its_rows(dsn: str) -> None:
    async with open_postgres(dsn) as storage:
        old = (await add_devices(storage, "a", "b"))["a"]
        await send(storage, message("a", payload=b"1"), message("a", "b", payload=b"2"))
        run_sql(
            dsn,
            f"UPDATE relay_queue SET position = position + {RENEWAL_NUMBER} FROM inbox_offset "
            "WHERE entity_id = 'a' AND position >> 32 = inbox;"
            f"UPDATE inbox_offset SET next_number = next_number + {RENEWAL_NUMBER}, "
            f"confirmed = {RENEWAL_NUMBER} WHERE entity_id = 'a'",
        )
        assert numbers(await stored(storage, "a")) == [RENEWAL_NUMBER + 1, RENEWAL_NUMBER + 2]

        renewed = (await storage.admit(known("a"))).inbox

        assert renewed == InboxState(renewed.epoch, 3, 0)
        assert renewed.epoch != old.epoch
        assert [(row.number, row.payload) for row in await stored(storage, "a")] == [(1, b"1"), (2, b"2")]
        assert (await storage.admit(known("a"))).inbox == renewed
        [stale, sent] = await send(storage, Confirm("a", old.epoch, 1), message("a"))
        assert getattr(stale, "applied", None) is False
        assert accepted(sent) == {"a": 3}
        await confirm(storage, "a", 3)
        await confirm(storage, "b", 1)
    assert run_sql(dsn, "SELECT count(*) FROM relay_payload") == "0"


async def test_statements_find_rows_by_key_in_a_large_table(dsn: str) -> None:
    async with open_postgres(dsn) as storage:
        await add_devices(storage, "a", "b")
        run_sql(
            dsn,
            "INSERT INTO relay_queue (position, frame_type, channel, expires_at, size, payload) "
            "SELECT (inbox << 32) + n, 1, 7, 'infinity', 4, '\\x6d656f77' FROM inbox_offset, "
            "generate_series(1, 100000) AS n WHERE entity_id = 'a';"
            "UPDATE inbox_offset SET next_number = 100001, rows = 100000, bytes = 400000 "
            "WHERE entity_id = 'a'",
        )

        page = await storage.read_after("a", 50_000, limit_rows=10, limit_bytes=2**20, now=NOW)
        assert numbers(page.rows) == list(range(50_001, 50_011))
        assert (page.head, page.complete) == (100_000, False)
        plan = await plan_of(
            storage, "SELECT position FROM relay_queue WHERE position > $1 ORDER BY position LIMIT 10", 2**33
        )
        assert "Seq Scan" not in plan
        await confirm(storage, "a", 99_990)
        assert numbers(await stored(storage, "a")) == list(range(99_991, 100_001))
        counts = run_sql(dsn, "SELECT rows, bytes, stranger_rows FROM inbox_offset WHERE entity_id = 'a'")
        assert counts == "10|40|0"


async def test_a_database_that_is_as_large_as_it_may_be_refuses_messages(dsn: str) -> None:
    async with open_postgres(dsn, settings=PostgresSettings(max_database_bytes=0)) as storage:
        await add_devices(storage, "a")
        [outcome] = await send(storage, message("a"))

        assert refused(outcome) == {"a": RefusalReason.DISK_LOW}
        with pytest.raises(StorageUnavailableError, match="as large as it may be"):
            await storage.check()


async def test_what_never_expires_is_kept_for_ever(dsn: str) -> None:
    async with open_postgres(dsn) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a", expires_at=2**62 - 1), message("a", expires_at=LATER))

        assert (await storage.purge_expired(2**40)).messages == 1
        assert numbers(await stored(storage, "a", now=2**40)) == [1]


async def test_a_value_that_postgresql_cannot_hold_is_an_error_of_its_own(dsn: str) -> None:
    async with open_postgres(dsn) as storage:
        with pytest.raises(StorageError):
            await storage.purge_expired(2**70)
        await storage.check()
