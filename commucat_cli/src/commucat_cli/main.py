"""``commucat-cli``: puts the commands together and starts one of them."""

import io
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from commucat_cli.commands.lazy import PLAIN, LazyGroup
from commucat_cli.commands.outcome import FAILURE, INTERRUPTED
from commucat_cli.errors import CliError
from commucat_cli.terminal import abandon_output, occupy_standard_streams, print_now, report_error

app = typer.Typer(
    name="commucat-cli",
    help="Client and operator commands of CommuCat.",
    no_args_is_help=True,
    cls=LazyGroup,
    **PLAIN,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print_now(f"commucat-cli {_version()}")
        raise typer.Exit


def _version() -> str:
    for distribution in ("commucat-cli", "commucat"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue  # installed through the umbrella, or run from a source tree
    return "unknown"


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave."),
    ] = False,
) -> None:
    """Options that come before any command."""


def main() -> None:
    """The console script."""
    occupy_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's character set does not have must not end a command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except KeyboardInterrupt:
        # Before or after a command's own work, which reports its interruption itself.
        report_error("interrupted")
        sys.exit(INTERRUPTED)
    except CliError as exc:
        report_error(str(exc))  # of --version, which is no command
        sys.exit(FAILURE)
    except OSError as exc:
        # The help text; commands report their own errors.
        abandon_output()
        report_error(f"standard output cannot be written: {exc.strerror}")
        sys.exit(FAILURE)


if __name__ == "__main__":
    main()
