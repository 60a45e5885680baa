"""docs/operations.md names every start-up error as the code tells it."""

from pathlib import Path

from commucat_storage.postgres.problems import all_problems

GUIDE = Path(__file__).parents[2] / "docs" / "operations.md"


def rows_below(heading: str) -> list[list[str]]:
    """The cells of the table in this section, without its head."""
    section = GUIDE.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return lines[2:]


def test_every_start_up_error_is_listed_with_its_remedy_and_nothing_else() -> None:
    listed = {(told, remedy) for told, _, remedy in rows_below("Start-up errors")}

    assert listed == {
        (problem.text.replace("{detail}", "…"), problem.remedy) for problem in all_problems().values()
    }
