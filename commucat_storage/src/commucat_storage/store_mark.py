"""The mark on a store that is being filled, or has been moved away: no server may use it.

The mark is a row of the table ``store_move``, which exists only as long as there is one. It is not part of
the numbered schema: a store without it is an ordinary store.
"""

import enum
from typing import Final

import attrs

from commucat_storage.errors import StorageUnavailableError

MARK_TABLE: Final = "store_move"
PROGRESS_TABLE: Final = "store_move_table"
# Both databases understand these as they are.
CREATE: Final = (
    f"CREATE TABLE IF NOT EXISTS {MARK_TABLE} (only_row integer PRIMARY KEY CHECK (only_row = 1), "
    "state text NOT NULL, move_id text NOT NULL, other text NOT NULL)",
    f"CREATE TABLE IF NOT EXISTS {PROGRESS_TABLE} (name text PRIMARY KEY, rows bigint NOT NULL)",
)
DROP: Final = (f"DROP TABLE IF EXISTS {MARK_TABLE}", f"DROP TABLE IF EXISTS {PROGRESS_TABLE}")
SELECT: Final = f"SELECT state, move_id, other FROM {MARK_TABLE}"  # noqa: S608 - a name of ours


class MoveState(enum.Enum):
    """Why the store is closed to servers."""

    FILLING = "filling"
    """A restore or transfer into it has not been finished."""
    MOVED = "moved"
    """It was transferred to another store, which lives on."""


@attrs.frozen
class Mark:
    """``other`` is where the rows come from, or where they went."""

    state: MoveState
    move_id: str
    other: str


def mark_of(row: tuple[str, str, str]) -> Mark:
    """The mark that :data:`SELECT` found."""
    return Mark(MoveState(row[0]), row[1], row[2])


def refuse_marked(mark: Mark | None, place: str) -> None:
    """Let only a store without a mark pass.

    Raises:
        StorageUnavailableError: it has one; the text says what to do.
    """
    if mark is None:
        return
    if mark.state is MoveState.FILLING:
        raise StorageUnavailableError(
            f"{place} is only half filled from {mark.other}: run the restore or transfer again to finish it"
        )
    raise StorageUnavailableError(
        f"{place} was moved to {mark.other} and must not be used any more; change the configuration, or go "
        "back with: commucat-cli transfer --unmark CONFIG"
    )
