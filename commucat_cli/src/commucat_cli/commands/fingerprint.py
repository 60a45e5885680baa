"""``fingerprint``: numbers to compare by hand or by phone."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from commucat_cli.client import PeerDirectory, open_session, safety_number
from commucat_cli.client import fingerprint as fingerprint_of
from commucat_cli.commands.options import JsonOption, ProfileOption, device_id, warn_if_insecure
from commucat_cli.commands.outcome import run_command
from commucat_cli.commands.results import print_values
from commucat_cli.profile import Profile, open_profile


def fingerprint(
    profile: ProfileOption,
    peer: Annotated[
        str | None,
        typer.Option(
            "--peer", metavar="DEVICE", callback=device_id, help="Show the safety number with this device."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show this device's fingerprint, or the safety number that both sides of a conversation see equal.

    A peer never talked to is asked for at the server; else no connection is made.
    """
    run_command(partial(_fingerprint, profile, peer, as_json))


async def _fingerprint(directory: Path, peer: str | None, as_json: bool) -> int:
    with open_profile(directory) as profile:
        keys = profile.keys
        if peer is None:
            values = {
                "device_id": keys.device_id,
                "public_key": keys.device.public.hex(),
                "fingerprint": fingerprint_of(keys.device_id, keys.device.public),
            }
        else:
            own = (keys.device_id, keys.device.public)
            key = await _peer_key(profile, peer)
            values = {
                "device_id": keys.device_id,
                "peer": peer,
                "peer_public_key": key.hex(),
                "safety_number": safety_number(own, (peer, key)),
            }
    print_values(values, as_json=as_json)
    return 0


async def _peer_key(profile: Profile, peer: str) -> bytes:
    if peer == profile.keys.device_id:
        return profile.keys.device.public
    pinned = profile.state.peer_key(peer)
    if pinned is not None:
        return pinned
    account = profile.account()
    warn_if_insecure(account.trust)
    async with open_session(profile, receives=False) as connection:
        return await PeerDirectory(profile.state, account.device_ca, connection).key_for_sending(peer)
