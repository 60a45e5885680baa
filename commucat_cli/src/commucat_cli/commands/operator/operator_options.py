"""Options that several commands for operators share."""

import re
from typing import Annotated, TypeAlias

import typer

from commucat_cli.commands.options import device_id, encodable

MOST_ROWS = 100_000
MAX_NAME_LEN = 128


def named(text: str | None) -> str | None:
    """Callback of options with the id of a user or group, or a handle."""
    text = encodable(text)
    if text is not None and not 0 < len(text) <= MAX_NAME_LEN:
        raise typer.BadParameter(f"has 1 to {MAX_NAME_LEN} characters")
    return text


def exactly_one(**given: object) -> None:
    """Raises a usage error unless exactly one of the options was given."""
    if sum(value is not None for value in given.values()) != 1:
        names = " or ".join(f"--{name.replace('_', '-')}" for name in given)
        raise typer.BadParameter(f"specify {names}, exactly one of them")


def at_most_one(**given: object) -> None:
    """Raises a usage error if more than one of the options was given."""
    if sum(value is not None for value in given.values()) > 1:
        names = " or ".join(f"--{name.replace('_', '-')}" for name in given)
        raise typer.BadParameter(f"specify {names}, not both")


def confirmed(*, yes: bool, what: str) -> None:
    """Raises a usage error unless the operator has said ``--yes``; nobody is asked in a script."""
    if not yes:
        raise typer.BadParameter(f"{what}; repeat with --yes if that is meant")


YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", help="Do it; without, nothing is changed.")]
LimitOption: TypeAlias = Annotated[
    int, typer.Option("--limit", min=1, max=MOST_ROWS, metavar="N", help="Print at most so many.")
]
DeviceOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="DEVICE", callback=device_id, help="Of this device only.", show_default=False
    ),
]
OneDeviceOption: TypeAlias = Annotated[
    str, typer.Option("--device", metavar="DEVICE", callback=device_id, help="Device id.")
]
UserOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--user", metavar="ID", callback=named, help="Id of the user.", show_default=False),
]
HandleOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--handle", metavar="HANDLE", callback=named, help="Handle of the user.", show_default=False
    ),
]

HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")
