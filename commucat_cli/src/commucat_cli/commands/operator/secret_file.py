"""The file of ``--out``: a new private key is on disk before its device exists, and overwrites nothing."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from commucat_cli.commands.operator.settings import OperatorError
from commucat_cli.errors import RestError
from commucat_cli.terminal import warn
from commucat_server.provision import ProvisionError
from commucat_server.provision.files import SECRET_MODE, reason_of, sync_dir, write_synced
from commucat_storage import AdmissionRefusedError, CommitFailedError

_REFUSALS: Final = (OperatorError, ProvisionError, AdmissionRefusedError, CommitFailedError, RestError)
"""After these nothing has changed; after anything else the device may have the key all the same."""


class _KeptError(OperatorError):
    """The device has its key, which is not where it was asked for."""


class SecretFile:
    """Keeps a document with a private key while its device is made; a context manager around that.

    Everything is written to a draft in the same folder before the block begins, so that a file which
    cannot be written changes nothing. At the end of the block the draft gets the wanted name. If the
    block fails the draft goes; unless that leaves open whether the device was made, then a warning
    says where its key is.
    """

    def __init__(self, path: Path | None, document: Mapping[str, Any]) -> None:
        """``path`` is None if no file is wanted."""
        self._path = path
        self._document = document
        self._draft = Path()

    def __enter__(self) -> Self:
        if self._path is not None:
            if os.path.lexists(self._path):
                raise OperatorError(f"{self._path}: exists already; name another file")
            self._draft = self._path.with_name(f".{self._path.name[:40]}.{secrets.token_hex(8)}")
            try:
                self._write(self._document)
            except OSError as exc:
                self._draft.unlink(missing_ok=True)
                raise OperatorError(f"{self._path} cannot be written: {reason_of(exc)}") from exc
        return self

    def complete(self, document: Mapping[str, Any]) -> None:
        """Replace the document by one that also has what only the making of the device has told.

        Raises:
            OperatorError: it cannot be written; the text says where the first one is.
        """
        if self._path is not None:
            try:
                self._write(document)
            except OSError as exc:
                raise self._kept(exc) from exc

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is None or isinstance(exc, _KeptError):
            return
        if exc is None:
            self._publish(self._path)
        elif isinstance(exc, _REFUSALS):
            self._draft.unlink(missing_ok=True)
        else:
            warn(f"it is not known whether the device was made; its private key is in {self._draft}")

    def _write(self, document: Mapping[str, Any]) -> None:
        fresh = self._draft.with_name(f"{self._draft.name}.new")
        try:
            write_synced(fresh, (json.dumps(document, indent=2) + "\n").encode(), mode=SECRET_MODE)
            fresh.replace(self._draft)
            sync_dir(self._draft.parent)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise

    def _publish(self, path: Path) -> None:
        try:
            # A link fails where a rename would overwrite.
            os.link(self._draft, path)
            self._draft.unlink()
            sync_dir(path.parent)
        except OSError as exc:
            raise self._kept(exc) from exc

    def _kept(self, exc: OSError) -> _KeptError:
        return _KeptError(
            f"the device has its key, but {self._path} cannot be written: {reason_of(exc)}; "
            f"the private key is in {self._draft}"
        )
