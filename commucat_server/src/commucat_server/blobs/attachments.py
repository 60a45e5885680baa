"""Encrypted attachments: blobs on disk that the server can count and hand out, and nothing else.

A blob is a file that is named after the hash of its id. The store says how many of its bytes count: those
that were on disk when they were acknowledged. What the file holds beyond is written anew.
"""

import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import attrs
import structlog
import trio
from blake3 import blake3

from commucat_server.blobs.disk import FILE_MODE, free_bytes, make_directory, sync_directory
from commucat_storage import Attachment, Storage, StorageError

log = structlog.get_logger("commucat.attachments")

ID_BYTES: Final = 32
HASH_NAME: Final = re.compile(r"[0-9a-f]{64}")
"""The file name of a blob."""
WRITE_LEN: Final = 256 * 1024
"""Bytes that are gathered for one write, and read at once: a visit to a thread costs more than a copy."""
RESERVE: Final = 64 * 1024 * 1024
"""Room that uploads leave on the disk, beside what they announced."""
SETTLE_TIMEOUT: Final = 10.0
"""Seconds to put on disk what came, of a request that ends for whatever reason."""
PURGE_INTERVAL: Final = 60.0
PURGE_LEASE: Final = "attachments"
PURGE_STEP: Final = 100

Take = Callable[[], Awaitable[bytes]]
"""The next bytes of a body; ``b""`` behind the last."""


class NoRoomError(Exception):
    """The disk is too full for what was announced."""


class WrongOffsetError(Exception):
    """The blob stands elsewhere."""

    def __init__(self, received: int) -> None:
        super().__init__(f"the next byte is {received}")
        self.received = received


class TooManyBytesError(Exception):
    """More came than was announced; nothing of the request counts."""


@attrs.frozen(kw_only=True)
class AttachmentLimits:
    """What users may store. Sizes in bytes, times in seconds."""

    max_bytes: int
    """Of one attachment."""
    user_bytes: int
    """Of all attachments of a user that exist, complete or not, as announced."""
    lifetime: int
    """Of a complete attachment."""
    upload_lifetime: int
    """Of an upload since its last progress."""


@attrs.define(eq=False)
class _Writing:
    """A request that writes to a blob at this moment."""

    scope: trio.CancelScope
    done: trio.Event


