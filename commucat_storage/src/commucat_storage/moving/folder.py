"""A backup as a folder: ``manifest.json``, ``tables/NAME.jsonl``, the files of the server beside its store.

Written files have mode 0600, folders 0700. The manifest comes last: a folder without one is no backup.
"""

import os
import shutil
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Final

import attrs
import trio
from blake3 import blake3

from commucat_storage.moving.errors import DamagedBackupError, MoveError
from commucat_storage.moving.manifest import FileEntry, Manifest, TableEntry, decode_manifest, table_file
from commucat_storage.moving.ports import Source, StoreFacts
from commucat_storage.moving.rows import Row, RowCodec, RowDigest
from commucat_storage.moving.tables import TABLES, Table

MANIFEST: Final = "manifest.json"
_UNFINISHED: Final = "unfinished"
"""Marks a folder of ours that a backup is being written to, so that the next attempt may empty it."""
_CHUNK: Final = 2**20
_BATCH_BYTES: Final = 4 * 2**20
_MANIFEST_LIMIT: Final = 512 * 2**20
"""Two million attachments."""


class _HashedFile:
    """A new file, hashed as it is written."""

    def __init__(self, path: Path) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file: BinaryIO = os.fdopen(handle, "wb", buffering=_CHUNK)
        self._hash = blake3()
        self._size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)

    def finish(self) -> FileEntry:
        """Wait until it is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileEntry(size=self._size, blake3=self._hash.hexdigest())

    def abandon(self) -> None:
        try:
            self._file.close()
        except OSError:
            return  # A full disk, which somebody is reporting already.


class BackupWriter:
    """Writes a backup into a folder. Blocks; every error of the system is a :class:`MoveError`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tables: dict[str, TableEntry] = {}
        self._files: dict[str, FileEntry] = {}
        self._guarded(folder, self._prepare)

    def table(self, table: Table) -> "TableWriter":
        """Begin the file of a table."""
        path = self.folder / table_file(table)
        return TableWriter(table, path, self._tables)

    def add_file(self, name: str, parts: Iterable[bytes]) -> None:
        """Write a file of the server; ``name`` as the manifest has it."""

        def work() -> None:
            path = self.folder / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            file = _HashedFile(path)
            try:
                for part in parts:
                    file.write(part)
                self._files[name] = file.finish()
            finally:
                file.abandon()

        self._guarded(self.folder / name, work)

    def complete(
        self, *, created_at: int, program: str, domain: str, server_public: str | None, facts: StoreFacts
    ) -> Manifest:
        """Write the manifest; from now on the folder is a backup."""
        manifest = Manifest(
            created_at=created_at,
            program=program,
            domain=domain,
            server_public=server_public,
            backend=facts.backend,
            schema_version=facts.schema_version,
            cluster_id=facts.cluster_id,
            tables=self._tables,
            files=self._files,
        )

        def work() -> None:
            draft = self.folder / f"{MANIFEST}.new"
            file = _HashedFile(draft)
            try:
                file.write(manifest.encode())
                file.finish()
            finally:
                file.abandon()
            for path in [*(each for each in self.folder.iterdir() if each.is_dir()), self.folder]:
                _sync_folder(path)
            draft.rename(self.folder / MANIFEST)
            (self.folder / _UNFINISHED).unlink()
            _sync_folder(self.folder)

        self._guarded(self.folder / MANIFEST, work)
        return manifest

    def _prepare(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = {path.name for path in self.folder.iterdir()}
        if _UNFINISHED in found and MANIFEST not in found:
            for name in ("tables", "keys", "tls", "ledger", "avatars", "attachments"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            for name in (f"{MANIFEST}.new", _UNFINISHED):
                (self.folder / name).unlink(missing_ok=True)
            found = {path.name for path in self.folder.iterdir()}
        if found:
            what = "holds a backup" if MANIFEST in found else "is not empty"
            raise MoveError(f"{self.folder} {what} already; name a new directory")
        self.folder.chmod(0o700)
        _HashedFile(self.folder / _UNFINISHED).finish()
        (self.folder / "tables").mkdir(mode=0o700)

    @staticmethod
    def _guarded(path: Path, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as exc:
            raise MoveError(f"{path}: cannot be written: {exc.strerror or exc}") from exc


class TableWriter:
    """The file of one table. Blocks."""

    def __init__(self, table: Table, path: Path, entries: dict[str, TableEntry]) -> None:
        self._table = table
        self._path = path
        self._entries = entries
        self._digest = RowDigest()
        try:
            self._file = _HashedFile(path)
        except OSError as exc:
            raise self._error(exc) from exc

    @property
    def rows(self) -> int:
        return self._digest.rows

    def write(self, lines: list[bytes]) -> None:
        self._digest.add(lines)
        try:
            for line in lines:
                self._file.write(line)
        except OSError as exc:
            raise self._error(exc) from exc

    def finish(self) -> None:
        try:
            entry = self._file.finish()
        except OSError as exc:
            raise self._error(exc) from exc
        self._entries[self._table.name] = TableEntry(
            file=entry,
            rows=self._digest.rows,
            digest=self._digest.hex(),
            columns=tuple(column.name for column in self._table.columns),
        )

    def abandon(self) -> None:
        """Close the file; after :meth:`finish` this does nothing."""
        self._file.abandon()

    def _error(self, exc: OSError) -> MoveError:
        return MoveError(f"{self._path}: cannot be written: {exc.strerror or exc}")


@attrs.frozen
class BackupFolder(Source):
    """A backup that was written by :class:`BackupWriter`. Made by :func:`open_backup`."""

    folder: Path
    manifest: Manifest

    @property
    def place(self) -> str:  # type: ignore[override]  # a value in other sources
        return f"the backup {self.folder}"

    @property
    def facts(self) -> StoreFacts:  # type: ignore[override]
        return StoreFacts(
            backend=self.manifest.backend,
            schema_version=self.manifest.schema_version,
            cluster_id=self.manifest.cluster_id,
        )

    @property
    def tables(self) -> tuple[Table, ...]:  # type: ignore[override]
        return tuple(table for table in TABLES if self.manifest.written(table) is not None)

    def check_files(self, progress: Callable[[str, int, int], None]) -> None:
        """Read every file and compare it with the manifest. Blocks.

        Raises:
            DamagedBackupError: one is missing, cut short or changed; the text names it.
        """
        entries = dict(self.manifest.files)
        entries |= {table_file(table): self.manifest.tables[table.name].file for table in self.tables}
        for name, entry in entries.items():
            found, size = blake3(), 0
            for part in self.parts(name):
                found.update(part)
                size += len(part)
                progress(name, size, entry.size)
            if size != entry.size:
                raise DamagedBackupError(
                    f"{self.folder / name} is damaged: {size} bytes instead of {entry.size}"
                )
            if found.hexdigest() != entry.blake3:
                raise DamagedBackupError(f"{self.folder / name} is damaged: its digest does not match")

    def parts(self, name: str) -> Iterable[bytes]:
        """The content of a file, in pieces. Blocks.

        Raises:
            DamagedBackupError: it cannot be read.
        """
        try:
            with (self.folder / name).open("rb") as file:
                while part := file.read(_CHUNK):
                    yield part
        except OSError as exc:
            raise DamagedBackupError(f"{self.folder / name}: cannot be read: {exc.strerror or exc}") from exc

    async def count(self, table: Table) -> int:
        return self.manifest.tables[table.name].rows

    async def batches(self, table: Table) -> AsyncGenerator[list[Row], None]:
        written = self.manifest.written(table)
        assert written is not None, "it is one of the tables"
        path, codec, digest = self.folder / table_file(table), RowCodec(written), RowDigest()
        # What an older version did not write is absent from each row.
        absent = (None,) * (len(table.columns) - len(written.columns))
        try:
            file = await trio.to_thread.run_sync(path.open, "rb")
            try:
                while lines := await trio.to_thread.run_sync(file.readlines, _BATCH_BYTES):
                    digest.add(lines)
                    yield [codec.row(line) + absent for line in lines]
            finally:
                file.close()
        except OSError as exc:
            raise DamagedBackupError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
        entry = self.manifest.tables[table.name]
        if (digest.rows, digest.hex()) != (entry.rows, entry.digest):
            raise DamagedBackupError(f"{path} is damaged: its rows are not those of the manifest")


def open_backup(folder: Path) -> BackupFolder:
    """Read the manifest of a backup; its files are not looked at yet. Blocks.

    Raises:
        MoveError: it is none, was not finished, or is newer than this program.
        DamagedBackupError: the manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            text = file.read(_MANIFEST_LIMIT)
    except FileNotFoundError as exc:
        why = "was not finished" if (folder / _UNFINISHED).exists() else "is missing"
        raise MoveError(f"{folder} is no backup: {MANIFEST} {why}") from exc
    except OSError as exc:
        raise MoveError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    try:
        return BackupFolder(folder, decode_manifest(text))
    except DamagedBackupError as exc:
        raise DamagedBackupError(f"{folder}: {exc}") from exc


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
