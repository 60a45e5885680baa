"""``pair`` and ``claim``: a device of a user lets another one join."""

import io
import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import qrcode  # type: ignore[import-untyped]  # it ships no types
import typer

from commucat_cli.client import ClaimRequest, Invitation, claim_device, open_session
from commucat_cli.commands.login import PatternName
from commucat_cli.commands.options import ProfileOption, ViaOption, encodable, warn_if_insecure
from commucat_cli.commands.outcome import run_command
from commucat_cli.errors import AddressError, NotCommuCatError
from commucat_cli.profile import open_profile, open_profile_for_login
from commucat_cli.terminal import Output, one_line, printable_json
from commucat_cli.transport import ServerAddress, Via
from commucat_crypto import NoisePattern
from commucat_server.identity.pairing_codes import canonical_code

MAX_NAME_LEN = 64


def pair(
    profile: ProfileOption,
    ttl: Annotated[
        int | None,
        typer.Option("--ttl", min=1, max=86_400, metavar="SECONDS", help="How long the code is good for."),
    ] = None,
    qr: Annotated[
        bool | None,
        typer.Option("--qr/--no-qr", help="Show a QR code. By default on a terminal.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and no QR code.")] = False,
    via: ViaOption = None,
) -> None:
    """Print a code with which one more device can join this device's user: commucat-cli claim.

    Whoever has the code within its time is let in, once. The address that comes with it, also as a QR code,
    names the server's keys, too.
    """
    run_command(partial(_pair, profile, ttl, qr, as_json, via))


async def _pair(directory: Path, ttl: int | None, qr: bool | None, as_json: bool, via: Via | None) -> int:
    with open_profile(directory) as profile:
        account = profile.account()
        warn_if_insecure(account.trust)
        async with open_session(profile, receives=False, via=via) as connection:
            offer = await connection.post("/api/pair", {} if ttl is None else {"ttl": ttl})
        code, expires_at = offer.get("pair_code"), offer.get("expires_at")
        if not isinstance(code, str) or not isinstance(expires_at, str):
            raise NotCommuCatError("the answer to /api/pair holds no code; is this a CommuCat server?")
        invitation = Invitation(
            address=ServerAddress.parse(account.server),
            code=code,
            domain=account.domain,
            device_ca=account.device_ca,
            noise_public=account.server_static,
        )
    values = {"code": code, "expires_at": expires_at, "uri": invitation.uri()}
    if as_json:
        await Output().write(printable_json(json.dumps(values)) + "\n")
        return 0
    text = "".join(f"{name}={one_line(value)}\n" for name, value in values.items())
    if qr or (qr is None and sys.stdout is not None and sys.stdout.isatty()):
        text += _qr_code(values["uri"])
    await Output().write(text)
    return 0


def _qr_code(text: str) -> str:
    """Half blocks, two rows of the code in a line of text; light on dark, as most terminals are."""
    code: Any = qrcode.QRCode(border=2, error_correction=qrcode.ERROR_CORRECT_L)
    code.add_data(text)
    code.make(fit=True)
    drawn = io.StringIO()
    code.print_ascii(out=drawn, invert=True)
    return drawn.getvalue()


def _name(text: str | None) -> str | None:
    text = encodable(text)
    if text is not None and not 0 < len(text) <= MAX_NAME_LEN:
        raise typer.BadParameter(f"must be 1 to {MAX_NAME_LEN} characters")
    return text


def claim(
    code: Annotated[
        str, typer.Argument(metavar="CODE", help="The code, or the commucat:// address that pair printed.")
    ],
    profile: ProfileOption,
    server: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="URL", help="https://HOST:PORT; the address has it.", show_default=False
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", callback=_name, help="What to call this device.", show_default=False
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-ca",
            metavar="FILE",
            help="PEM file with the authority, or the server's certificate.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not check the TLS certificate.")] = False,
    pattern: Annotated[
        PatternName | None,
        typer.Option("--pattern", help="Noise pattern; XK hides this device better.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    via: ViaOption = None,
) -> None:
    """Join the user whose device has printed the code. Keys are made here and stay here.

    May be repeated with the same code after an interruption.
    """
    if insecure and tls_ca is not None:
        raise typer.BadParameter("--tls-ca and --insecure exclude each other")
    address, typed, invitation = _read_code(code, server)
    request = ClaimRequest(
        address=address,
        code=typed,
        name=name,
        invitation=invitation,
        ca_file=tls_ca,
        insecure=insecure,
        pattern=None if pattern is None else NoisePattern(pattern.value),
        via=via,
    )
    run_command(partial(_claim, profile, request, as_json))


def _read_code(text: str, server: str | None) -> tuple[ServerAddress, str, Invitation | None]:
    invitation = None
    try:
        if "://" in text:
            invitation = Invitation.parse(text)
            text = invitation.code
        elif server is None:
            raise typer.BadParameter("a code alone needs --server URL", param_hint="CODE")
        address = ServerAddress.parse(server) if server is not None else None
    except AddressError as exc:
        raise typer.BadParameter(str(exc), param_hint="--server" if invitation else "CODE") from exc
    typed = canonical_code(text)
    if typed is None:
        raise typer.BadParameter("a code has eight letters and digits, as in ABCD-EFGH", param_hint="CODE")
    if address is None:
        assert invitation is not None, "without --server there is an address"
        address = invitation.address
    return address, typed, invitation


async def _claim(directory: Path, request: ClaimRequest, as_json: bool) -> int:
    with open_profile_for_login(directory) as profile:
        warn_if_insecure("insecure" if request.insecure else "")
        done = await claim_device(profile, request)
        values = {
            "device_id": profile.keys.device_id,
            "user_id": done.account.user_id or "",
            "handle": done.account.handle,
            "status": "pending" if done.waits else "active",
        }
    if as_json:
        await Output().write(printable_json(json.dumps(values)) + "\n")
    else:
        await Output().write("".join(f"{name}={one_line(value)}\n" for name, value in values.items()))
    return 0
