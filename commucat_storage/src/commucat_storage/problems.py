"""What can be wrong with a database when it is opened, each with what an operator can do about it."""

from typing import ClassVar

import attrs

from commucat_storage.errors import SchemaError, StorageError, StorageUnavailableError


@attrs.frozen
class Problem:
    """One line for an operator; ``{detail}`` in it stands for what the database, or the system, said."""

    text: str
    remedy: str
    kind: type[StorageError] = StorageUnavailableError

    def at(self, place: str, detail: object = "") -> StorageError:
        """The error to raise; ``place`` is the database, without a password."""
        shown = " ".join(str(detail).split())
        return self.kind(f"{place}: {self.text.replace('{detail}', shown)}; {self.remedy}")


class SchemaProblems:
    """Those that every backend has."""

    NEWER: ClassVar = Problem(
        "has migration {detail}, which this program does not know",
        "run the version of the program that wrote it, or a newer one",
        SchemaError,
    )
    EDITED: ClassVar = Problem(
        "migration {detail} is not the one it had: the file was edited",
        "run an unchanged copy of the program",
        SchemaError,
    )
    LEFT_OUT: ClassVar = Problem(
        "migration {detail} was left out",
        "go back to a copy of the database: somebody has changed its table schema_migration",
        SchemaError,
    )
