"""What a command for operators prints: ``key=value`` lines, one JSON object, or a table on a terminal."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from commucat_cli.terminal import one_line, print_now, printable, printable_json

Value = str | int | float | bool | None
Row = Mapping[str, Value]


def moment(seconds: int | None) -> str | None:
    """Unix seconds as RFC 3339; None stays None, and so does what the calendar has not got."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def print_values(values: Mapping[str, Any], *, as_json: bool) -> None:
    """One result: a JSON object, or a line ``key=value`` for each member that is not None."""
    if as_json:
        _print_json(values)
        return
    for name, value in values.items():
        if value is not None:
            print_now(f"{name}={one_line(_text(value))}")


def print_rows(name: str, rows: Sequence[Row], *, as_json: bool) -> None:
    """A list: ``{"name": [...]}``; on a terminal a table; otherwise a line of ``key=value`` for each row."""
    if as_json:
        _print_json({name: [dict(row) for row in rows]})
    elif sys.stdout is not None and sys.stdout.isatty():
        _print_table(rows)
    else:
        for row in rows:
            print_now(" ".join(f"{key}={_word(value)}" for key, value in row.items() if value is not None))


def _print_table(rows: Sequence[Row]) -> None:
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    for key in rows[0]:
        table.add_column(key, overflow="fold")
    for row in rows:
        # Text of users may look like markup of the table.
        table.add_row(*(printable(_text(value)).replace("[", r"\[") for value in row.values()))
    Console().print(table)


def _print_json(document: Mapping[str, Any]) -> None:
    print_now(printable_json(json.dumps(document, indent=2, ensure_ascii=False)))


def _word(value: Value) -> str:
    """A value that ends where the next blank begins: quoted as in JSON if it has one inside."""
    text = one_line(_text(value))
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text or not text else text


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
