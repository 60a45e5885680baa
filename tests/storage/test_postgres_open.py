"""Opening a PostgreSQL database: migrations, adoption, and one clear line for everything that is wrong."""

import functools
from pathlib import Path

import attrs
import pytest
import trio

from commucat_proto.frames import FrameType
from commucat_storage import (
    CommitFailedError,
    ConfirmedMessage,
    ConfirmOutcome,
    DeviceStatus,
    Friend,
    GroupRole,
    Once,
    Storage,
    StorageError,
    StorageUnavailableError,
    SubmissionOutcome,
)
from commucat_storage.asyncio_loop import open_loop
from commucat_storage.postgres import (
    PostgresSettings,
    migrate_postgres,
    open_postgres,
    place_of,
    postgres_status,
)
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.migrate import apply_migrations, bundled_migrations
from commucat_storage.postgres.storage import with_connection
from commucat_storage.postgres.texts import from_database, to_database
from databases.postgres_cluster import PostgresCluster, run_sql
from databases.postgres_databases import PostgresDatabases
from storage import reference_schema
from storage.storage_builders import (
    LATER,
    NOW,
    accepted,
    add_devices,
    confirm,
    message,
    new_user,
    numbers,
    refused,
    send,
    stored,
)

IMPATIENT = PostgresSettings(connect_timeout=2.0, reconnect_timeout=0.1)


@pytest.fixture
def empty(postgres_databases: PostgresDatabases) -> str:
    return postgres_databases.empty()


async def error_of(dsn: str, settings: PostgresSettings = IMPATIENT) -> StorageError:
    with pytest.raises(StorageError) as caught:
        async with open_postgres(dsn, settings=settings):
            pass
    assert "\n" not in str(caught.value)
    return caught.value


# -- migrations --------------------------------------------------------------------------------------


async def test_an_empty_database_gets_every_migration_once(empty: str) -> None:
    before = await postgres_status(empty)
    applied = await migrate_postgres(empty)
    after = await postgres_status(empty)

    assert before.schema_version == 0
    assert list(before.pending) == applied
    assert applied[0] == "initial"
    assert after.pending == ()
    assert after.schema_version == after.latest_version
    assert len(applied) == len(bundled_migrations())
    assert await migrate_postgres(empty) == []


async def test_rows_that_asked_before_the_migration_are_counted_by_it(empty: str) -> None:
    async def migrate_as_before(connection: Connection) -> None:
        await apply_migrations(connection, empty, IMPATIENT, bundled_migrations()[:13])

    async with open_loop() as loop:
        await loop.run(lambda: with_connection(empty, IMPATIENT, migrate_as_before))
    run_sql(
        empty,
        "INSERT INTO app_user (user_id, handle, created_at) VALUES ('u', 'h', now());"
        "INSERT INTO user_device VALUES ('a', 'u', decode(repeat('00', 32), 'hex'), 'active', now()),"
        "('b', 'u', decode(repeat('01', 32), 'hex'), 'active', now());"
        "INSERT INTO inbox_offset (entity_id, epoch, next_number, rows, bytes) "
        "VALUES ('a', repeat('e', 32), 3, 2, 2), ('b', repeat('f', 32), 1, 0, 0);"
        "INSERT INTO relay_queue (position, frame_type, channel, expires_at, size, payload, reporter) "
        "SELECT (inbox << 32) + n, 5, 7, 'infinity', 1, '\\x00', CASE n WHEN 1 THEN 's' END "
        "FROM inbox_offset, generate_series(1, 2) AS n WHERE entity_id = 'a'",
    )

    assert (await migrate_postgres(empty))[0] == "reports_and_rooms"

    assert run_sql(empty, "SELECT rows, reports FROM inbox_offset ORDER BY entity_id") == "2|1\n0|0"
    async with open_postgres(empty) as storage:
        outcome = await confirm(storage, "a", 2)
        assert outcome == ConfirmOutcome(True, 2, (ConfirmedMessage("s", 7, b"", 2**42),))


async def test_several_processes_may_migrate_at_once(empty: str) -> None:
    applied: list[list[str]] = []

    async def migrate() -> None:
        applied.append(await migrate_postgres(empty))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(migrate)

    names = [name for each in applied for name in each]
    assert len(names) == len(set(names)) == len(bundled_migrations())


