"""Avatars and attachments as files that belong to a server: their names in a backup, and their places.

A backup has them as ``avatars/NAME`` and ``attachments/HASH``. Beside a running server some come and go.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from commucat_server.blobs.attachments import HASH_NAME, blob_path
from commucat_server.blobs.avatars import AVATAR_NAME
from commucat_server.config import ServerConfig
from commucat_server.provision.errors import ProvisionError
from commucat_server.provision.files import reason_of

_AVATARS: Final = "avatars"
_ATTACHMENTS: Final = "attachments"
BLOB_KINDS: Final = (_AVATARS, _ATTACHMENTS)


def kind_of(name: str) -> str | None:
    """``avatars`` or ``attachments``, if the name is one of theirs."""
    kind = name.partition("/")[0]
    return kind if kind in BLOB_KINDS else None


def blob_files(config: ServerConfig) -> dict[str, Path]:
    """Those that are there now, by name; links are left out, the server does not follow them either.

    Raises:
        ProvisionError: a folder cannot be read.
    """
    found = {f"{_AVATARS}/{path.name}": path for path in _files_in(config.uploads.dir)}
    found = {name: path for name, path in found.items() if AVATAR_NAME.fullmatch(path.name)}
    for path in _attachments_in(config.attachments.dir):
        found[f"{_ATTACHMENTS}/{path.name}"] = path
    return found


def blob_destination(config: ServerConfig, name: str) -> Path | None:
    """Where the server looks for the file; None for a name that it has no file of."""
    kind, _, file_name = name.partition("/")
    if kind == _AVATARS and AVATAR_NAME.fullmatch(file_name):
        return config.uploads.dir / file_name
    if kind == _ATTACHMENTS and HASH_NAME.fullmatch(file_name):
        return blob_path(config.attachments.dir, file_name)
    return None


def _attachments_in(directory: Path) -> Iterator[Path]:
    for entry in _entries(directory):
        if entry.is_dir(follow_symlinks=False):
            for path in _files_in(Path(entry.path)):
                if HASH_NAME.fullmatch(path.name) and path == blob_path(directory, path.name):
                    yield path


def _files_in(directory: Path) -> list[Path]:
    return [Path(entry.path) for entry in _entries(directory) if entry.is_file(follow_symlinks=False)]


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []  # nobody has uploaded anything
    except OSError as exc:
        raise ProvisionError(f"{directory}: cannot be read: {reason_of(exc)}") from exc
