"""``commucat-cli completion`` and ``commucat-cli man``."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from commucat_cli.commands.outcome import finish
from commucat_cli.errors import CliError
from commucat_cli.manual.completion import Shell, script
from commucat_cli.manual.roff import page, page_name
from commucat_cli.manual.tree import CommandText, tree_of
from commucat_cli.terminal import print_now


class ManualError(CliError):
    """The pages cannot be written."""


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print the completion script of a shell.

    bash: commucat-cli completion bash > ~/.local/share/bash-completion/completions/commucat-cli
    (or: source it). zsh: into a directory of $fpath, as _commucat-cli. fish: into
    ~/.config/fish/completions/commucat-cli.fish.
    """

    def command() -> int:
        print_now(script(_tree(), shell).rstrip("\n"))
        return 0

    finish(command)


def man(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A directory, such as share/man/man1; made if there is none."),
    ],
) -> None:
    """Write a manual page for each command.

    Read one with: man -l DIR/commucat-cli.1. Prints pages=N.
    """

    def command() -> int:
        pages = list(_tree().walk())
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ManualError(f"cannot make {folder}: {exc.strerror}") from exc
        for each in pages:
            _write(folder / page_name(each), each)
        print_now(f"pages={len(pages)}")
        return 0

    finish(command)


def _tree() -> CommandText:
    # Only now: the program imports its commands, not the other way round.
    from commucat_cli.main import app

    return tree_of(app)


def _write(path: Path, command: CommandText) -> None:
    try:
        path.write_text(page(command, _version()), "utf-8")
    except OSError as exc:
        raise ManualError(f"cannot write {path}: {exc.strerror}") from exc


def _version() -> str:
    for distribution in ("commucat-cli", "commucat"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue  # installed through the umbrella, or run from a source tree
    return ""