async def test_every_table_is_there_under_both_names(empty: str) -> None:
    await migrate_postgres(empty)

    names = set(run_sql(empty, "SELECT relname FROM pg_class WHERE relkind IN ('r', 'v')").split())

    views = {"users", "devices", "sessions", "pairing_tokens", "device_rotations", "inbox_offsets"}
    tables = {"schema_migration", "device_certificates", "call_sessions", "call_media_tracks"}
    assert names >= {*reference_schema.TABLES, *views, *tables}
    run_sql(
        empty,
        "INSERT INTO users (user_id, handle, created_at) VALUES ('u', 'h', now());"
        "INSERT INTO devices VALUES ('d', 'u', decode(repeat('00', 32), 'hex'), 'active', now());",
    )
    assert run_sql(empty, "SELECT handle FROM app_user JOIN user_device USING (user_id)") == "h"


async def test_a_database_of_another_server_is_taken_over_with_its_rows(empty: str) -> None:
    await trio.to_thread.run_sync(reference_schema.fill, empty)

    async with open_postgres(empty, settings=PostgresSettings(domain="cats.example")) as storage:
        ann = await storage.load_user_by_handle("ann", "cats.example")
        assert ann is not None
        assert (ann.user_id, ann.display_name) == ("user-ann", "Ann")
        device = await storage.load_device("bo")
        assert device is not None
        assert device.status is DeviceStatus.REVOKED
        group = await storage.load_group("g")
        assert group is not None
        assert group.members == {"ann": GroupRole.OWNER, "bo": GroupRole.ADMIN}
        [secret] = await storage.active_secrets("noise-static", NOW)
        assert (secret.version, secret.secret, secret.metadata) == (3, b"private", "{}")
        # A token that was stored in clear, and made of a clock, opens nothing any more.
        assert await storage.load_session("token in clear") is None
        rows = await stored(storage, "ann")
        assert [(row.number, row.channel, row.payload) for row in rows] == [
            (1, 7, b"first"),
            (2, 2**32 - 1, b"x" * 300),
        ]
        [outcome] = await send(storage, message("ann"))
        assert accepted(outcome) == {"ann": 3}
        assert await storage.friends_of("user-ann") == (
            Friend(user_id="user-bo", alias="B"),
            Friend(user_id="old"),
        )
        await adopted_federation(storage)
    left = "o2\no3\no4"
    assert run_sql(empty, "SELECT outbox_id FROM federation_outbox ORDER BY outbox_id") == left
    # What could not be read as a list, and what is no list, is left.
    assert (
        run_sql(empty, "SELECT user_id, key FROM user_blob ORDER BY key") == "user-bo|friends\nuser-bo|other"
    )
    # Adopted once: opening it again changes nothing.
    async with open_postgres(empty) as storage:
        # The third has expired meanwhile.
        assert numbers(await stored(storage, "ann")) == [1, 2, 4]


async def adopted_federation(storage: Storage) -> None:
    """What another server knew of others, and what was on its way to them."""
    created = 1_759_658_400
    page = await storage.outbox_page("b.example", 0, limit_rows=9, limit_bytes=999, now=created)
    assert page is not None
    assert [
        (row.number, row.frame_type, row.channel, row.payload, row.sender_handle, row.target)
        for row in page.rows
    ] == [
        (1, int(FrameType.MSG), 9, b"one", "ann", "kim@B.example"),
        (2, int(FrameType.MSG), 9, b"two", "ann", "kim@b.example"),
    ]
    assert page.rows[0].expires_at == created + 30 * 86_400
    # Nobody has said yet that there is such a peer.
    [standing] = await storage.outboxes()
    assert (standing.open, standing.rows, standing.bytes) == (False, 2, 6)
    state = await storage.queue_state(0)
    assert state.inboxes == 1
    assert [(each.domain, each.endpoint, each.status.value) for each in await storage.peers()] == [
        ("b.example", "https://b", "active"),
        ("odd.example", "https://odd", "blocked"),
    ]
    for user_id, request_id, incoming, other, status in (
        ("user-ann", "out", False, "kim@B.example", "pending"),
        ("user-bo", "in", True, "tom@b.example", "rejected"),
    ):
        request = await storage.load_remote_request(request_id)
        assert request is not None
        assert (request.user_id, request.incoming, request.other_address) == (user_id, incoming, other)
        assert (request.status.value, request.created_at) == (status, created * 1_000_000)
    assert await storage.load_remote_request("older") is await storage.load_remote_request("lost") is None
    known = Once("federation-inbox", "federation:b.example:1", LATER)
    [outcome] = await send(storage, attrs.evolve(message("ann"), once=known))
    assert isinstance(outcome, SubmissionOutcome)
    assert outcome.duplicate
    await storage.purge_expired(created + 7 * 86_400)
    [outcome] = await send(storage, attrs.evolve(message("ann"), once=known))
    assert accepted(outcome) == {"ann": 4}


