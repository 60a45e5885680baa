"""The manifest of a backup: what belongs to it, with a digest of everything. Does no input or output."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs
from blake3 import blake3

from commucat_storage.moving.errors import DamagedBackupError, MoveError
from commucat_storage.moving.tables import NOT_MOVED, TABLES, Table

FORMAT: Final = 1
"""Raised when an older program could no longer read what a newer one writes."""
_HEX: Final = re.compile(r"[0-9a-f]{64}")
# What a server keeps beside its store. Names come from a file: none may lead out of the folder.
FILE_NAME: Final = re.compile(r"(keys|tls|ledger|avatars|attachments)/[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@attrs.frozen(kw_only=True)
class FileEntry:
    """A file of the backup: bytes, and BLAKE3 of them in hexadecimal digits."""

    size: int
    blake3: str


@attrs.frozen(kw_only=True)
class TableEntry:
    """A table: its file, its rows, their digest (see ``RowDigest``), the names of the columns."""

    file: FileEntry
    rows: int
    digest: str
    columns: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Manifest:
    """Everything that is said of a backup. ``created_at`` is Unix time in seconds."""

    created_at: int
    program: str
    domain: str
    server_public: str | None
    """The server's Ed25519 public key in hexadecimal digits; None if it had none yet."""
    backend: str
    schema_version: int
    cluster_id: str | None
    tables: Mapping[str, TableEntry]
    files: Mapping[str, FileEntry]

    def encode(self) -> bytes:
        """The text of ``manifest.json``: JSON for people, with a digest over itself."""
        body = {"format": FORMAT, **attrs.asdict(self)}
        return _text({**body, "digest": _digest(body)})

    def written(self, table: Table) -> Table | None:
        """The table as it is in the backup, perhaps without its last columns; None if it is not, or has no
        rows and other columns."""
        entry = self.tables.get(table.name)
        return None if entry is None else table.of_columns(entry.columns)

    @property
    def digest(self) -> str:
        """Names this backup and no other: 64 hexadecimal digits."""
        return _digest({"format": FORMAT, **attrs.asdict(self)})


def table_file(table: Table) -> str:
    """The name of the table's file in a backup."""
    return f"tables/{table.name}.jsonl"


def decode_manifest(text: bytes) -> Manifest:
    """The manifest of a text.

    Raises:
        MoveError: a newer program wrote it.
        DamagedBackupError: it is not whole.
    """
    try:
        body = json.loads(text)
        if not isinstance(body, dict) or type(body.get("format")) is not int:
            raise ValueError("it has no format number")
        if body["format"] > FORMAT:
            raise MoveError(
                f"the backup has format {body['format']}, and this program knows {FORMAT}; restore it "
                "with the version of the program that wrote it, or a newer one"
            )
        digest = body.pop("digest", None)
        if body.pop("format") != FORMAT or digest != _digest({"format": FORMAT, **body}):
            raise ValueError("its digest does not match")
        manifest = _manifest(body)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise DamagedBackupError(f"manifest.json is damaged ({exc})") from exc
    _refuse_unknown(manifest)
    return manifest


def _manifest(body: dict[str, Any]) -> Manifest:
    tables = {
        name: TableEntry(**{**entry, "file": FileEntry(**entry["file"]), "columns": tuple(entry["columns"])})
        for name, entry in body.pop("tables").items()
    }
    files = {name: FileEntry(**entry) for name, entry in body.pop("files").items()}
    return Manifest(**body, tables=tables, files=files)


def _refuse_unknown(manifest: Manifest) -> None:
    """The digest matches, so whoever wrote it meant it: then it is another version, or a forgery."""
    known = {table.name: table for table in TABLES}
    for name, entry in manifest.tables.items():
        if name in NOT_MOVED:
            continue  # Carried once, and not any more.
        # Nothing is lost with a table that had other columns once, and no rows.
        if name not in known or (known[name].of_columns(entry.columns) is None and entry.rows):
            raise MoveError(
                f"the backup has a table {name!r} with columns that this program does not know; restore it "
                f"with the version of the program that wrote it ({manifest.program})"
            )
    for name in manifest.files:
        if not FILE_NAME.fullmatch(name):
            raise MoveError(f"the backup names a file {name!r} that no server has")
    entries = [*manifest.files.values(), *(entry.file for entry in manifest.tables.values())]
    if not all(type(each.size) is int and _HEX.fullmatch(each.blake3) for each in entries):
        raise DamagedBackupError("manifest.json is damaged (a file without size or digest)")


def _digest(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return blake3(canonical.encode()).hexdigest()


def _text(body: dict[str, Any]) -> bytes:
    return json.dumps(body, indent=1, ensure_ascii=True).encode() + b"\n"
