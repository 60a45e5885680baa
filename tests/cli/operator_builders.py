"""Runs operator commands in this process, away from the settings of whoever runs the tests."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commucat_cli.main import app


class Operator:
    """An operator in an empty directory, who names the data directory each time."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data_dir = home / "data"

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        result = CliRunner().invoke(app, list(arguments))
        return result.exit_code, result.stdout, result.stderr

    def on_data(self, command: str, *arguments: str) -> tuple[int, str, str]:
        """The same with ``--data-dir``."""
        return self.run(command, *arguments, "--data-dir", str(self.data_dir))

    def values(self, command: str, *arguments: str) -> dict[str, str]:
        """The ``key=value`` lines of a command that succeeds."""
        code, out, err = self.on_data(command, *arguments)
        assert code == 0, err
        return dict(line.split("=", 1) for line in out.splitlines())


def operator_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    for name in [name for name in os.environ if name.startswith("COMMUCAT_") or name == "RUST_LOG"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(home)
    return Operator(home)
