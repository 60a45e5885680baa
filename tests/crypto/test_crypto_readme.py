"""The example in the package's README runs."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "commucat_crypto" / "README.md"


def test_the_example_runs() -> None:
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(example, str(README), "exec"), {})
