"""Attachments: a file into an encrypted blob on the server, and back, over whatever connection there is.

Both sides go on where they were when a connection was lost. A blob travels by the group of pieces, each in a
short request: a request that is lost costs little, and needs no stream of its own.
"""

import os
import secrets
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import attrs
import trio
from blake3 import blake3

from commucat_cli.client.connection import Connection
from commucat_cli.client.rest import read_json, read_problem
from commucat_cli.errors import CliError, NotCommuCatError
from commucat_cli.profile import KeptUpload
from commucat_cli.transport import Response
from commucat_proto import json_text
from commucat_proto.attachment import (
    KEY_LEN,
    PIECE_LEN,
    SEALED_PIECE_LEN,
    AttachmentCipher,
    AttachmentError,
    AttachmentNote,
    safe_name,
)

T = TypeVar("T")

PIECES_PER_REQUEST: Final = 8
"""Half a mebibyte: less than the client takes as an answer, and than a server takes as a request."""
REQUEST_PATIENCE: Final = 60.0
"""Seconds for one such request over a slow line."""
CONFLICT_WAIT: Final = 0.2
"""Seconds before the server is asked again where an upload stands."""
MOST_SAME_NAMES: Final = 10_000

Progress = Callable[[int, int], None]
"""Told bytes of the file that are done, and all of them."""


class Upload:
    """One file on its way to the server. Made by :meth:`of_file`; close it at the end."""

    def __init__(self, handle: int, name: str, digests: list[bytes], digest: bytes, size: int) -> None:
        self._handle = handle
        self._digests = digests
        self._id = ""
        self._resumed = False
        self._note = AttachmentNote(
            attachment_id="unknown", key=secrets.token_bytes(KEY_LEN), size=size, name=name, digest=digest
        )
        self._cipher = AttachmentCipher(self._note.key, size)
        self.on_begun: Callable[[KeptUpload], None] | None = None
        """Called when the server has given the upload an id, before anything of the file is sent."""

    @classmethod
    async def of_file(cls, path: Path) -> "Upload":
        """Read the file once, for its digest; it is open until :meth:`close`.

        Raises:
            CliError: it cannot be read, or is no file.
        """
        return await trio.to_thread.run_sync(cls._open, path)

    @classmethod
    def _open(cls, path: Path) -> "Upload":
        try:
            # Non-blocking: a pipe would keep us waiting for a writer.
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            raise CliError(f"{path} cannot be read: {exc.strerror}") from exc
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise CliError(f"{path} is no file")
            hasher, digests, size = blake3(), list[bytes](), 0
            while piece := _pread(handle, PIECE_LEN, size):
                hasher.update(piece)
                digests.append(blake3(piece).digest())
                size += len(piece)
            return cls(handle, path.name, digests or [blake3(b"").digest()], hasher.digest(), size)
        except OSError as exc:
            os.close(handle)
            raise CliError(f"{path} cannot be read: {exc.strerror}") from exc
        except BaseException:
            os.close(handle)
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    @property
    def note(self) -> AttachmentNote:
        """What to tell the receiver, once :meth:`run` has returned."""
        return attrs.evolve(self._note, attachment_id=self._id)

    def mark(self, recipient: str) -> bytes:
        """32 bytes that name this content, under this name, for this recipient."""
        described: list[json_text.JsonValue] = [
            recipient,
            self._note.name,
            self._note.size,
            self._note.digest.hex(),
        ]
        return blake3(json_text.dumps(described)).digest()

    def resume(self, kept: KeptUpload) -> None:
        """Go on with what an earlier run has begun for the same :meth:`mark`, if the server still has it."""
        self._id = kept.attachment_id
        self._resumed = True
        self._note = attrs.evolve(self._note, key=kept.key)
        self._cipher = AttachmentCipher(kept.key, self._note.size)

    async def run(self, connection: Connection, progress: Progress) -> None:
        """Bring everything that the server has not got; may be called again over another connection.

        Raises:
            RetryableError: the connection is lost, or the server is busy.
            CliError: the server does not take it, or the file has changed meanwhile.
        """
        if self._resumed and not await self._is_known(connection):
            self._id = ""
        self._resumed = False
        if not self._id:
            await self._begin(connection)
        offset = await self._offset(connection)
        while offset < self._note.blob_size:
            progress(min(offset, self._note.size), self._note.size)
            data = await trio.to_thread.run_sync(self._sealed, offset)
            headers = [
                ("content-type", "application/offset+octet-stream"),
                ("upload-offset", str(offset)),
            ]
            response = await connection.exchange(
                "PATCH", f"{self._path}/upload", headers, data, patience=REQUEST_PATIENCE
            )
            if response.status == 409:
                # Sent twice by the transport, or another request of ours is still being given up there.
                await trio.sleep(CONFLICT_WAIT)
                offset = await self._offset(connection)
                continue
            _raise_unless(response, 204, self._path)
            offset = _offset_of(response)
        progress(self._note.size, self._note.size)

    @property
    def _path(self) -> str:
        return f"/api/attachments/{self._id}"

    async def _begin(self, connection: Connection) -> None:
        body = json_text.dumps({"size": self._note.blob_size})
        path = "/api/attachments"
        response = await connection.exchange("POST", path, [("content-type", "application/json")], body)
        if response.status == 404:
            raise CliError("the server takes no attachments")
        _raise_unless(response, 201, path)
        attachment_id = read_json(attrs.evolve(response, status=200), path).get("id")
        if not isinstance(attachment_id, str) or not attachment_id.isalnum():
            raise NotCommuCatError("the server gave the attachment no id")
        self._id = attachment_id
        if self.on_begun is not None:
            self.on_begun(KeptUpload(attachment_id=attachment_id, key=self._note.key))

    async def _is_known(self, connection: Connection) -> bool:
        response = await connection.exchange("GET", f"{self._path}/upload")
        return response.status != 404

    async def _offset(self, connection: Connection) -> int:
        path = f"{self._path}/upload"
        response = await connection.exchange("GET", path)
        _raise_unless(response, 200, path)
        return _offset_of(response)

    def _sealed(self, offset: int) -> bytes:
        """Bytes of the blob from ``offset`` on, to the end of a group of pieces."""
        first, skipped = divmod(offset, SEALED_PIECE_LEN)
        last = min(first + PIECES_PER_REQUEST, self._cipher.pieces)
        sealed = b"".join(map(self._piece, range(first, last)))
        return sealed[skipped:]

    def _piece(self, number: int) -> bytes:
        try:
            piece = _pread(self._handle, self._cipher.piece_len(number), number * PIECE_LEN)
        except OSError as exc:
            raise CliError(f"{self._note.name} cannot be read: {exc.strerror}") from exc
        # Another content under the same key and number would reveal both to whoever has both blobs.
        if blake3(piece).digest() != self._digests[number]:
            raise CliError(f"{self._note.name} has changed while it was being sent; send it again")
        return self._cipher.encrypt(number, piece)


