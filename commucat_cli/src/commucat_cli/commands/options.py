"""Options that several client commands share."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from commucat_cli.client.addresses import is_address
from commucat_cli.terminal import warn
from commucat_cli.transport import Via
from commucat_proto.hello import MAX_DEVICE_ID_LEN


def device_id(text: str | None) -> str | None:
    """Callback of options that name a device."""
    text = encodable(text)
    if text is not None and not is_address(text):
        raise typer.BadParameter(
            f"a device id has 1 to {MAX_DEVICE_ID_LEN} characters, and @domain behind it on another server"
        )
    return text


def encodable(text: str | None) -> str | None:
    """Callback of options whose text goes to the server; bytes that are not UTF-8 arrive as surrogates."""
    if text is not None and not text.isprintable():
        raise typer.BadParameter("holds control characters, or is not UTF-8")
    return text


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
ViaOption = Annotated[
    Via | None,
    typer.Option(
        "--via",
        metavar="WAY",
        show_default=False,
        help=f"How to connect: {', '.join(Via)}. By default as at login, and there binary (HTTP/2).",
    ),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PeerOption = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="DEVICE",
        callback=device_id,
        help="Device id of the other side; with @domain on another server.",
    ),
]


def warn_if_insecure(trust: str) -> None:
    """Remind of a login with ``--insecure``, every time."""
    if trust == "insecure":
        warn(
            "the server's TLS certificate is not checked (--insecure): messages stay sealed, "
            "but whoever is in between can read and use the session's token"
        )
