"""docs/defects.md: every defect is listed, and every test that it names exists."""

import ast
import re

import pytest

from project.project_files import ROOT

ROW = re.compile(r"^\| ([A-Z]\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
ROWS = [match.groups() for match in ROW.finditer((ROOT / "docs" / "defects.md").read_text())]
COUNTS = {"S": 15, "M": 10, "C": 10, "D": 11, "O": 5, "A": 32, "W": 14}
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}


def test_every_defect_has_its_row() -> None:
    expected = [f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
    assert [row[0] for row in ROWS] == expected


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_defect_is_shown_to_be_absent_or_its_place_is(row: tuple[str, str, str, str]) -> None:
    _, _, instead, shown = row
    if shown.startswith("not yet: comes with "):
        assert instead == "has nothing like it"
        return
    named = NAMED.findall(shown)
    assert named
    assert " ".join(f"`{path}::{name}`" for path, name in named) == shown
    assert [f"{path}::{name}" for path, name in named if name not in functions_of(path)] == []
