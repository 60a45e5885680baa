"""What a server keeps beside its store: its key, certificate, ledger, blobs. Where it is, and its copies.

A backup calls them ``keys/federation.seed``, ``tls/cert.pem``, ``tls/key.pem`` and ``ledger/ledger...``; for
blobs see :mod:`commucat_server.provision.blob_files`.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from blake3 import blake3

from commucat_crypto import DeviceKeyPair
from commucat_server.config import ServerConfig
from commucat_server.config.sections import LedgerMode
from commucat_server.provision.blob_files import blob_destination, blob_files, kind_of
from commucat_server.provision.errors import ProvisionError
from commucat_server.provision.federation_seed import seed_path
from commucat_server.provision.files import SECRET_MODE, make_private_dir, reason_of, sync_dir

Parts: TypeAlias = Callable[[], Iterable[bytes]]
"""Gives the content of a file in pieces, from the start each time. Raises :class:`FileGoneError` at once if
there is no such file any more."""

_SEED: Final = "keys/federation.seed"
_CERTIFICATE: Final = "tls/cert.pem"
_KEY: Final = "tls/key.pem"
_LEDGER: Final = "ledger/ledger"
_REST: Final = re.compile(r"[A-Za-z0-9_.-]{0,100}")
_CHUNK: Final = 2**20
_CERTIFICATE_MODE: Final = 0o644


class FileGoneError(ProvisionError):
    """A file was deleted since it was found."""


def belongings_of(config: ServerConfig, *, attachments: bool = True) -> dict[str, Parts]:
    """The files of the server as they are now, by name. Beside a running server the ledger ends with its
    last whole line.

    Raises:
        ProvisionError: a folder cannot be read.
    """
    places = {name: path for name, path in _own_places(config).items() if path.exists()}
    found: dict[str, Parts] = {name: _reader(path) for name, path in places.items()}
    for path in _ledger_files(config):
        name = f"{_LEDGER}{path.name.removeprefix(_ledger_stem(config))}"
        found[name] = _reader(path, whole_lines=path == config.ledger.target)
    for name, path in blob_files(config).items():
        if attachments or kind_of(name) != "attachments":
            found[name] = _reader(path)
    return found


def not_included(config: ServerConfig) -> list[str]:
    """Settings that hold what a server needs elsewhere, too, and that no backup contains."""
    given = {
        "crypto.federation_seed": config.crypto.federation_seed,
        "security.secret_key": config.security.secret_key,
        "server.tls_cert and server.tls_key": config.server.tls_cert,
    }
    return [name for name, value in given.items() if value is not None]


def check_room(config: ServerConfig, files: Mapping[str, Parts], server_public: bytes | None) -> list[str]:
    """Whether the files can be put where ``config`` has them; warnings about those that it has no use for.

    ``server_public`` is the public key of the server that they belong to.

    Raises:
        ProvisionError: another file is there already, or the server would have another key.
    """
    _check_identity(config, files, server_public)
    warnings = []
    for name, parts in files.items():
        path = _destination(config, name)
        if path is None:
            warnings.append(f"{name} is not put anywhere: the configuration names another place, or none")
        elif path.exists() and not _same(_reader(path)(), parts()):
            raise ProvisionError(f"{path}: exists already, with other content; move it away")
    return warnings


def put_file(config: ServerConfig, name: str, parts: Parts) -> None:
    """Write a file where ``config`` has it, whole or not at all; one that is there already is the same.

    Raises:
        ProvisionError: it cannot be written.
    """
    path = _destination(config, name)
    if path is None or path.exists():
        return
    make_private_dir(path.parent)
    _write(path, parts(), _CERTIFICATE_MODE if name == _CERTIFICATE else SECRET_MODE)


def _own_places(config: ServerConfig) -> dict[str, Path]:
    places = {}
    if config.crypto.federation_seed is None:
        places[_SEED] = seed_path(config.data_dir)
    if config.server.tls_cert is None:
        places[_CERTIFICATE] = config.data_dir / "tls" / "cert.pem"
        places[_KEY] = config.data_dir / "tls" / "key.pem"
    return places


def _destination(config: ServerConfig, name: str) -> Path | None:
    if name.startswith(_LEDGER):
        target = config.ledger.target
        if config.ledger.mode is not LedgerMode.FILE or target is None:
            return None
        return target.with_name(_ledger_stem(config) + name.removeprefix(_LEDGER))
    if kind_of(name) is not None:
        return blob_destination(config, name)
    return _own_places(config).get(name)


def _ledger_stem(config: ServerConfig) -> str:
    assert config.ledger.target is not None, "mode file has a target"
    return config.ledger.target.name.removesuffix(".jsonl")


def _ledger_files(config: ServerConfig) -> list[Path]:
    """The ledger, what was cut from it, and what will be made of it in time."""
    target = config.ledger.target
    if config.ledger.mode is not LedgerMode.FILE or target is None or not target.parent.is_dir():
        return []
    stem = _ledger_stem(config)
    try:
        return sorted(
            path
            for path in target.parent.iterdir()
            if path.name.startswith(stem) and path.is_file() and _REST.fullmatch(path.name.removeprefix(stem))
        )
    except OSError as exc:
        raise ProvisionError(f"{target.parent}: cannot be read: {reason_of(exc)}") from exc


def _check_identity(config: ServerConfig, files: Mapping[str, Parts], server_public: bytes | None) -> None:
    if server_public is None:
        return
    seed = config.crypto.federation_seed
    if seed is not None:
        if DeviceKeyPair.from_seed(seed).public != server_public:
            raise ProvisionError(
                "crypto.federation_seed is not that of the server whose data this is: its certificates would "
                "be worth nothing; set it to that one, or unset it"
            )
    elif _SEED not in files:
        raise ProvisionError(
            "the key of the server whose data this is was in its configuration: set crypto.federation_seed "
            "to the same value"
        )


def _reader(path: Path, *, whole_lines: bool = False) -> Parts:
    def open_file() -> Iterator[bytes]:
        try:
            file = path.open("rb")
        except FileNotFoundError as exc:
            raise FileGoneError(f"{path}: is not there any more") from exc
        except OSError as exc:
            raise ProvisionError(f"{path}: cannot be read: {reason_of(exc)}") from exc
        return read(file)

    def read(file: BinaryIO) -> Iterator[bytes]:
        held = b""
        try:
            with file:
                while part := file.read(_CHUNK):
                    if whole_lines:
                        part, newline, held = (held + part).rpartition(b"\n")
                        part += newline
                    yield part
        except OSError as exc:
            raise ProvisionError(f"{path}: cannot be read: {reason_of(exc)}") from exc

    return open_file


def _same(some: Iterable[bytes], others: Iterable[bytes]) -> bool:
    first, second = blake3(), blake3()
    for part in some:
        first.update(part)
    for part in others:
        second.update(part)
    return first.digest() == second.digest()


def _write(path: Path, parts: Iterable[bytes], mode: int) -> None:
    # One fixed name: what a kill leaves is overwritten by the next try.
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(handle)
        draft.replace(path)
        sync_dir(path.parent)
    except OSError as exc:
        raise ProvisionError(f"{path}: cannot be written: {reason_of(exc)}") from exc
