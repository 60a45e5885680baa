"""``commucat-cli sessions``: who is let in, and ending that."""

import time

import typer

from commucat_cli.commands.operator.on_store import check_device, on_store, user_of
from commucat_cli.commands.operator.operator_options import (
    DeviceOption,
    HandleOption,
    LimitOption,
    OneDeviceOption,
    UserOption,
    at_most_one,
)
from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory
from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import Row, moment, print_rows, print_values
from commucat_server.config import ServerConfig
from commucat_server.provision import operator_record
from commucat_storage import OperatorRecord, Storage

sessions_app = typer.Typer(help="Sessions of devices with the server.", no_args_is_help=True)


@sessions_app.command("list")
def list_sessions(
    device: DeviceOption = None,
    user: UserOption = None,
    handle: HandleOption = None,
    limit: LimitOption = 1000,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """List the sessions that are good now, the newest first, connected or not.

    A session is what a device got when it connected, and lasts for server.keepalive after its last use.
    """
    at_most_one(user=user, handle=handle)

    def command() -> int:
        async def work(storage: Storage, settings: ServerConfig) -> list[Row]:
            await check_device(storage, device)
            user_id = None
            if user is not None or handle is not None:
                user_id = (await user_of(storage, settings, user=user, handle=handle)).user_id
            found = await storage.list_sessions(
                now=int(time.time()), limit=limit, device_id=device, user_id=user_id
            )
            return [
                {
                    "session": session.session_id,
                    "device": session.device_id,
                    "handle": session.handle,
                    "user": session.user_id,
                    "created_at": moment(session.created_at),
                    "refreshed_at": moment(session.refreshed_at),
                    "expires_at": moment(session.expires_at),
                }
                for session in found
            ]

        print_rows("sessions", on_store(config, data_dir, work), as_json=as_json)
        return 0

    finish(command)


@sessions_app.command("end")
def end(
    device: OneDeviceOption,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """End all sessions of a device: its tokens are worthless, and a live connection ends within a second.

    The device may connect again, and gets what waits for it; to keep it out, revoke it.

    Prints device and ended=N.
    """

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> int:
            now = int(time.time())
            await check_device(storage, device)

            def record(count: int) -> OperatorRecord:
                metadata = {
                    "scope": "session",
                    "event": "end",
                    "device": device,
                    "sessions": count,
                    "by": "operator",
                }
                return operator_record(device, metadata, now)

            return await storage.end_sessions(device, record)

        ended = on_store(config, data_dir, work)
        print_values({"device": device, "ended": ended}, as_json=as_json)
        return 0

    finish(command)
