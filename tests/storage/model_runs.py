"""How scripts of random steps run against a store: its limits, which are small, and its reopenings."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

from commucat_storage import SqliteSettings, Storage, open_sqlite

MAX_ROWS = 8
MAX_BYTES = 60
MAX_ROUTES = 2
MAX_MEMBERS = 3
MAX_OWNED = 2
STRANGER_ROWS = 3
STRANGER_BYTES = 40

Opener = Callable[[Path], AbstractAsyncContextManager[Storage]]
Step = TypeVar("Step")


def open_small_sqlite(directory: Path) -> AbstractAsyncContextManager[Storage]:
    limits = SqliteSettings(
        max_rows=MAX_ROWS,
        max_bytes=MAX_BYTES,
        max_routes=MAX_ROUTES,
        max_group_members=MAX_MEMBERS,
        max_owned_groups=MAX_OWNED,
        stranger_rows=STRANGER_ROWS,
        stranger_bytes=STRANGER_BYTES,
        group_rows=4,
        journal_rows=12,
        cached_inboxes=2,
        cached_group_members=2,
    )
    return open_sqlite(directory / "store.db", settings=limits)


def stretches(script: Sequence[Step | str]) -> Iterator[list[Step | str]]:
    """The steps between two that say ``reopen``; each stretch has a store that was opened anew."""
    stretch: list[Step | str] = []
    for step in script:
        if step == "reopen":
            yield stretch
            stretch = []
        else:
            stretch.append(step)
    yield stretch
