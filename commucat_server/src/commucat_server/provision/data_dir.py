"""The data directory of a server."""

import datetime
import stat
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import attrs

from commucat_crypto import DeviceKeyPair
from commucat_server.config import ServerConfig
from commucat_server.provision.errors import ProvisionError
from commucat_server.provision.federation_seed import ensure_federation_keys
from commucat_server.provision.files import make_private_dir, reason_of
from commucat_server.provision.lock import DirLock
from commucat_server.provision.tls_files import ensure_tls_files

LOCK_FILE: Final = "server.lock"


@attrs.frozen(kw_only=True)
class DataDir:
    """A data directory that is ready and locked. Close it last, after everything that writes there."""

    path: Path
    federation_keys: DeviceKeyPair
    """The server's Ed25519 identity; issues device certificates."""
    tls_certificate: Path
    tls_key: Path
    warnings: tuple[str, ...]
    """Lines to log at warning once, at start."""
    _lock: DirLock = attrs.field(repr=False, eq=False)

    @property
    def lock_handle(self) -> int:
        """The descriptor of the lock, for processes that serve the same directory with this one."""
        return self._lock.handle

    def close(self) -> None:
        """Give the directory free for another server; more than once is allowed."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def prepare_data_dir(config: ServerConfig, *, inherited_lock: int | None = None) -> DataDir:
    """Make the data directory ready for one server, and lock it. Blocks on the disk.

    ``inherited_lock``: the descriptor of the lock that the parent of this process has taken for all its
    children.

    Layout: ``server.lock``; ``keys/federation.seed`` (hexadecimal, 0600); ``tls/cert.pem`` and
    ``tls/key.pem`` (0600). Store and ledger make their own files.

    Raises:
        DataDirBusyError: another server uses it.
        ProvisionError: it cannot be created or written, or a file in it is damaged.
    """
    path = config.data_dir
    make_private_dir(path)
    lock = DirLock.take(path / LOCK_FILE) if inherited_lock is None else DirLock(inherited_lock)
    try:
        keys = ensure_federation_keys(config)
        files = ensure_tls_files(config, now=datetime.datetime.now(datetime.UTC))
        warnings = (*_exposure(path), *files.warnings)
    except BaseException:
        lock.release()
        raise
    return DataDir(
        path=path,
        federation_keys=keys,
        tls_certificate=files.certificate,
        tls_key=files.key,
        warnings=warnings,
        lock=lock,
    )


def _exposure(path: Path) -> list[str]:
    # A directory that was there before keeps its mode: it may be one the operator shares on purpose.
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as exc:
        raise ProvisionError(f"{path}: cannot be read: {reason_of(exc)}") from exc
    if mode & 0o077:
        return [f"{path}: open to other users (mode {mode:04o}); run: chmod 700 {path}"]
    return []
