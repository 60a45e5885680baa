"""``p2p-assist`` and ``ice-check``: what the server advises for paths between devices; whether it works."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from commucat_cli.client import Connection, open_session
from commucat_cli.client.stun_query import NoResponderError, Reflection, ask_own_address
from commucat_cli.commands.once import ask_once
from commucat_cli.commands.options import JsonOption, ProfileOption, ViaOption, encodable, warn_if_insecure
from commucat_cli.commands.outcome import run_command
from commucat_cli.commands.results import print_values
from commucat_cli.errors import NotCommuCatError
from commucat_cli.profile import open_profile
from commucat_cli.transport import Via
from commucat_proto import stun

ASSIST = "/api/p2p/assist"
DEFAULT_PORT = 3478  # RFC 8489, section 8.5

OptionalProfile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="DIR",
        help="Ask the server of this profile for an address and a credential, and use them.",
        show_default=False,
    ),
]


def p2p_assist(profile: ProfileOption, via: ViaOption = None, as_json: JsonOption = False) -> NoReturn:
    """Show what the server advises for paths to other devices: STUN, TURN and relay, with new credentials.

    The passwords that it shows are good for minutes; whoever sees them can use the TURN server meanwhile.
    """
    ask_once(profile, via, _assist, partial(_show_assist, as_json=as_json))


async def _assist(connection: Connection) -> dict[str, Any]:
    return await connection.get(ASSIST)


def _show_assist(advice: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_values(advice, as_json=True)
        return
    try:
        print_values(_lines(advice), as_json=False)
    except (KeyError, TypeError, AttributeError, IndexError) as exc:
        raise NotCommuCatError(f"the answer to {ASSIST} lacks something: {exc}") from exc


def _lines(advice: dict[str, Any]) -> dict[str, Any]:
    ice, relay = advice["ice"], advice.get("relay") or {}
    values: dict[str, Any] = {
        "username_fragment": ice["username_fragment"],
        "password": ice["password"],
        "expires_at": ice["expires_at"],
    }
    for number, candidate in enumerate(ice.get("lite_candidates", ()), 1):
        values[f"stun_{number}"] = f"{candidate['ip']} {candidate['port']}"
    for number, server in enumerate(ice.get("servers", ()), 1):
        values[f"turn_{number}"] = " ".join(server["urls"])
        values[f"turn_{number}_username"] = server["username"]
        values[f"turn_{number}_credential"] = server["credential"]
        values[f"turn_{number}_expires_at"] = server.get("expires_at")
    values["transports"] = " ".join(f"{each['path_id']}:{each['transport']}" for each in advice["transports"])
    multipath = advice["multipath"]
    values["fec"] = f"mtu {multipath['fec_mtu']}, overhead {multipath['fec_overhead']:g}"
    values["relay_path"] = relay.get("path")
    values["relay_ticket"] = relay.get("ticket")
    return values


def ice_check(
    address: Annotated[
        str | None,
        typer.Argument(
            metavar="HOST[:PORT]",
            callback=encodable,
            help=f"A STUN server, port {DEFAULT_PORT} unless given; by default the one of --profile's "
            "server.",
            show_default=False,
        ),
    ] = None,
    profile: OptionalProfile = None,
    patience: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, max=600, help="How long to ask.")
    ] = 8.0,
    as_json: JsonOption = False,
) -> NoReturn:
    """Ask a STUN server from which address it sees this machine, to see whether UDP and NAT work."""
    if address is None and profile is None:
        raise typer.BadParameter("name a STUN server, or --profile to ask a CommuCat server for its own")
    where = None if address is None else _host_and_port(address)
    run_command(partial(_check, where, profile, patience, as_json))


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = text, str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise typer.BadParameter(f"{text!r} is no address; write HOST:PORT, such as turn.example.org:3478")
    return host, int(port)


async def _check(
    where: tuple[str, int] | None, directory: Path | None, patience: float, as_json: bool
) -> int:
    username = password = ""
    if directory is not None:
        ice = await _ask_for_credential(directory)
        username, password = str(ice["username_fragment"]), str(ice["password"])
        where = where or _responder_of(ice)
    assert where is not None
    found = await ask_own_address(*where, patience=patience, username=username, password=password)
    _show(found, proved=bool(username), as_json=as_json)
    return 0


async def _ask_for_credential(directory: Path) -> dict[str, Any]:
    with open_profile(directory) as profile:
        warn_if_insecure(profile.account().trust)
        async with open_session(profile, receives=False, via=Via.AUTO) as connection:
            advice = await connection.get(ASSIST)
    ice = advice.get("ice")
    if not isinstance(ice, dict) or not {"username_fragment", "password"} <= ice.keys():
        raise NotCommuCatError(f"the answer to {ASSIST} names no credential")
    return ice


def _responder_of(ice: dict[str, Any]) -> tuple[str, int]:
    for candidate in ice.get("lite_candidates") or ():
        return str(candidate["ip"]), int(candidate["port"])
    raise NoResponderError(
        "the server names no STUN responder: ice.lite_enabled is off, or ice.lite_public_address is not set"
    )


def _show(found: Reflection, *, proved: bool, as_json: bool) -> None:
    print_values(
        {
            "server": stun.format_address(found.server),
            "local": stun.format_address(found.local),
            "address": stun.format_address(found.mapped),
            # What is behind a NAT is seen under another address or port than its own.
            "nat": found.local != found.mapped,
            "credential": "accepted" if proved else None,
            "rtt_ms": round(found.rtt_ms, 1),
        },
        as_json=as_json,
    )
