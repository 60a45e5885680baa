"""How commands for operators print: for scripts, for people, as JSON."""

import json
import sys

import pytest

from commucat_cli.commands.operator.results import Row, moment, print_rows, print_values

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


def test_people_get_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "dumb")
    print_rows("rows", ROWS, as_json=False)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "text", "count", "flag", "nothing"]
    assert lines[0].split() == ["plain", "two", "words", '"quoted"', "3", "yes"]
    assert "[bold]x[/bold]" in "\n".join(lines)
    assert "\x1b[31m" not in "\n".join(lines)
    print_rows("rows", [], as_json=False)
    assert capsys.readouterr().out == ""


def test_one_result_is_a_line_for_each_value(capsys: pytest.CaptureFixture[str]) -> None:
    print_values({"a": 1, "b": None, "c": "x\ny"}, as_json=False)
    assert capsys.readouterr().out == "a=1\nc=x y\n"


def test_moments_beyond_the_calendar_are_not_told() -> None:
    assert moment(0) == "1970-01-01T00:00:00+00:00"
    assert moment(None) is None
    assert moment(2**62) is None
