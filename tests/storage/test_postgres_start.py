"""Everything that keeps a server from its database: one line each, with its remedy and without a password."""

import asyncio
import functools
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
import trio

from commucat_storage import Confirm, StorageError
from commucat_storage.asyncio_loop import open_loop
from commucat_storage.postgres import PostgresSettings, migrate_postgres, open_postgres, place_of
from commucat_storage.postgres.connection import Connection, translate
from commucat_storage.postgres.migrate import bundled_migrations
from commucat_storage.postgres.problems import all_problems
from commucat_storage.postgres.storage import with_connection
from databases.postgres_cluster import PostgresCluster, private_standby, run_sql
from storage.storage_builders import NOW, add_devices, by_route, create, known, message, send

PASSWORD = "hunter2"
IMPATIENT = PostgresSettings(
    connect_timeout=2.0, reconnect_timeout=0.1, migrate_timeout=0.2, domain="cats.example"
)

# Makes what is wrong, and gives the address to open.
Situation = Callable[[PostgresCluster], AbstractAsyncContextManager[str]]


def plain(make: Callable[[PostgresCluster], str]) -> Situation:
    @asynccontextmanager
    async def situation(cluster: PostgresCluster) -> AsyncIterator[str]:
        yield make(cluster)

    return situation


def migrated(cluster: PostgresCluster, change: str = "") -> str:
    """The name of a database with the newest schema, in which something was changed."""
    name = cluster.new_database()
    template = "newest_schema"
    if cluster.sql(f"SELECT count(*) FROM pg_database WHERE datname = '{template}'") == "0":
        cluster.sql(f"CREATE DATABASE {template} TEMPLATE template0")
        tables = (
            "CREATE TABLE schema_migration (version integer PRIMARY KEY, name text NOT NULL, "
            "checksum bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());"
        )
        scripts = [
            f"BEGIN; {each.sql}; INSERT INTO schema_migration VALUES "
            f"({each.version}, '{each.name}', '\\x{each.checksum.hex()}'); COMMIT;"
            for each in bundled_migrations()
        ]
        run_sql(cluster.dsn(template), tables + "".join(scripts))
    cluster.sql(f"DROP DATABASE {name}")
    cluster.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    if change:
        cluster.sql(change, name)
    return name


def altered(change: str) -> Situation:
    return plain(lambda cluster: cluster.dsn(migrated(cluster, change)))


def role(cluster: PostgresCluster, options: str) -> str:
    """A new role; its name."""
    name = cluster.new_database().replace("test", "role")
    cluster.sql(f"CREATE ROLE {name} LOGIN {options}")
    return name


def with_wrong_password(cluster: PostgresCluster) -> str:
    return cluster.tcp_dsn("postgres", role(cluster, "PASSWORD 'right'"), PASSWORD)


def in_latin(cluster: PostgresCluster) -> str:
    name = cluster.new_database()
    cluster.sql(f"DROP DATABASE {name}")
    cluster.sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1'")
    return cluster.dsn(name)


def with_foreign_authority(cluster: PostgresCluster) -> str:
    other = Path(__file__).parents[1] / "databases" / "other_ca.crt"
    name = role(cluster, f"PASSWORD '{PASSWORD}'")
    return cluster.tcp_dsn("postgres", name, PASSWORD, f"?sslmode=verify-full&sslrootcert={other}")


def in_the_way(cluster: PostgresCluster) -> str:
    name = cluster.new_database()
    cluster.sql("CREATE TABLE call_sessions (x int)", name)
    return cluster.dsn(name)


def read_only(cluster: PostgresCluster) -> str:
    name = migrated(cluster)
    cluster.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    return cluster.dsn(name)


@asynccontextmanager
async def on_a_standby(cluster: PostgresCluster) -> AsyncIterator[str]:
    name = migrated(cluster)
    with private_standby(cluster) as standby:
        yield standby.dsn(name)


@asynccontextmanager
async def without_tls(cluster: PostgresCluster) -> AsyncIterator[str]:
    name = role(cluster, f"PASSWORD '{PASSWORD}'")
    try:
        await set_tls(cluster, "off")
        yield cluster.tcp_dsn("postgres", name, PASSWORD, "?sslmode=require")
    finally:
        await set_tls(cluster, "on")


