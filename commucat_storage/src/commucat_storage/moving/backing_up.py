"""Writes the rows of a store into a backup."""

from contextlib import aclosing

import trio

from commucat_storage.moving.copying import Progress, Step
from commucat_storage.moving.folder import BackupWriter
from commucat_storage.moving.ports import Source
from commucat_storage.moving.rows import RowCodec
from commucat_storage.moving.tables import Table


async def back_up(source: Source, writer: BackupWriter, progress: Progress) -> dict[str, int]:
    """Write every table of ``source``; how many rows each has. The caller adds files and completes it.

    Raises:
        StorageError: the store cannot be read, or the folder not be written.
    """
    return {table.name: await _table(source, writer, table, progress) for table in source.tables}


async def _table(source: Source, writer: BackupWriter, table: Table, progress: Progress) -> int:
    total, codec = await source.count(table), RowCodec(table)
    file = await trio.to_thread.run_sync(writer.table, table)
    try:
        async with aclosing(source.batches(table)) as batches:
            async for rows in batches:
                lines = [codec.line(row) for row in rows]
                await trio.to_thread.run_sync(file.write, lines)
                progress(Step.WRITE, table.name, file.rows, total)
        await trio.to_thread.run_sync(file.finish)
    finally:
        file.abandon()
    return file.rows
