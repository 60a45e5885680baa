"""Numbered migrations of a backend: found in its package, compared with what a database has had."""

import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from typing import TypeAlias

import attrs

from commucat_storage.problems import SchemaProblems

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


@attrs.frozen(kw_only=True)
class Migration:
    """One step of the schema; ``checksum`` is SHA-256 over the UTF-8 text of its file."""

    version: int
    name: str
    sql: str = attrs.field(repr=False)
    checksum: bytes = attrs.field(repr=False)


Applied: TypeAlias = Mapping[int, tuple[str, bytes]]
"""Name and checksum of each migration that a database has had, by version."""


def migrations_of(package: str) -> tuple[Migration, ...]:
    """The files in the folder ``migrations`` of ``package``, lowest version first."""
    found = []
    for entry in resources.files(package).joinpath("migrations").iterdir():
        if match := _FILE_NAME.fullmatch(entry.name):
            text = entry.read_text(encoding="utf-8")
            found.append(
                Migration(
                    version=int(match[1]),
                    name=match[2],
                    sql=text,
                    checksum=hashlib.sha256(text.encode()).digest(),
                )
            )
    return tuple(sorted(found, key=lambda migration: migration.version))


def pending_migrations(place: str, applied: Applied, migrations: tuple[Migration, ...]) -> list[Migration]:
    """What is left to apply to the database that errors call ``place``.

    Raises:
        SchemaError: what was applied is not what this program would have applied.
    """
    bundled = {migration.version: migration for migration in migrations}
    for version in sorted(applied):
        name, checksum = applied[version]
        if version not in bundled:
            raise SchemaProblems.NEWER.at(place, f"{version} ({name})")
        if checksum != bundled[version].checksum:
            raise SchemaProblems.EDITED.at(place, f"{version} ({name})")
    last = max(applied, default=0)
    for migration in migrations:
        if migration.version < last and migration.version not in applied:
            raise SchemaProblems.LEFT_OUT.at(place, f"{migration.version} ({migration.name})")
    return [migration for migration in migrations if migration.version > last]
