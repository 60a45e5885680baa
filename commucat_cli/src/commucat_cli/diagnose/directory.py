"""The data directory, who may read it, and how much room it has."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from commucat_cli.diagnose.finding import Finding, failure, ok, warning
from commucat_server.config import ServerConfig

MIB = 2**20
FEW_FREE_BYTES = 1024 * MIB
TOO_FEW_FREE_BYTES = 100 * MIB


def check_directory(config: ServerConfig) -> Iterator[Finding]:
    """The directory, the modes of the files with secrets in it, free space."""
    name, path = "data-directory", config.data_dir
    if not path.is_dir():
        yield failure(name, f"{path}: does not exist; start the server once, or name another with --data-dir")
        return
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield failure(name, f"{path}: not readable and writable for this user; run as the server's user")
        return
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        yield warning(name, f"{path}: open to other users (mode {mode:04o}); run: chmod 700 {path}")
    else:
        yield ok(name, str(path))
    for secret in _secret_files(config):
        yield from _check_secret(secret)
    yield _room(path)
    store = config.storage.path.parent
    if store.is_dir() and store.stat().st_dev != status.st_dev:
        yield _room(store)


def _secret_files(config: ServerConfig) -> list[Path]:
    key = config.server.tls_key or config.data_dir / "tls" / "key.pem"
    return [config.data_dir / "keys" / "federation.seed", key, config.storage.path]


def _check_secret(path: Path) -> Iterator[Finding]:
    """Silent when all is well, or when the file is missing: another check tells that."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return
    if mode & 0o007:
        yield failure(
            "permissions",
            f"{path}: holds secrets and is open to everybody (mode {mode:04o}); run: chmod 600 {path}",
        )
    elif mode & 0o070:
        # Common for certificates that several services share, so no failure.
        yield warning("permissions", f"{path}: holds secrets and is open to its group (mode {mode:04o})")


def _room(path: Path) -> Finding:
    free = shutil.disk_usage(path).free
    text = f"{free // MIB} MiB free at {path}"
    if free < TOO_FEW_FREE_BYTES:
        return failure("disk", f"{text}; messages can hardly be stored any more, make room")
    if free < FEW_FREE_BYTES:
        return warning("disk", f"{text}; make room")
    return ok("disk", text)
