"""``conformance``: run the protocol's test vectors against this installation."""

from pathlib import Path
from typing import Annotated

import typer

from commucat_cli.commands.outcome import FAILURE, finish
from commucat_cli.conformance.vectors import run_directory
from commucat_cli.errors import CliError
from commucat_cli.terminal import one_line, print_now

conformance_app = typer.Typer(help="Check this installation against test vectors.", no_args_is_help=True)


@conformance_app.command()
def vectors(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory with *.json vector files.")],
) -> None:
    """Run every vector file of a directory; fails if one case fails, or there is none."""

    def command() -> int:
        try:
            counts = run_directory(directory, lambda line: print_now(one_line(line)))
        except OSError as exc:
            raise CliError(f"cannot read {directory}: {exc.strerror}") from exc
        return FAILURE if counts.failed else 0

    finish(command)