async def test_a_migration_that_fails_leaves_what_came_before_it(empty: str) -> None:
    # In the way of 0010: something else has the name of one of its tables.
    run_sql(empty, "CREATE TABLE call_sessions (x int)")

    error = await error_of(empty)

    assert "call_sessions" in str(error)
    assert (await postgres_status(empty)).schema_version == 9
    assert run_sql(empty, "SELECT to_regclass('device_certificates') IS NULL") == "t"


async def test_a_missing_table_is_named(empty: str) -> None:
    await migrate_postgres(empty)
    async with open_postgres(empty) as storage:
        run_sql(empty, "DROP TABLE readiness")
        with pytest.raises(StorageError, match="readiness"):
            await storage.check()


# -- who may use it ----------------------------------------------------------------------------------


async def test_two_clusters_do_not_share_a_database(empty: str) -> None:
    async with open_postgres(empty, settings=PostgresSettings(domain="a.example")):
        error = await error_of(empty, PostgresSettings(domain="b.example"))

    assert "belongs to the server of the domain 'a.example'" in str(error)
    async with open_postgres(empty, settings=PostgresSettings(domain="a.example")) as storage:
        await storage.check()


async def test_a_role_that_loses_its_rights_fails_the_commit(postgres_cluster: PostgresCluster) -> None:
    name = postgres_cluster.new_database()
    dsn = postgres_cluster.dsn(name)
    async with open_postgres(dsn) as storage:
        await add_devices(storage, "a")
        postgres_cluster.sql("ALTER TABLE relay_queue RENAME TO gone", name)
        with pytest.raises(CommitFailedError, match="relay_queue"):
            await storage.commit([message("a")])
        postgres_cluster.sql("ALTER TABLE gone RENAME TO relay_queue", name)
        await send(storage, message("a"))
        assert numbers(await stored(storage, "a")) == [1]


@pytest.mark.parametrize(
    ("dsn", "text"),
    [
        ("postgresql://127.0.0.1:1/x", "cannot be reached"),
        ("postgresql:///x?host=/nowhere", "cannot be reached"),
        ("mysql://localhost/x", "cannot be used"),
        ("postgresql://localhost:port/x", "cannot be used"),
        ("postgresql://localhost/x?sslmode=perhaps", "cannot be used"),
    ],
)
async def test_an_address_without_a_server_is_told_in_one_line(dsn: str, text: str) -> None:
    error = await error_of(dsn)

    assert isinstance(error, StorageUnavailableError)
    assert text in str(error)


async def test_tls_is_used_and_checked_as_the_address_says(
    postgres_cluster: PostgresCluster, tmp_path: Path
) -> None:
    name = postgres_cluster.new_database()
    postgres_cluster.sql("DROP ROLE IF EXISTS careful")
    postgres_cluster.sql("CREATE ROLE careful SUPERUSER LOGIN PASSWORD 'secret'")
    trusted = tmp_path / "ca.crt"
    trusted.write_bytes(postgres_cluster.certificate.read_bytes())
    address = functools.partial(postgres_cluster.tcp_dsn, name, "careful", "secret")

    status = await postgres_status(address(f"?sslmode=verify-full&sslrootcert={trusted}"))
    assert status.tls
    assert not (await postgres_status(address("?sslmode=disable"))).tls
    # Signed by nobody that this one knows.
    other = Path(__file__).parents[1] / "databases" / "other_ca.crt"
    assert "certificate" in str(await error_of(address(f"?sslmode=verify-full&sslrootcert={other}"))).lower()


def test_places_show_no_password() -> None:
    assert place_of("postgresql://me:secret@db.example:5433/cats") == (
        "PostgreSQL at db.example:5433, database cats"
    )
    assert "secret" not in place_of("postgresql://me:secret@[bad/cats")


# -- what is stored ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "a", "ä\U0001f408", "\0", "a\ud800b", "\ue000", "\ue0000000", "\\x00"])
def test_any_text_comes_back(text: str) -> None:
    written = to_database(text)

    assert from_database(written) == text
    assert "\0" not in written
    written.encode()


async def test_names_that_postgresql_cannot_hold_are_stored_all_the_same(empty: str) -> None:
    async with open_postgres(empty) as storage:
        await storage.admit(new_user("nul\0\ue000"))
        [outcome] = await send(storage, message("nul\0\ue000", "nul", "\ud800"))

        assert accepted(outcome) == {"nul\0\ue000": 1}
        assert set(refused(outcome)) == {"nul", "\ud800"}


async def test_a_commit_is_durable_although_the_server_says_off(postgres_cluster: PostgresCluster) -> None:
    name = postgres_cluster.new_database()
    postgres_cluster.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")

    async with open_postgres(postgres_cluster.dsn(name)) as storage:
        value = await storage._pool.read(lambda connection: connection.fetchval("SHOW synchronous_commit"))

    assert value == "on"
