"""Databases for tests, on a private server or on the one that ``COMMUCAT_TEST_PG_DSN`` names."""

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import trio

from commucat_storage.postgres import migrate_postgres
from databases.postgres_cluster import PostgresCluster, run_sql

_ids = itertools.count(1)


class PostgresDatabases:
    """Makes databases; those on a server that is not ours are dropped at the end."""

    def __init__(self, dsn: str, *, private: bool) -> None:
        self._dsn = dsn
        self._private = private
        self._made: list[str] = []
        self._migrated: str | None = None

    def empty(self) -> str:
        """DSN of a database with nothing in it."""
        name = f"commucat_test_{os.getpid()}_{next(_ids)}"
        run_sql(self._dsn, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        self._made.append(name)
        return urlunsplit(urlsplit(self._dsn)._replace(path=f"/{name}"))

    def migrated(self) -> str:
        """DSN of the one database with the newest schema that tests share; it is emptied here."""
        if self._migrated is None:
            made = self.empty()
            # In a thread: the test that is the first to ask may be an asynchronous one.
            with ThreadPoolExecutor(1) as executor:
                executor.submit(trio.run, migrate_postgres, made).result()
            self._migrated = made
        clear(self._migrated)
        return self._migrated

    def drop_all(self) -> None:
        if not self._private:
            for name in self._made:
                run_sql(self._dsn, f"DROP DATABASE {name} WITH (FORCE)")


def clear(dsn: str) -> None:
    """Delete what a test left; everything else hangs on these rows."""
    # Faster than to create a database, or to truncate tables: both make dozens of files.
    tables = ("app_user", "relay_queue", "relay_payload", "server_secret", "readiness", "chat_group")
    tables += ("cluster_node", "cluster_lease", "friend_requests", "operator_record", "call_sessions")
    tables += ("federation_peer", "federation_peer_status", "federation_dead_letter", "idempotency", "outbox")
    deletions = "".join(f"DELETE FROM {table}; " for table in tables)
    # Inboxes of devices go with these.
    deletions += "DELETE FROM inbox_offset; "
    run_sql(dsn, f"{deletions}UPDATE cluster SET domain = NULL")


@contextmanager
def databases_of(cluster: PostgresCluster) -> Iterator[PostgresDatabases]:
    """On the private server."""
    yield PostgresDatabases(cluster.dsn(), private=True)


@contextmanager
def databases_at(dsn: str) -> Iterator[PostgresDatabases]:
    """On a server of somebody else."""
    databases = PostgresDatabases(dsn, private=False)
    try:
        yield databases
    finally:
        databases.drop_all()
