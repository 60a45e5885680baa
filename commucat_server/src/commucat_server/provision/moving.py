"""Backup, restore and transfer of a whole server: its store, and what it keeps beside it."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from commucat_server.config import ServerConfig
from commucat_server.provision.belongings import (
    FileGoneError,
    Parts,
    belongings_of,
    check_room,
    not_included,
    put_file,
)
from commucat_server.provision.blob_files import BLOB_KINDS, kind_of
from commucat_server.provision.data_dir import LOCK_FILE
from commucat_server.provision.errors import ProvisionError
from commucat_server.provision.federation_seed import read_federation_keys, seed_path
from commucat_server.provision.files import make_private_dir
from commucat_server.provision.lock import DirLock
from commucat_server.provision.store import explained, place_of_store
from commucat_server.version import server_version
from commucat_storage.moving import (
    TABLES,
    BackupWriter,
    Copied,
    Manifest,
    MovableSource,
    MoveError,
    Progress,
    Source,
    Step,
    Target,
    back_up,
    copy_store,
    open_backup,
    sqlite_movable,
    sqlite_snapshot,
    sqlite_target,
    unmark_sqlite,
)


@attrs.frozen(kw_only=True)
class Moved:
    """What a restore or transfer did."""

    place: str
    """The store that was filled."""
    copied: Copied
    warnings: tuple[str, ...]


async def write_backup(
    config: ServerConfig, folder: Path, *, now: int, progress: Progress, attachments: bool = True
) -> tuple[Manifest, list[str]]:
    """Write everything the server needs to go on elsewhere to ``folder``, beside a running one too.

    Returns the manifest, and the settings that must be kept apart from the backup. ``now`` is Unix time.
    Without ``attachments`` their files are left out, and not found after a restore.

    Raises:
        StorageError, ProvisionError: something cannot be read or written, or the folder is not empty.
    """
    async with _snapshot(config) as source:
        writer = await trio.to_thread.run_sync(BackupWriter, folder)
        await back_up(source, writer, progress)
        # Later than the store: nothing in it is without its line in the ledger, or its file.
        files = await trio.to_thread.run_sync(partial(belongings_of, config, attachments=attachments))
        counted = _by_kind(progress, files)
        for name, parts in files.items():
            await trio.to_thread.run_sync(_add_file, writer, name, parts)
            counted(Step.WRITE, name)
        public = _server_public(config)
        manifest = await trio.to_thread.run_sync(
            partial(
                writer.complete,
                created_at=now,
                program=server_version(),
                domain=config.server.domain,
                server_public=None if public is None else public.hex(),
                facts=source.facts,
            )
        )
    return manifest, not_included(config)


async def restore_backup(
    config: ServerConfig, folder: Path, *, progress: Progress, start_over: bool = False
) -> tuple[Manifest, Moved]:
    """Fill the empty store of ``config`` from a backup, and put its files into the data directory.

    Every file is checked before anything is written. Interrupted, it goes on when it is called again.
    Sessions and unused codes are not restored: what was given out or used after the backup is not known.

    Raises:
        StorageError, ProvisionError: the backup is damaged or of another domain, the store or the directory
            is not empty, a server uses them, or something cannot be written.
    """
    backup = await trio.to_thread.run_sync(open_backup, folder)
    manifest = backup.manifest
    _check_domain(manifest.domain, config)
    counted = _by_kind(progress, manifest.files)

    def checked(name: str, done: int, total: int) -> None:
        if kind_of(name) is None:
            progress(Step.READ, name, done, total)
        elif done == total:
            counted(Step.READ, name)

    await trio.to_thread.run_sync(backup.check_files, checked)
    files = {name: partial(backup.parts, name) for name in manifest.files}
    public = None if manifest.server_public is None else bytes.fromhex(manifest.server_public)
    with _locked(config):
        warnings = await trio.to_thread.run_sync(check_room, config, files, public)
        async with _target(config) as target:
            copied = await copy_store(
                backup,
                target,
                origin=f"the backup {manifest.digest[:16]}",
                progress=progress,
                leave_out=[table.name for table in TABLES if not table.restored],
                start_over=start_over,
                once_closed=partial(_put_files, config, files, progress),
            )
    return manifest, Moved(place=place_of_store(config), copied=copied, warnings=tuple(warnings))


async def transfer_store(
    source: ServerConfig,
    target: ServerConfig,
    *,
    progress: Progress,
    leave_out: Collection[str] = (),
    start_over: bool = False,
) -> Moved:
    """Move everything from the store of one configuration to the empty one of another, and give the first up.

    The files beside the store go along when the data directories differ. Interrupted, it goes on when it is
    called again.

    Raises:
        StorageError, ProvisionError: as :func:`restore_backup`.
    """
    _check_domain(source.server.domain, target)
    place, other = place_of_store(source), place_of_store(target)
    if _address(source) == _address(target):
        raise MoveError(
            f"both configurations name the same store ({place}); "
            "does a variable such as COMMUCAT_PG_DSN hold for both?"
        )
    same_dir = source.data_dir.resolve() == target.data_dir.resolve()
    files = {} if same_dir else await trio.to_thread.run_sync(belongings_of, source)
    with ExitStack() as stack:
        stack.enter_context(_locked(source))
        if not same_dir:
            stack.enter_context(_locked(target))
        public = None if same_dir else _server_public(source)
        warnings = await trio.to_thread.run_sync(check_room, target, files, public)
        async with _movable(source) as rows, _target(target) as store:
            copied = await copy_store(
                rows,
                store,
                origin=place,
                progress=progress,
                leave_out=leave_out,
                start_over=start_over,
                once_closed=partial(_put_files, target, files, progress),
            )
    return Moved(place=other, copied=copied, warnings=tuple(warnings))


async def unmark_store(config: ServerConfig) -> str | None:
    """Let servers use a store again that was transferred; where it had gone, None if it was not marked.

    Raises:
        StorageError, ProvisionError: it is only half filled, or cannot be reached.
    """
    dsn = config.storage.postgres_dsn
    with _locked(config):
        if dsn is None:
            return await trio.to_thread.run_sync(unmark_sqlite, config.storage.path)
        with explained():
            from commucat_storage.postgres.moving import unmark_postgres
        return await unmark_postgres(dsn)


def _add_file(writer: BackupWriter, name: str, parts: Parts) -> None:
    try:
        content = parts()
    except FileGoneError:
        if kind_of(name) is None:
            raise
        return  # an avatar that was replaced, an attachment that has expired
    writer.add_file(name, content)


async def _put_files(config: ServerConfig, files: Mapping[str, Parts], progress: Progress) -> None:
    counted = _by_kind(progress, files)
    for name, parts in files.items():
        await trio.to_thread.run_sync(put_file, config, name, parts)
        counted(Step.WRITE, name)


def _by_kind(progress: Progress, names: Collection[str]) -> Callable[[Step, str], None]:
    """Reports how many files of a kind are done: thousands of blobs are one line."""
    totals = {kind: sum(kind_of(name) == kind for name in names) for kind in BLOB_KINDS}
    done = dict.fromkeys(BLOB_KINDS, 0)

    def count(step: Step, name: str) -> None:
        kind = kind_of(name)
        if kind is not None:
            done[kind] += 1
            progress(step, kind, done[kind], totals[kind])

    return count


def _address(config: ServerConfig) -> str:
    return config.storage.postgres_dsn or str(config.storage.path.resolve())


def _snapshot(config: ServerConfig) -> AbstractAsyncContextManager[Source]:
    dsn = config.storage.postgres_dsn
    if dsn is None:
        return sqlite_snapshot(config.storage.path)
    with explained():
        from commucat_storage.postgres.moving import postgres_snapshot
    return postgres_snapshot(dsn)


def _movable(config: ServerConfig) -> AbstractAsyncContextManager[MovableSource]:
    dsn = config.storage.postgres_dsn
    if dsn is None:
        return sqlite_movable(config.storage.path)
    with explained():
        from commucat_storage.postgres.moving import postgres_movable
    return postgres_movable(dsn, config.server.domain)


def _target(config: ServerConfig) -> AbstractAsyncContextManager[Target]:
    dsn = config.storage.postgres_dsn
    if dsn is None:
        return sqlite_target(config.storage.path)
    with explained():
        from commucat_storage.postgres.moving import postgres_target
    return postgres_target(dsn, config.server.domain)


@contextmanager
def _locked(config: ServerConfig) -> Iterator[None]:
    """Keep servers from the data directory; made if there is none."""
    make_private_dir(config.data_dir)
    lock = DirLock.take(config.data_dir / LOCK_FILE)
    try:
        yield
    finally:
        lock.release()


def _server_public(config: ServerConfig) -> bytes | None:
    """The server's public key; None while no server has been started."""
    if config.crypto.federation_seed is None and not os.path.lexists(seed_path(config.data_dir)):
        return None
    return read_federation_keys(config).public


def _check_domain(domain: str, config: ServerConfig) -> None:
    if domain != config.server.domain:
        raise ProvisionError(
            f"this is the data of the domain {domain!r}, and the configuration says "
            f"{config.server.domain!r}; set server.domain"
        )
