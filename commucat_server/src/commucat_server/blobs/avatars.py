"""Avatars: pictures that are named after their content, so that a name never shows another picture."""

import os
import re
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import structlog
import trio
from blake3 import blake3

from commucat_server.blobs.disk import make_directory, store_whole, take_lock
from commucat_server.ops.finishing import finished
from commucat_storage import Storage

log = structlog.get_logger("commucat.avatars")

MAX_AVATAR: Final = 5 * 1024 * 1024
TYPES: Final = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
}
"""Suffix and media type. No SVG: it can hold scripts."""
AVATAR_NAME: Final = re.compile(rf"[0-9a-f]{{16,64}}\.({'|'.join(TYPES)})")
"""The file name of a picture; other files in the folder are not handed out."""


@attrs.frozen(kw_only=True)
class Picture:
    """A stored avatar."""

    data: bytes = attrs.field(repr=False)
    media_type: str


def suffix_of(data: bytes) -> str | None:
    """What kind of picture begins like this, whatever somebody calls it; None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


class AvatarFolder:
    """The pictures below one directory, which several processes may share."""

    def __init__(self, directory: Path, base_url: str, storage: Storage) -> None:
        """``base_url``: where the world finds the files, without a slash at its end."""
        self._directory = directory
        self._base_url = base_url
        self._storage = storage
        # One of us at a time waits for the lock between processes: it takes a thread to wait.
        self._turn = trio.Lock()

    async def give(self, user_id: str, data: bytes, suffix: str) -> tuple[str, str]:
        """Make the picture the user's avatar; its address and file name.

        The one before is deleted if nobody has it any more.

        Raises:
            StorageError: the profile was not changed.
            OSError: the file was not stored.
        """
        name = f"{blake3(data).hexdigest()}.{suffix}"
        address = f"{self._base_url}/{name}"
        # Locked over both: nobody deletes the file between its writing and the profile that names it.
        async with self._locked():
            await trio.to_thread.run_sync(self._store, name, data)
            # Who leaves in between again and again would fill the disk with pictures that nobody has.
            await finished(partial(self._change, user_id, address))
        return address, name

    async def read(self, name: str) -> Picture | None:
        """The picture; None for a name that is none, and for one that is not there."""
        match = AVATAR_NAME.fullmatch(name)
        if match is None:
            return None
        data = await trio.to_thread.run_sync(self._read, name)
        return None if data is None else Picture(data=data, media_type=TYPES[match[1]])

    async def _change(self, user_id: str, address: str) -> None:
        unused = await self._storage.set_avatar(user_id, address)
        if unused is not None and (old := self._name_of(unused)) is not None:
            await trio.to_thread.run_sync(self._delete, old)

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        async with self._turn:
            handle = await trio.to_thread.run_sync(take_lock, self._directory)
            try:
                yield
            finally:
                os.close(handle)

    def _name_of(self, address: str) -> str | None:
        base, _, name = address.rpartition("/")
        return name if base == self._base_url and AVATAR_NAME.fullmatch(name) else None

    def _store(self, name: str, data: bytes) -> None:
        make_directory(self._directory)
        path = self._directory / name
        if not path.is_file():
            store_whole(path, data)

    def _delete(self, name: str) -> None:
        try:
            (self._directory / name).unlink(missing_ok=True)
        except OSError as exc:
            log.warning("an avatar that nobody has was not deleted", name=name, reason=str(exc))

    def _read(self, name: str) -> bytes | None:
        try:
            # Not through a link, which somebody with an account on this machine could have put there.
            handle = os.open(
                self._directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            )
        except OSError:
            return None
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            return file.read(MAX_AVATAR + 1)
