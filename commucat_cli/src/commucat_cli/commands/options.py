"""Options that several client commands share."""

from pathlib import Path
from typing import Annotated

import typer

from commucat_cli.terminal import warn

ProfileOption = Annotated[
    Path,
    typer.Option(
        "--profile",
        metavar="DIR",
        envvar="COMMUCAT_PROFILE",
        help="The profile directory: keys, pinned server, inbox position.",
    ),
]
ChannelOption = Annotated[
    int | None,
    typer.Option(
        "--channel", min=1, max=0xFFFF_FFFF, help="Channel number; by default one derived from both devices."
    ),
]
PeerOption = Annotated[str, typer.Option("--to", metavar="DEVICE", help="Device id of the other side.")]


def warn_if_insecure(trust: str) -> None:
    """Remind of a login with ``--insecure``, every time."""
    if trust == "insecure":
        warn(
            "the server's TLS certificate is not checked (--insecure): messages stay sealed, "
            "but whoever is in between can read and use the session's token"
        )
