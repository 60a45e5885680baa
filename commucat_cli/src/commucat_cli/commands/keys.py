"""``keys``: whether the server tells the truth about this user's keys, and new keys of others."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from commucat_cli.client import CheckedHistory, PeerDirectory, fetch_key_history, open_session
from commucat_cli.commands.options import JsonOption, ProfileOption, device_id, warn_if_insecure
from commucat_cli.commands.outcome import FAILURE, run_command
from commucat_cli.commands.results import print_values
from commucat_cli.profile import Profile, open_profile
from commucat_cli.profile.keys import REMEMBERED
from commucat_cli.terminal import print_now, printable, printable_json, report_error

keys_app = typer.Typer(
    name="keys", help="The keys of a user's devices.", no_args_is_help=True, rich_markup_mode=None
)


@keys_app.command("check")
def check(
    profile: ProfileOption,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="DEVICE",
            callback=device_id,
            help="Another device of the same user; by default the profile's own.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fetch the history of a device's keys, and check it.

    Its links and the server's signature must be right, it must lead through what was seen at the last check,
    and the newest key must be the one that the device has. Exits with 1 if not.
    """
    run_command(partial(_check, profile, device, as_json))


@keys_app.command("accept")
def accept(
    profile: ProfileOption,
    device: Annotated[str, typer.Argument(metavar="DEVICE", callback=device_id, help="The other device.")],
    fingerprint: Annotated[
        str,
        typer.Option(
            "--fingerprint",
            metavar="NUMBERS",
            help="What `commucat-cli fingerprint` shows on that device; heard from its owner, not from here.",
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Accept the new key of a device that its old key did not announce.

    Without this, nothing is sent to the device and nothing of it is shown: it could be somebody else. What
    came meanwhile stays where `listen` has put it; ask for it again.

    Prints device_id, public_key and, if there was one, previous_public_key.
    """
    run_command(partial(_accept, profile, device, fingerprint, as_json))


async def _accept(directory: Path, device: str, fingerprint: str, as_json: bool) -> int:
    with open_profile(directory) as profile:
        account = profile.account()
        warn_if_insecure(account.trust)
        async with open_session(profile, receives=False) as connection:
            peers = PeerDirectory(profile.state, account.device_ca, connection)
            before, key = await peers.accept(device, fingerprint)
    values = {
        "device_id": device,
        "public_key": key.hex(),
        "previous_public_key": None if before in (None, key) else before.hex(),
    }
    print_values(values, as_json=as_json)
    return 0


async def _check(directory: Path, device: str | None, as_json: bool) -> int:
    with open_profile(directory) as profile:
        account = profile.account()
        warn_if_insecure(account.trust)
        wanted = device or profile.keys.device_id
        async with open_session(profile, receives=False) as connection:
            history = await fetch_key_history(connection, wanted, account.device_ca)
        problems = _problems(profile, history)
        if not problems:
            profile.state.keep_key_history(wanted, history.link, history.document)
    _print(history, problems, as_json)
    if problems:
        report_error("; ".join(problems))
    return FAILURE if problems else 0


def _problems(profile: Profile, history: CheckedHistory) -> list[str]:
    problems = []
    seen = profile.state.key_history(history.device_id)
    if seen is not None and not history.leads_through(seen):
        problems.append(f"the history does not lead through the link {seen.hex()} any more")
    if history.device_id == profile.keys.device_id:
        known = {pair.public for pair in (profile.keys.device, *profile.keys.previous)}
        foreign = [event for event in history.events if event.public_key not in known]
        if history.key != profile.keys.device.public:
            problems.append("the newest key of the history is not this device's key")
        elif foreign and len(profile.keys.previous) < REMEMBERED:
            problems.append(f"{len(foreign)} events name keys that this device never had")
    else:
        pinned = profile.state.peer_key(history.device_id)
        if pinned is not None and pinned != history.key:
            problems.append("the newest key of the history is not the one that is pinned for the device")
    return problems


def _print(history: CheckedHistory, problems: list[str], as_json: bool) -> None:
    if as_json:
        document = {
            "ok": not problems,
            "device": history.device_id,
            "events": [
                {
                    "event_id": event.event_id,
                    "public_key": event.public_key.hex(),
                    "recorded_at": event.recorded_at,
                    "link": link.hex(),
                }
                for event, link in zip(history.events, history.links, strict=True)
            ],
            "link": history.link.hex(),
            "problems": problems,
        }
        print_now(printable_json(json.dumps(document, indent=2)))
        return
    lines = {
        "device_id": history.device_id,
        "events": str(len(history.events)),
        "public_key": "" if history.key is None else history.key.hex(),
        "link": history.link.hex(),
        "ok": "no" if problems else "yes",
    }
    for name, value in lines.items():
        print_now(f"{name}={printable(value)}")