class AttachmentFolder:
    """The blobs below one directory. Processes that share the store must share the directory, too."""

    def __init__(
        self, directory: Path, limits: AttachmentLimits, storage: Storage, clock: Callable[[], float]
    ) -> None:
        self.limits = limits
        self._directory = directory
        self._storage = storage
        self._clock = clock
        self._writing: dict[str, _Writing] = {}

    async def begin(self, user_id: str, size: int) -> tuple[str, Attachment]:
        """A new blob of ``size`` bytes; its id, which nobody can guess, and what is stored of it.

        Raises:
            NoRoomError: the disk has no room for it.
            AttachmentQuotaError: the user's other blobs leave none.
            StorageError: it was not stored.
        """
        if await trio.to_thread.run_sync(self._room) < size:
            raise NoRoomError
        now = int(self._clock())
        attachment_id = secrets.token_hex(ID_BYTES)
        attachment = Attachment(
            id_hash=hash_of(attachment_id),
            user_id=user_id,
            size=size,
            created_at=now,
            expires_at=now + self.limits.upload_lifetime,
        )
        await self._storage.add_attachment(attachment, quota=self.limits.user_bytes)
        return attachment_id, attachment

    async def find(self, attachment_id: str) -> Attachment | None:
        """What is stored of the blob; None if there is none, or its time is over."""
        found = await self._storage.load_attachment(hash_of(attachment_id))
        return found if found is not None and found.expires_at > self._clock() else None

    async def append(self, attachment: Attachment, offset: int, take: Take) -> Attachment:
        """Write what ``take`` gives, from ``offset`` on, and have it on disk; the blob as it stands then.

        Whatever ends the request early, what came until then is kept: the client asks where it stands. A
        request that is still writing to the blob is ended by the next one, which comes from a client
        whose connection died unnoticed here.

        Raises:
            WrongOffsetError: the blob does not stand at ``offset``.
            TooManyBytesError: more came than was announced.
            NoRoomError, StorageError, OSError: the rest could not be stored.
        """
        async with self._alone(attachment.id_hash) as scope:
            stored = await self._storage.load_attachment(attachment.id_hash)
            if stored is None:
                raise WrongOffsetError(0)
            if stored.received != offset:
                raise WrongOffsetError(stored.received)
            with scope:
                return await self._write(stored, take)
        # Ended by another request.
        now = await self._storage.load_attachment(attachment.id_hash)
        raise WrongOffsetError(0 if now is None else now.received)

    async def read(self, attachment: Attachment, start: int, length: int) -> AsyncIterator[bytes] | None:
        """``length`` bytes from ``start`` on, in pieces; None if the file is not there."""
        handle = await trio.to_thread.run_sync(self._open_for_reading, attachment)
        return None if handle is None else _Pieces(handle, start, length)

    async def delete(self, attachment: Attachment) -> None:
        """Delete the file, and then what is stored of it: never a file that nobody knows of.

        Raises:
            StorageError, OSError: it is still there, and found again by the next purge.
        """
        async with self._alone(attachment.id_hash):
            await trio.to_thread.run_sync(self._unlink, attachment.id_hash)
            await self._storage.delete_attachment(attachment.id_hash)

    async def run(self) -> None:
        """Delete blobs whose time is over, one node for all; never returns."""
        while True:
            await trio.sleep(PURGE_INTERVAL)
            try:
                await self.purge()
            except StorageError as exc:
                log.error("expired attachments were not deleted", reason=str(exc))

    async def purge(self) -> int:
        """Delete what has expired, if no other node does it; how many there were."""
        count = 0
        while await self._storage.take_lease(PURGE_LEASE, 2 * PURGE_INTERVAL):
            expired = await self._storage.expired_attachments(int(self._clock()), PURGE_STEP)
            deleted = 0
            for attachment in expired:
                try:
                    await self.delete(attachment)
                    deleted += 1
                except OSError as exc:
                    log.error("an expired attachment was not deleted", reason=str(exc))
            count += deleted
            if deleted < PURGE_STEP:
                break
        if count:
            log.info("expired attachments deleted", attachments=count)
        return count

    # -- one at a time ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _alone(self, id_hash: str) -> AsyncIterator[trio.CancelScope]:
        """End what another request does to the blob, and be the one that does; with a scope to be ended."""
        while (other := self._writing.get(id_hash)) is not None:
            other.scope.cancel()
            await other.done.wait()
        mine = self._writing[id_hash] = _Writing(trio.CancelScope(), trio.Event())
        try:
            yield mine.scope
        finally:
            del self._writing[id_hash]
            mine.done.set()

    async def _write(self, attachment: Attachment, take: Take) -> Attachment:
        handle = await trio.to_thread.run_sync(self._open_for_writing, attachment)
        written = attachment.received
        try:
            gathered = bytearray()
            while data := await take():
                if written + len(gathered) + len(data) > attachment.size:
                    written, gathered = attachment.received, bytearray()
                    raise TooManyBytesError
                gathered += data
                if len(gathered) >= WRITE_LEN:
                    written = await trio.to_thread.run_sync(_write_at, handle, written, bytes(gathered))
                    gathered.clear()
            written = await trio.to_thread.run_sync(_write_at, handle, written, bytes(gathered))
            gathered.clear()
        finally:
            # Also when the client has left, or its server is told to stop: what came is not sent twice.
            with trio.move_on_after(SETTLE_TIMEOUT, shield=True):
                try:
                    if gathered:
                        with suppress(OSError):
                            written = await trio.to_thread.run_sync(
                                _write_at, handle, written, bytes(gathered)
                            )
                    attachment = await self._advance(attachment, handle, written)
                finally:
                    os.close(handle)
        return attachment

    async def _advance(self, attachment: Attachment, handle: int, written: int) -> Attachment:
        """Let what is written count, once it is on disk."""
        if written == attachment.received:
            return attachment
        await trio.to_thread.run_sync(os.fsync, handle)
        complete = written == attachment.size
        lifetime = self.limits.lifetime if complete else self.limits.upload_lifetime
        now = int(self._clock())
        expires_at = now + lifetime
        if not await self._storage.advance_attachment(
            attachment.id_hash, before=attachment.received, received=written, expires_at=expires_at, now=now
        ):
            raise WrongOffsetError(attachment.received)  # another process was there, or its time is over
        return attrs.evolve(attachment, received=written, expires_at=expires_at)

    # -- files --------------------------------------------------------------------------------------

    def _path(self, id_hash: str) -> Path:
        return blob_path(self._directory, id_hash)

    def _room(self) -> int:
        make_directory(self._directory)
        return free_bytes(self._directory) - RESERVE

    def _open_for_writing(self, attachment: Attachment) -> int:
        path = self._path(attachment.id_hash)
        make_directory(path.parent)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            if os.fstat(handle).st_size < attachment.received:
                raise OSError(f"{path} has lost bytes; it may be a folder that not all servers share")
            if attachment.received == 0:
                sync_directory(path.parent)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _open_for_reading(self, attachment: Attachment) -> int | None:
        try:
            handle = os.open(
                self._path(attachment.id_hash), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            )
        except OSError:
            return None
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size < attachment.size:
            os.close(handle)
            return None
        return handle

    def _unlink(self, id_hash: str) -> None:
        self._path(id_hash).unlink(missing_ok=True)


class _Pieces(AsyncIterator[bytes]):
    """Bytes of an open file; closes it when they have been taken, or nobody wants them any more."""

    def __init__(self, handle: int, start: int, length: int) -> None:
        self._handle: int | None = handle
        self._position = start
        self._end = start + length

    async def __anext__(self) -> bytes:
        length = min(WRITE_LEN, self._end - self._position)
        if self._handle is None or length <= 0:
            self.close()
            raise StopAsyncIteration
        try:
            data = await trio.to_thread.run_sync(os.pread, self._handle, length, self._position)
        except BaseException:
            self.close()
            raise
        if not data:
            self.close()
            raise OSError("the file has become shorter")
        self._position += len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def __del__(self) -> None:
        # Whoever streams an answer is cancelled when its client leaves, and has no word for that.
        self.close()


def blob_path(directory: Path, id_hash: str) -> Path:
    """Where the blob is: no folder has more than a small part of them."""
    return directory / id_hash[:2] / id_hash


def hash_of(attachment_id: str) -> str:
    """What is stored of an id: whoever reads the store or the disk cannot download with it."""
    return blake3(attachment_id.encode("utf-8", "surrogatepass")).hexdigest()


def _write_at(handle: int, position: int, data: bytes) -> int:
    view = memoryview(data)
    while view:
        count = os.pwrite(handle, view, position)
        view = view[count:]
        position += count
    return position