class Download:
    """One attachment on its way into a folder: nothing has its final name before all of it was checked."""

    def __init__(self, note: AttachmentNote, directory: Path) -> None:
        self._note = note
        self._directory = directory
        self._cipher = AttachmentCipher(note.key, note.size)
        self._next = 0
        self._hasher = blake3()
        self._temporary = directory / f".{secrets.token_hex(8)}.part"
        self._handle: int | None = None

    async def run(self, connection: Connection, progress: Progress) -> Path:
        """Fetch what is missing; where the file is now. May be called again over another connection.

        Raises:
            AttachmentError: it is not what its sender described.
            RestError: the server has not got it (any more).
            RetryableError: the connection is lost, or the server is busy.
            CliError: the file cannot be written.
        """
        if self._handle is None:
            self._handle = await self._written(self._create)
        while self._next < self._cipher.pieces:
            sealed = await self._fetch(connection)
            await self._written(partial(self._take, sealed))
            progress(min(self._next * PIECE_LEN, self._note.size), self._note.size)
        if self._hasher.digest() != self._note.digest:
            raise AttachmentError("it is another file than its sender described")
        return await self._written(self._finish)

    def close(self) -> None:
        """Give up what is not finished."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
            self._temporary.unlink(missing_ok=True)

    async def _fetch(self, connection: Connection) -> bytes:
        path = f"/api/attachments/{self._note.attachment_id}"
        start = self._next * SEALED_PIECE_LEN
        end = min(start + PIECES_PER_REQUEST * SEALED_PIECE_LEN, self._note.blob_size)
        response = await connection.exchange(
            "GET", path, [("range", f"bytes={start}-{end - 1}")], patience=REQUEST_PATIENCE
        )
        if response.status == 416:
            raise AttachmentError("it is shorter than its sender described")
        _raise_unless(response, 206, path)
        if response.headers.get("content-range") != f"bytes {start}-{end - 1}/{self._note.blob_size}":
            raise AttachmentError("it has another length than its sender described")
        return response.body

    async def _written(self, work: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(work)
        except OSError as exc:
            raise CliError(f"{self._directory} cannot be written: {exc.strerror}") from exc

    def _create(self) -> int:
        self._directory.mkdir(parents=True, exist_ok=True)
        return os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def _take(self, sealed: bytes) -> None:
        assert self._handle is not None
        for start in range(0, len(sealed), SEALED_PIECE_LEN):
            piece = self._cipher.decrypt(self._next, sealed[start : start + SEALED_PIECE_LEN])
            view = memoryview(piece)
            while view:
                view = view[os.write(self._handle, view) :]
            self._hasher.update(piece)
            self._next += 1

    def _finish(self) -> Path:
        assert self._handle is not None
        os.fsync(self._handle)
        name = safe_name(self._note.name)
        stem, dot, suffix = name.rpartition(".") if "." in name else (name, "", "")
        for number in range(1, MOST_SAME_NAMES):
            path = self._directory / (name if number == 1 else f"{stem} ({number}){dot}{suffix}")
            try:
                # A link fails where a rename would overwrite.
                os.link(self._temporary, path)
            except FileExistsError:
                continue
            self.close()
            return path
        raise CliError(f"{self._directory} has too many files named {name}")


def _pread(handle: int, length: int, position: int) -> bytes:
    """So many bytes, fewer only at the end of the file."""
    data = b""
    while len(data) < length and (more := os.pread(handle, length - len(data), position + len(data))):
        data += more
    return data


def _offset_of(response: Response) -> int:
    text = response.headers.get("upload-offset", "")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise NotCommuCatError("the server does not tell how far the upload is")
    return int(text)


def _raise_unless(response: Response, status: int, path: str) -> None:
    if response.status != status:
        # The id lets everybody download: it is not for a terminal or a log.
        shown = "/api/attachments" if path.startswith("/api/attachments") else path
        raise read_problem(response.status, response.headers, response.body, shown)
