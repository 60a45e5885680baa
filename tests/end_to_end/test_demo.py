"""The demonstration that people run first."""

import subprocess
import sys
from pathlib import Path

from end_to_end.server_process import clean_environment

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"


def test_the_demonstration_goes_as_told_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        cwd=tmp_path,
        env=clean_environment(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("All as promised")
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
