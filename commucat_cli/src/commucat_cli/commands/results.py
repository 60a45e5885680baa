"""What a command prints: ``key=value`` lines, one JSON object, or a table on a terminal."""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from commucat_cli.terminal import one_line, print_now, printable, printable_json

Value = str | int | float | bool | None
Row = Mapping[str, Value]

_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:\+00:00|Z)")
"""Of which a table shows date, hour and minute."""
_WIDEST: Final = 100_000


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
            # Blanks stay as they are: the value may be a path.
            text = printable(_text(value)).replace("\n", " ")
            print_now(f"{name}={text}")


def print_rows(name: str, rows: Sequence[Row], *, as_json: bool) -> None:
    """A list: ``{"name": [...]}``, or as :func:`show_rows` shows it."""
    if as_json:
        _print_json({name: [dict(row) for row in rows]})
    else:
        show_rows(rows)


def show_rows(rows: Sequence[Row], line: Callable[[Row], str] | None = None) -> None:
    """A list for people or scripts: on a terminal a table, if it is wide enough for one; otherwise lines.

    ``line`` makes the line of a row, harmless for a terminal; by default one of ``key=value``.
    """
    if sys.stdout is not None and sys.stdout.isatty() and _print_table(rows):
        return
    for row in rows:
        print_now((line or _line)(row))


def _line(row: Row) -> str:
    return " ".join(f"{key}={_word(value)}" for key, value in row.items() if value is not None)


def _print_table(rows: Sequence[Row]) -> bool:
    """Print it, unless the terminal is too narrow: ids in pieces could not be copied."""
    # Only here: most commands have no use for it, and it takes long to import.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [{key: _cell(value) for key, value in row.items()} for row in rows]
    table = Table(box=None, pad_edge=False)
    known = dict.fromkeys(key for row in cells for key in row)
    names = [key for key in known if any(row.get(key) for row in cells)]
    for key in names:
        table.add_column(key, no_wrap=True)
    for row in cells:
        # Not as plain text: that of users may look like markup of the table.
        table.add_row(*(Text(row.get(key, "")) for key in names))
    console = Console()
    needed = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
    if needed > console.width:
        return False
    if names:
        console.print(table)
    return True


def _cell(value: Value) -> str:
    text = one_line(_text(value))
    return f"{text[:10]} {text[11:16]}" if _MOMENT.fullmatch(text) else text


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
