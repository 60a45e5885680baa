"""``commucat-cli groups``: which groups there are, and who is in them."""

from typing import Annotated

import typer

from commucat_cli.commands.operator.on_store import check_device, on_store
from commucat_cli.commands.operator.operator_options import DeviceOption, LimitOption, named
from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory, OperatorError
from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import Row, moment, print_rows
from commucat_server.config import ServerConfig
from commucat_storage import Storage

groups_app = typer.Typer(help="Groups of devices.", no_args_is_help=True)


@groups_app.command("list")
def list_groups(
    device: DeviceOption = None,
    limit: LimitOption = 1000,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """List groups, the largest first; with --device those that the device is in."""

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> list[Row]:
            await check_device(storage, device)
            return [
                {
                    "group": group.group_id,
                    "owner": group.owner,
                    "members": group.members,
                    "relay": group.relay,
                    "created_at": moment(group.created_at),
                }
                for group in await storage.list_groups(limit=limit, device_id=device)
            ]

        print_rows("groups", on_store(config, data_dir, work), as_json=as_json)
        return 0

    finish(command)


@groups_app.command("show")
def show(
    group_id: Annotated[str, typer.Argument(metavar="GROUP", callback=named, help="Group id.")],
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """List the members of a group with their roles, the owner first."""

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> list[Row]:
            group = await storage.load_group(group_id)
            if group is None:
                raise OperatorError(f"there is no group {group_id}")
            ranks = ("owner", "co-owner", "admin", "member")
            members = sorted(
                group.members.items(), key=lambda member: (ranks.index(member[1].value), member[0])
            )
            return [{"device": device, "role": role.value} for device, role in members]

        print_rows("members", on_store(config, data_dir, work), as_json=as_json)
        return 0

    finish(command)
