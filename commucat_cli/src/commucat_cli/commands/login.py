"""``login``: make a profile and let the server admit its device."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from commucat_cli.client import LoginRequest, log_in
from commucat_cli.commands.options import JsonOption, ProfileOption, ViaOption, encodable, warn_if_insecure
from commucat_cli.commands.outcome import run_command
from commucat_cli.commands.results import print_values
from commucat_cli.errors import AddressError
from commucat_cli.profile import open_profile_for_login
from commucat_cli.transport import ServerAddress
from commucat_crypto import NoisePattern

_HANDLE = re.compile(r"[A-Za-z0-9._-]{1,64}")


class PatternName(StrEnum):
    """Noise patterns that open sessions."""

    XK = "XK"
    IK = "IK"


def login(
    server: Annotated[str, typer.Option("--server", metavar="URL", help="https://HOST:PORT")],
    handle: Annotated[str, typer.Option("--handle", metavar="NAME", help="The user's name on the server.")],
    profile: ProfileOption,
    code: Annotated[
        str | None,
        typer.Option(
            "--code", callback=encodable, help="One-time enrolment code from the server's operator."
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-ca", metavar="FILE", help="PEM file with the authority, or the server's certificate."
        ),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not check the TLS certificate.")] = False,
    pattern: Annotated[
        PatternName | None, typer.Option("--pattern", help="Noise pattern; XK hides this device better.")
    ] = None,
    as_json: JsonOption = False,
    via: ViaOption = None,
) -> None:
    """Log a device in. Keys are made here and stay here; may be repeated after an interruption."""
    if insecure and tls_ca is not None:
        raise typer.BadParameter("--tls-ca and --insecure exclude each other")
    if not _HANDLE.fullmatch(handle):
        raise typer.BadParameter("a handle has 1 to 64 of A-Z a-z 0-9 . _ -", param_hint="--handle")
    try:
        address = ServerAddress.parse(server)
    except AddressError as exc:
        raise typer.BadParameter(str(exc), param_hint="--server") from exc
    request = LoginRequest(
        address=address,
        handle=handle,
        code=code,
        ca_file=tls_ca,
        insecure=insecure,
        pattern=None if pattern is None else NoisePattern(pattern.value),
        via=via,
    )

    async def command() -> int:
        with open_profile_for_login(profile) as opened:
            warn_if_insecure("insecure" if insecure else "")
            account = await log_in(opened, request)
            values = {
                "device_id": opened.keys.device_id,
                "user_id": account.user_id or "",
                "handle": account.handle,
            }
        print_values(values, as_json=as_json)
        return 0

    run_command(command)
