"""The examples in the package's README run."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "commucat_media" / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.split("\n", 1)[0])
def test_the_example_runs(example: str) -> None:
    exec(compile(example, str(README), "exec"), {})
