"""How commands print: for scripts, for people, as JSON."""

import json
import sys
from collections.abc import Callable

import pytest

from commucat_cli.commands.results import Row, moment, print_rows, print_values, show_rows

ROWS: list[Row] = [
    {"name": "plain", "text": 'two words "quoted"', "count": 3, "flag": True, "nothing": None},
    {"name": "\x1b[31mred\n\u202e", "text": "", "count": 0, "flag": False, "nothing": "[bold]x[/bold]"},
]


def test_a_row_is_a_line_of_values_that_can_be_taken_apart(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows("rows", ROWS, as_json=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first == r'name=plain text="two words \"quoted\"" count=3 flag=yes'
    # Nothing that a terminal obeys, and no second line.
    assert "\x1b" not in second
    assert "\u202e" not in second
    assert second.endswith('text="" count=0 flag=no nothing=[bold]x[/bold]')


def test_json_keeps_values_and_escapes_what_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows("rows", ROWS, as_json=True)
    out = capsys.readouterr().out
    assert json.loads(out) == {"rows": ROWS}
    assert "\x1b" not in out
    assert "\u202e" not in out


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes standard output a terminal of so many columns."""

    def of_width(columns: int) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", "25")
        monkeypatch.setenv("TERM", "dumb")  # no bold letters

    return of_width


def test_people_get_a_table(capsys: pytest.CaptureFixture[str], terminal: Callable[[int], None]) -> None:
    terminal(80)
    print_rows("rows", ROWS, as_json=False)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "text", "count", "flag", "nothing"]
    assert lines[0].split() == ["plain", "two", "words", '"quoted"', "3", "yes"]
    assert lines[1].split() == ["\\u001b[31mred", "\\u202e", "0", "no", "[bold]x[/bold]"]
    assert len(lines) == 2
    print_rows("rows", [], as_json=False)
    assert capsys.readouterr().out == ""


IDS: list[Row] = [
    {"device": "a" * 32, "name": None, "expires_at": "2026-11-28T15:15:54+00:00"},
    {"device": "b" * 32, "name": "", "expires_at": None, "waits": True},
]


def test_a_table_has_no_empty_columns_short_times_and_whole_ids(
    capsys: pytest.CaptureFixture[str], terminal: Callable[[int], None]
) -> None:
    terminal(60)
    print_rows("rows", IDS, as_json=False)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        f"device{'':26}  expires_at        waits",
        f"{'a' * 32}  2026-11-28 15:15",
        f"{'b' * 32}{'':20}yes",
    ]


def test_a_terminal_that_is_too_narrow_for_a_table_gets_lines(
    capsys: pytest.CaptureFixture[str], terminal: Callable[[int], None]
) -> None:
    print_rows("rows", IDS, as_json=False)
    lines = capsys.readouterr().out
    terminal(56)
    print_rows("rows", IDS, as_json=False)
    assert capsys.readouterr().out == lines


def test_a_list_may_have_lines_of_its_own(
    capsys: pytest.CaptureFixture[str], terminal: Callable[[int], None]
) -> None:
    show_rows(IDS, lambda row: f"it is {row['device']}")
    assert capsys.readouterr().out == f"it is {'a' * 32}\nit is {'b' * 32}\n"
    terminal(60)
    show_rows(IDS, lambda row: f"it is {row['device']}")
    assert "it is" not in capsys.readouterr().out


def test_one_result_is_a_line_for_each_value(capsys: pytest.CaptureFixture[str]) -> None:
    print_values({"a": 1, "b": None, "c": "x\ny", "d": "a  path"}, as_json=False)
    assert capsys.readouterr().out == "a=1\nc=x y\nd=a  path\n"


def test_moments_beyond_the_calendar_are_not_told() -> None:
    assert moment(0) == "1970-01-01T00:00:00+00:00"
    assert moment(None) is None
    assert moment(2**62) is None
