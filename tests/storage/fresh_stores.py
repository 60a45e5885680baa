"""Stores for random scripts: a new one for each script, of each backend."""

import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy

from commucat_storage import SqliteSettings, Storage, open_sqlite
from commucat_storage.postgres import PostgresSettings, open_postgres
from databases.postgres_databases import PostgresDatabases

StepT = TypeVar("StepT")

Limits = Mapping[str, int]
# Opens a store that others have left nothing in, again and again with the same contents.
Opener = Callable[[], AbstractAsyncContextManager[Storage]]


@attrs.frozen
class Fresh:
    """One backend: how to get a store, and how many scripts are worth their time on it."""

    store: Callable[[PostgresDatabases, Limits], AbstractContextManager[Opener]]
    examples: int


@contextmanager
def _sqlite(databases: PostgresDatabases, limits: Limits) -> Iterator[Opener]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store.db"
        yield partial(open_sqlite, path, settings=SqliteSettings(**limits))


@contextmanager
def _postgres(databases: PostgresDatabases, limits: Limits) -> Iterator[Opener]:
    yield partial(open_postgres, databases.migrated(), settings=PostgresSettings(**limits))


# The rules are the same code; what a script can find in PostgreSQL alone is in the way they are stored.
FRESH = pytest.mark.parametrize(
    "fresh", [Fresh(_sqlite, 100), Fresh(_postgres, 30)], ids=["sqlite", "postgres"]
)


def check_scripts(
    fresh: Fresh,
    databases: PostgresDatabases,
    limits: Limits,
    scripts: SearchStrategy[list[StepT]],
    follow: Callable[[Opener, list[StepT]], Awaitable[None]],
) -> None:
    """Follow random scripts, each with a store of its own."""

    @settings(deadline=None, max_examples=fresh.examples)
    @given(script=scripts)
    def holds(script: list[StepT]) -> None:
        with fresh.store(databases, limits) as opener:
            trio.run(follow, opener, script)

    holds()


def stretches_of(script: list[StepT]) -> list[list[StepT]]:
    """The script cut at its "reopen" steps: each stretch has the same store, opened anew."""
    stretches: list[list[StepT]] = [[]]
    for step in script:
        if step == "reopen":
            stretches.append([])
        else:
            stretches[-1].append(step)
    return stretches
