"""Copies one store into another, checks every row, and only then lets servers use it."""

import enum
import secrets
from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing
from typing import TypeAlias

import attrs

from commucat_storage.moving.errors import MoveError
from commucat_storage.moving.ports import MovableSource, Source, Target
from commucat_storage.moving.rows import RowCodec, RowDigest
from commucat_storage.moving.tables import Table
from commucat_storage.store_mark import Mark, MoveState


class Step(enum.Enum):
    """What is being done with a table."""

    READ = "checking"
    WRITE = "copying"
    VERIFY = "verifying"


Progress: TypeAlias = Callable[[Step, str, int, int], None]
"""Called with the step, the table's name, how much is done and how much there is (rows; bytes for READ)."""


@attrs.frozen(kw_only=True)
class Copied:
    """What arrived: rows by table, without the tables that were left out."""

    rows: dict[str, int]
    left_out: dict[str, int]
    """Rows that were not copied, by table."""


async def _nothing() -> None:
    return


async def copy_store(
    source: Source,
    target: Target,
    *,
    origin: str,
    progress: Progress,
    leave_out: Collection[str] = (),
    start_over: bool = False,
    once_closed: Callable[[], Awaitable[None]] = _nothing,
) -> Copied:
    """Fill ``target`` with the rows of ``source``; go on where an earlier attempt was interrupted.

    ``once_closed`` is called as soon as no server can use the target any more, before the first row. A source
    that can be given up is marked when everything is verified, before the target is released: at no moment
    can both be used.

    Raises:
        MoveError: the target is not empty or cannot hold a table that has rows; the source has changed since
            the earlier attempt; what was written differs from what was read.
        StorageError: a database fails.
    """
    counts = {table.name: await source.count(table) for table in source.tables}
    left_out = _left_out(counts, target, leave_out)
    tables = [table for table in source.tables if table.name not in left_out and table in target.tables]
    move_id, written = await _begin(source, target, origin, start_over=start_over)
    await once_closed()
    digests = {
        table.name: await _copy_table(
            source, target, table, written.get(table.name, 0), counts[table.name], progress
        )
        for table in tables
    }
    await target.settle(source.facts.cluster_id)
    await _verify(target, tables, digests, progress)
    if isinstance(source, MovableSource):
        await source.retire(Mark(MoveState.MOVED, move_id, target.place))
    await target.release()
    return Copied(rows={table.name: digests[table.name].rows for table in tables}, left_out=left_out)


def _left_out(counts: dict[str, int], target: Target, leave_out: Collection[str]) -> dict[str, int]:
    """Tables that shall stay behind, with what they hold; refuse if others cannot come along."""
    known = {table.name for table in target.tables}
    homeless = [f"{name} ({counts[name]} rows)" for name in counts if counts[name] and name not in known]
    kept = [text for text in homeless if text.partition(" ")[0] not in leave_out]
    if kept:
        raise MoveError(
            f"{target.place} has no place for {', '.join(kept)}; "
            "to leave them behind, name each with --leave-out"
        )
    return {name: count for name, count in counts.items() if name in leave_out and count}


async def _begin(
    source: Source, target: Target, origin: str, *, start_over: bool
) -> tuple[str, dict[str, int]]:
    mark = source.mark if isinstance(source, MovableSource) else None
    if mark is not None and start_over:
        # What would be deleted may be the only store that can still be finished and used.
        raise MoveError(
            f"{source.place} was moved to {mark.other} already: finish that without --start-over, or take it "
            "back first with: commucat-cli transfer --unmark CONFIG"
        )
    try:
        move_id, written = await target.begin(origin, secrets.token_hex(16), start_over=start_over)
    except MoveError as exc:
        if mark is not None:
            raise MoveError(f"{source.place} was moved to {mark.other} already") from exc
        raise
    # The same id: the attempt that gave the source up was interrupted before its last step.
    if mark is not None and mark.move_id != move_id:
        raise MoveError(f"{source.place} was moved to {mark.other} already, by another transfer")
    return move_id, written


async def _copy_table(
    source: Source, target: Target, table: Table, skip: int, total: int, progress: Progress
) -> RowDigest:
    codec, digest = RowCodec(table), RowDigest()
    async with aclosing(source.batches(table)) as batches:
        async for rows in batches:
            here = max(0, skip - digest.rows)
            digest.add(map(codec.line, rows))
            if here < len(rows):
                await target.write(table, rows[here:], digest.rows)
            progress(Step.WRITE, table.name, digest.rows, total)
    if digest.rows < skip:
        raise MoveError(_changed(source.place))
    return digest


async def _verify(
    target: Target, tables: list[Table], expected: dict[str, RowDigest], progress: Progress
) -> None:
    written = target.written()
    for table in tables:
        codec, found = RowCodec(table), RowDigest()
        async with aclosing(written.batches(table)) as batches:
            async for rows in batches:
                found.add(map(codec.line, rows))
                progress(Step.VERIFY, table.name, found.rows, expected[table.name].rows)
        if found != expected[table.name]:
            raise MoveError(
                f"{target.place}: the table {table.name} has {found.rows} rows with the digest "
                f"{found.hex()[:16]}, and should have {expected[table.name].rows} with "
                f"{expected[table.name].hex()[:16]}; {_changed('the source')}"
            )


def _changed(place: str) -> str:
    return f"if {place} was used since an earlier attempt, run the command again with --start-over"
