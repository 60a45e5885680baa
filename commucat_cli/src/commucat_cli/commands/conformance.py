"""``conformance``: run the protocol's test vectors against this installation."""

from pathlib import Path
from typing import Annotated

import attrs
import typer

from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import FAILURE, finish
from commucat_cli.commands.results import print_values
from commucat_cli.conformance.vectors import run_directory
from commucat_cli.errors import CliError
from commucat_cli.terminal import one_line, print_now

conformance_app = typer.Typer(help="Check this installation against test vectors.", no_args_is_help=True)


@conformance_app.command()
def vectors(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory with *.json vector files.")],
    as_json: JsonOption = False,
) -> None:
    """Run every vector file of a directory; fails if one case fails, or there is none."""

    def command() -> int:
        lines: list[str] = []
        report = lines.append if as_json else print_now
        try:
            counts = run_directory(directory, lambda line: report(one_line(line)))
        except OSError as exc:
            raise CliError(f"cannot read {directory}: {exc.strerror}") from exc
        if as_json:
            values = {"ok": not counts.failed, **attrs.asdict(counts), "report": lines[:-1]}
            print_values(values, as_json=True)
        return FAILURE if counts.failed else 0

    finish(command)