async def set_tls(cluster: PostgresCluster, value: str) -> None:
    cluster.sql(f"ALTER SYSTEM SET ssl = {value}")
    cluster.sql("SELECT pg_reload_conf()")
    while await trio.to_thread.run_sync(cluster.sql, "SHOW ssl") != value:
        pass


@asynccontextmanager
async def while_another_migrates(cluster: PostgresCluster) -> AsyncIterator[str]:
    dsn = cluster.dsn(cluster.new_database())
    locked = trio.Event()
    done: list[asyncio.Event] = []

    async def hold(connection: Connection) -> None:
        await connection.execute("SELECT pg_advisory_lock(x'434341544d494752'::bigint)")
        done.append(asyncio.Event())
        locked.set()
        await done[0].wait()

    async with open_loop() as loop, trio.open_nursery() as nursery:
        nursery.start_soon(loop.run, lambda: with_connection(dsn, IMPATIENT, hold))
        await locked.wait()
        yield dsn
        done[0].set()


async def hang_up(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def say_nothing(stream: trio.SocketStream) -> None:
    async with stream:
        await trio.sleep_forever()


def at_a_stranger(answer: Callable[[trio.SocketStream], object]) -> Situation:
    """Something that is no PostgreSQL listens."""

    @asynccontextmanager
    async def situation(cluster: PostgresCluster) -> AsyncIterator[str]:
        async with trio.open_nursery() as nursery:
            serve = functools.partial(trio.serve_tcp, host="127.0.0.1")
            [listener] = await nursery.start(serve, answer, 0)
            yield f"postgresql://me:{PASSWORD}@127.0.0.1:{listener.socket.getsockname()[1]}/cats"
            nursery.cancel_scope.cancel()

    return situation


SITUATIONS: list[tuple[str, str, Situation]] = [
    ("ADDRESS", "scheme", plain(lambda _: f"mysql://me:{PASSWORD}@localhost/x")),
    ("ADDRESS", "port is not a number", plain(lambda _: "postgresql://localhost:port/x")),
    ("ADDRESS", "port is not a number", plain(lambda _: f"postgresql://me:{PASSWORD}/x@localhost/x")),
    ("ADDRESS", "sslmode", plain(lambda _: f"postgresql://me:{PASSWORD}@localhost/x?sslmode=perhaps")),
    ("HOST", "", plain(lambda _: f"postgresql://me:{PASSWORD}@nowhere.invalid/x")),
    ("REFUSED", "127.0.0.1", plain(lambda _: f"postgresql://me:{PASSWORD}@127.0.0.1:1/x")),
    ("REFUSED", "", plain(lambda _: "postgresql:///x?host=/nowhere")),
    ("AWAY", "", at_a_stranger(hang_up)),
    ("SLOW", "", at_a_stranger(say_nothing)),
    ("PASSWORD", "password authentication failed", plain(with_wrong_password)),
    ("ADMITTANCE", '"nobody" does not exist', plain(lambda cluster: cluster.dsn("postgres", "nobody"))),
    ("NO_DATABASE", "database absent", plain(lambda cluster: cluster.dsn("absent"))),
    ("NO_TLS", "", without_tls),
    ("CERTIFICATE", "certificate verify failed", plain(with_foreign_authority)),
    (
        "RIGHTS",
        "permission denied for schema public",
        plain(lambda cluster: cluster.dsn(cluster.new_database(), role(cluster, ""))),
    ),
    (
        "RIGHTS",
        "permission denied for table schema_migration",
        plain(lambda cluster: cluster.dsn(migrated(cluster), role(cluster, ""))),
    ),
    ("READ_ONLY", "default_transaction_read_only", plain(read_only)),
    ("READ_ONLY", "it is a standby", on_a_standby),
    (
        "CONNECTIONS",
        "too many connections for role",
        plain(lambda cluster: cluster.dsn(migrated(cluster), role(cluster, "CONNECTION LIMIT 0"))),
    ),
    ("ENCODING", "LATIN1", plain(in_latin)),
    ("FOREIGN", "'dogs.example'", altered("UPDATE cluster SET domain = 'dogs.example'")),
    ("NEWER", "9999 (future)", altered("INSERT INTO schema_migration VALUES (9999, 'future', 'x')")),
    (
        "EDITED",
        "12 (inboxes)",
        altered("UPDATE schema_migration SET checksum = 'other' WHERE version = 12"),
    ),
    ("LEFT_OUT", "5 (rotation_audit)", altered("DELETE FROM schema_migration WHERE version = 5")),
    ("MIGRATION", '"call_sessions" already exists', plain(in_the_way)),
    ("MIGRATING", "", while_another_migrates),
    ("DAMAGED", '"cluster" does not exist', altered("DROP TABLE cluster")),
]
# Those that a test cannot make a real server do, and one that needs a living node (test_postgres_nodes.py).
OTHERS = {"OLD", "FULL", "IDENTITY"}


def test_every_problem_has_its_situation() -> None:
    assert {name for name, _, _ in SITUATIONS} | OTHERS == set(all_problems())


@pytest.mark.parametrize(
    ("name", "detail", "situation"), SITUATIONS, ids=[f"{name}-{detail}" for name, detail, _ in SITUATIONS]
)
async def test_what_is_wrong_is_told_in_one_line_with_its_remedy(
    postgres_cluster: PostgresCluster,
    caplog: pytest.LogCaptureFixture,
    name: str,
    detail: str,
    situation: Situation,
) -> None:
    caplog.set_level(logging.DEBUG)
    problem = all_problems()[name]

    async with situation(postgres_cluster) as dsn:
        with pytest.raises(StorageError) as caught:
            async with open_postgres(dsn, settings=IMPATIENT):
                pass

    text = str(caught.value)
    assert type(caught.value) is problem.kind, text
    assert text.startswith("PostgreSQL")
    assert problem.text.partition("{detail}")[0] in text
    assert text.endswith(f"; {problem.remedy}")
    assert detail in text
    assert "\n" not in text
    assert PASSWORD not in text + caplog.text


async def test_a_server_that_is_too_old_is_refused(
    postgres_cluster: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commucat_storage.postgres.migrate.OLDEST_VERSION", 990_000)

    with pytest.raises(StorageError, match=r"is PostgreSQL 1\d\.\d+.*; version 13 or newer is needed"):
        await migrate_postgres(postgres_cluster.dsn(postgres_cluster.new_database()))


def test_a_full_disk_is_told_with_its_remedy() -> None:
    told = translate(asyncpg.DiskFullError("could not extend file"), "postgresql://me:secret@db/cats")

    assert str(told) == (
        "PostgreSQL at db, database cats: its disk is full (could not extend file); make room there"
    )


def test_a_password_with_a_slash_is_not_taken_for_the_host() -> None:
    assert place_of("postgresql://me:pass/word@db/cats") == "PostgreSQL"
    assert place_of("postgresql://me:p#1@db/cats") == "PostgreSQL"
    assert place_of("postgresql://me:p@1@db/cats") == "PostgreSQL at db, database cats"


async def test_roles_made_as_the_guide_says_suffice(postgres_cluster: PostgresCluster) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    making, granting = re.findall("```sql\n(.*?)```", guide, re.DOTALL)
    for statement in making.strip().splitlines():
        postgres_cluster.sql(statement)
    async with open_postgres(postgres_cluster.dsn("commucat", "commucat"), settings=IMPATIENT) as storage:
        await add_devices(storage, "a", "b")
    postgres_cluster.sql(granting, "commucat")

    second = postgres_cluster.dsn("commucat", "commucat_server")
    async with open_postgres(second, settings=IMPATIENT) as storage:
        states = await add_devices(storage, "c", "d")
        await send(storage, create("c", "d"), by_route("c"), message("a", "b", expires_at=NOW))
        await send(storage, Confirm("d", states["d"].epoch, 2))
        await storage.admit(known("a"))
        assert (await storage.purge_expired(NOW)).messages == 2
        await storage.check()

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run_once(second, "CREATE TABLE of_the_second (x int)")


async def run_once(dsn: str, statement: str) -> None:
    async with open_loop() as loop:

        async def unit() -> None:
            connection = await asyncpg.connect(dsn)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        await loop.run(unit)
