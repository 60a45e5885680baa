"""Rows as lines of text, and digests over them.

A line is one JSON array (RFC 8259, ASCII only, no spaces) with the values of the table's columns in their
order, ended by a newline. Equal rows give equal lines, so a digest over lines is one over rows. Does no input
or output.
"""

import binascii
import json
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import attrs
from blake3 import blake3

from commucat_storage.moving.errors import DamagedBackupError
from commucat_storage.moving.tables import Kind, Table

Row: TypeAlias = tuple[Any, ...]
"""Values in the order of the table's columns, of the types that :class:`Kind` says, or None."""

_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False).encode
_SUM_MODULUS: Final = 2**256
_TYPES: Final[dict[Kind, type[object]]] = {
    Kind.TEXT: str,
    Kind.INT: int,
    Kind.BOOL: bool,
    Kind.BYTES: str,
    Kind.TEXTS: list,
    Kind.DECIMAL: str,
    Kind.SECONDS: int,
    Kind.EXPIRY: int,
    Kind.MICROSECONDS: int,
    Kind.JSON: str,
    Kind.JSON_VALUE: str,
}


class RowCodec:
    """Turns rows of one table into lines and back."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._binary = [index for index, column in enumerate(table.columns) if column.kind is Kind.BYTES]
        self._types = [(_TYPES[column.kind], column.optional) for column in table.columns]

    def line(self, row: Row) -> bytes:
        """The line of a row."""
        values = list(row)
        for index in self._binary:
            if values[index] is not None:
                values[index] = binascii.b2a_base64(values[index], newline=False).decode("ascii")
        return _encode(values).encode("ascii") + b"\n"

    def row(self, line: bytes) -> Row:
        """The row of a line.

        Raises:
            DamagedBackupError: it is not what :meth:`line` writes; the text names the table.
        """
        try:
            values = json.loads(line)
            if type(values) is not list or len(values) != len(self._types):
                raise ValueError("not an array of the right length")
            for value, (kind, optional) in zip(values, self._types, strict=True):
                # bool is an int to isinstance, and must not be one here.
                if type(value) is not kind and not (value is None and optional):
                    raise ValueError("a value of another type")
                if isinstance(value, list) and not all(type(each) is str for each in value):
                    raise ValueError("a list of something else than texts")
            for index in self._binary:
                if values[index] is not None:
                    values[index] = binascii.a2b_base64(values[index], strict_mode=True)
        except (ValueError, RecursionError) as exc:
            raise DamagedBackupError(f"a row of the table {self._table.name} is damaged ({exc})") from exc
        return tuple(values)


@attrs.define
class RowDigest:
    """Count and digest of the rows of a table, whatever order they come in.

    Databases sort texts differently. The digest is the sum of BLAKE3 over each line, as a little-endian
    number, modulo 2^256: it finds what got lost, doubled or changed, and is no protection against forgery.
    """

    rows: int = 0
    _sum: int = 0

    def add(self, lines: Iterable[bytes]) -> None:
        """Count some more rows in."""
        for line in lines:
            self._sum += int.from_bytes(blake3(line).digest(), "little")
            self.rows += 1
        self._sum %= _SUM_MODULUS

    def hex(self) -> str:
        """The digest so far, 64 digits."""
        return self._sum.to_bytes(32, "little").hex()
