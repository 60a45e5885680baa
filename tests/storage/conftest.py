"""The backends that every test of the interface runs against."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest

from commucat_storage import SqliteSettings, SqliteStorage, Storage, open_sqlite


class Backend(Protocol):
    """One database of its own; opening it again finds what was stored."""

    def open(self, **limits: int) -> AbstractAsyncContextManager[Storage]: ...


class SqliteBackend:
    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, **limits: int) -> AbstractAsyncContextManager[SqliteStorage]:
        settings = SqliteSettings(**limits)
        return open_sqlite(self.path, settings=settings)


@pytest.fixture(params=["sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    assert request.param == "sqlite"
    return SqliteBackend(tmp_path / "store.db")


@pytest.fixture
async def storage(backend: Backend) -> AsyncIterator[Storage]:
    async with backend.open() as opened:
        yield opened
