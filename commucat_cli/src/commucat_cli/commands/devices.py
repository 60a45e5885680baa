"""``devices``: the devices of a user, asked at the server with a profile, or in the store by its operator."""

import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import attrs
import typer

from commucat_cli.client import Connection, open_session, rotate_key
from commucat_cli.commands.offsets import offsets
from commucat_cli.commands.operator.devices import StoreDevices
from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory
from commucat_cli.commands.options import ProfileOption, ViaOption, device_id, encodable, warn_if_insecure
from commucat_cli.commands.outcome import finish, run_command, run_interruptibly
from commucat_cli.commands.results import show_rows
from commucat_cli.errors import NotCommuCatError
from commucat_cli.profile import Profile, open_profile
from commucat_cli.terminal import print_now, printable, printable_json

devices_app = typer.Typer(
    name="devices",
    help="Devices of a user: with --profile as one of them, with --data-dir or --config as the operator.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

OptionalProfile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="DIR",
        envvar="COMMUCAT_PROFILE",
        help="The profile of one of the devices.",
        show_default=False,
    ),
]
UserOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--handle",
        metavar="NAME",
        callback=encodable,
        help="Of this user only; for the operator.",
        show_default=False,
    ),
]
DeviceArgument: TypeAlias = Annotated[str, typer.Argument(metavar="DEVICE", callback=device_id)]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@attrs.frozen(kw_only=True)
class Place:
    """Where the devices are looked for: at the server, or in its store."""

    profile: Path | None
    config: Path | None
    data_dir: Path | None
    by_environment: bool = False
    """The store, which variables name."""

    def store(self) -> StoreDevices | None:
        """The store, None to ask the server."""
        if self.config is None and self.data_dir is None and not self.by_environment:
            return None
        return StoreDevices(self.config, self.data_dir)


def _place(
    ctx: typer.Context,
    profile: Path | None,
    config: Path | None,
    data_dir: Path | None,
    handle: str | None = None,
) -> Place:
    """Raises a usage error if both places were named, or neither, or a user to the server."""
    if config is None and data_dir is None:
        if profile is None and any(os.environ.get(name) for name in STORE_VARIABLES):
            return Place(profile=None, config=None, data_dir=None, by_environment=True)
        if profile is None:
            raise typer.BadParameter("name --profile, or the server's data (--data-dir or --config)")
        if handle is not None:
            raise typer.BadParameter(
                "--handle is for the operator: leave it out, or name --data-dir or --config"
            )
        return Place(profile=profile, config=None, data_dir=None)
    # A profile in the environment is no contradiction: whoever names the store means it.
    source = ctx.get_parameter_source("profile")
    if source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter(
            "--profile asks the server, --data-dir and --config its store: name one of them"
        )
    return Place(profile=None, config=config, data_dir=data_dir)


STORE_VARIABLES: Final = ("COMMUCAT_DATA_DIR", "COMMUCAT_CONFIG")
"""Variables that name the store, as for the other commands of operators."""

Row: TypeAlias = dict[str, Any]
Ask: TypeAlias = Callable[[Connection, Profile], Awaitable[list[Row]]]


@devices_app.command("list")
def list_devices(
    ctx: typer.Context,
    profile: OptionalProfile = None,
    handle: UserOption = None,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """List devices, those that wait for approval too."""
    place = _place(ctx, profile, config, data_dir, handle)
    _answer(place, lambda store: store.listed(handle, pending_only=False), _ask_list, as_json)


@devices_app.command("pending")
def pending(
    ctx: typer.Context,
    profile: OptionalProfile = None,
    handle: UserOption = None,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """List the devices that have claimed a code and wait for approval."""
    place = _place(ctx, profile, config, data_dir, handle)
    _answer(place, lambda store: store.listed(handle, pending_only=True), _ask_pending, as_json)


@devices_app.command("approve")
def approve(
    ctx: typer.Context,
    device: DeviceArgument,
    profile: OptionalProfile = None,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Let a device in that waits."""
    place = _place(ctx, profile, config, data_dir)
    _answer(place, lambda store: store.approve(device), partial(_ask_action, "approve", device), as_json)


@devices_app.command("reject")
def reject(
    ctx: typer.Context,
    device: DeviceArgument,
    profile: OptionalProfile = None,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Turn a device away that waits."""
    place = _place(ctx, profile, config, data_dir)
    _answer(place, lambda store: store.reject(device), partial(_ask_action, "reject", device), as_json)


@devices_app.command("revoke")
def revoke(
    ctx: typer.Context,
    device: DeviceArgument,
    profile: OptionalProfile = None,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """End a device for good: its session, its certificates and tokens, and what waits for it."""
    place = _place(ctx, profile, config, data_dir)
    _answer(place, lambda store: store.revoke(device), partial(_ask_action, "revoke", device), as_json)


@devices_app.command("rotate")
def rotate(profile: ProfileOption, as_json: JsonOption = False, via: ViaOption = None) -> None:
    """Give this profile's device a new key. Others are told by the old one; their commands follow.

    May be repeated after an interruption.
    """

    async def command() -> int:
        with open_profile(profile) as opened:
            warn_if_insecure(opened.account().trust)
            public = await rotate_key(opened, via=via)
            _print([{"device_id": opened.keys.device_id, "public_key": public.hex()}], as_json, listed=False)
        return 0

    run_command(command)


devices_app.command("offsets")(offsets)


def _answer(
    place: Place,
    in_store: Callable[[StoreDevices], Awaitable[list[Row]]],
    at_server: Ask,
    as_json: bool,
) -> None:
    store = place.store()
    # Lists are JSON arrays, whatever their length; what was done to one device is an object.
    listed = at_server in (_ask_list, _ask_pending)
    if store is not None:

        def in_the_store() -> int:
            with store.explained():
                rows = run_interruptibly(lambda: in_store(store))
            _print(rows, as_json, listed=listed)
            return 0

        finish(in_the_store)
    directory = place.profile
    assert directory is not None, "without a store there is a profile"

    async def command() -> int:
        with open_profile(directory) as profile:
            warn_if_insecure(profile.account().trust)
            async with open_session(profile, receives=False) as connection:
                rows = await at_server(connection, profile)
        _print(rows, as_json, listed=listed)
        return 0

    run_command(command)


async def _ask_list(connection: Connection, _profile: Profile) -> list[Row]:
    answer = await connection.get("/api/devices")
    devices = answer.get("devices")
    if not isinstance(devices, list) or not all(isinstance(each, dict) for each in devices):
        raise NotCommuCatError("the answer to /api/devices is no list of devices")
    return devices


async def _ask_pending(connection: Connection, profile: Profile) -> list[Row]:
    return [each for each in await _ask_list(connection, profile) if each.get("status") == "pending"]


async def _ask_action(action: str, device: str, connection: Connection, _profile: Profile) -> list[Row]:
    return [await connection.post(f"/api/devices/{action}", {"device_id": device})]


def _print(rows: Sequence[Row], as_json: bool, *, listed: bool) -> None:
    if as_json:
        print_now(printable_json(json.dumps(list(rows) if listed else rows[0], indent=2)))
    elif listed:
        show_rows(rows, _line)
    else:
        print_now(_line(rows[0]))


def _line(row: Mapping[str, Any]) -> str:
    values = {name: value for name, value in row.items() if value is not None}
    return printable(" ".join(f"{name}={_word(value)}" for name, value in values.items()))


def _word(value: object) -> str:
    """A value that is one word; what holds blanks or quotes gets quotes, so that lines can be split."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return text if text and not set(text) & set(" \"'\\\n") else json.dumps(text, ensure_ascii=False)
