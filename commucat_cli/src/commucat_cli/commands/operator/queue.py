"""``commucat-cli queue``: what waits for devices."""

import time

import typer

from commucat_cli.commands.operator.on_store import on_store
from commucat_cli.commands.operator.operator_options import (
    DeviceOption,
    LimitOption,
    OneDeviceOption,
    YesOption,
    confirmed,
)
from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory, OperatorError
from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import Row, moment, print_rows, print_values
from commucat_server.config import ServerConfig
from commucat_server.provision import operator_record
from commucat_storage import OperatorRecord, QueueStanding, Storage

queue_app = typer.Typer(help="Messages that wait for devices.", no_args_is_help=True)


@queue_app.command("show")
def show(
    device: DeviceOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Show how much waits for each device, the longest queue first.

    waiting: messages the device can still get. expired: those that the next purge deletes. received: numbers
    given out since the queue began; confirmed: up to which the device has confirmed them. oldest_seconds:
    the age of the message that expires first, which is the oldest but for calls.
    """

    def command() -> int:
        async def work(storage: Storage, settings: ServerConfig) -> list[Row]:
            now = int(time.time())
            found = await storage.queues(now=now, limit=limit, device_id=device)
            if device is not None and not found:
                raise OperatorError(f"there is no device {device}")
            return [_row(queue, settings.limits.relay_ttl, now) for queue in found]

        print_rows("queues", on_store(config, data_dir, work), as_json=as_json)
        return 0

    finish(command)


@queue_app.command("purge")
def purge(
    device: OneDeviceOption,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Delete everything that waits for a device, undelivered.

    The messages expire now: the device cannot get them any more, senders that asked are told, and the server
    deletes and counts them within a minute, or when it starts. The ledger records it.

    Prints device and purged=N.
    """
    confirmed(yes=yes, what="the messages are lost")

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> int:
            now = int(time.time())

            def record(count: int) -> OperatorRecord:
                metadata = {
                    "scope": "queue",
                    "event": "purge",
                    "device": device,
                    "messages": count,
                    "by": "operator",
                }
                return operator_record(device, metadata, now)

            count = await storage.expire_queue(device, record)
            if count is None:
                raise OperatorError(f"there is no device {device}")
            return count

        purged = on_store(config, data_dir, work)
        print_values({"device": device, "purged": purged}, as_json=as_json)
        return 0

    finish(command)


def _row(queue: QueueStanding, relay_ttl: int, now: int) -> Row:
    age = None
    if queue.first_expiry is not None:
        age = max(0, now - (queue.first_expiry - relay_ttl))
    return {
        "device": queue.device_id,
        "handle": queue.handle,
        "status": queue.status,
        "waiting": queue.waiting,
        "bytes": queue.waiting_bytes,
        "expired": queue.expired,
        "received": queue.next_number - 1,
        "confirmed": queue.confirmed,
        "oldest_seconds": age,
        "first_expires_at": moment(queue.first_expiry),
    }
