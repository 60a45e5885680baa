"""``commucat-cli rotate-keys``: a key and a certificate for a device, given out by the operator."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from commucat_cli.commands.operator.on_store import on_store, user_of
from commucat_cli.commands.operator.operator_options import HandleOption, UserOption, exactly_one
from commucat_cli.commands.operator.secret_file import SecretFile
from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory
from commucat_cli.commands.options import JsonOption, device_id
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import moment, print_values
from commucat_crypto import DeviceKeyPair
from commucat_server.config import ServerConfig
from commucat_server.provision import certificate_for_key, give_device_key, read_federation_keys
from commucat_storage import Storage


def rotate_keys(
    device_argument: Annotated[
        str | None, typer.Argument(metavar="[DEVICE]", callback=device_id, show_default=False)
    ] = None,
    user: UserOption = None,
    handle: HandleOption = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="DEVICE",
            callback=device_id,
            help="Device id; by default a new one.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write everything there, mode 0600, instead of printing the private key.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Make a new key for a device of a user, or a new device with one.

    For devices that cannot make their own, such as bots, and for users who have lost theirs: whoever has the
    printed key is the device. Sessions and certificates with the device's earlier key end within a second.
    Key event, certificate and the record for the ledger are stored together.

    Prints user_id, device_id, public_key, private_key, issuer_public, certificate_serial,
    certificate_expires_at and certificate. With --out the private key is only in the file.
    """
    exactly_one(user=user, handle=handle)
    if device is not None and device_argument is not None:
        raise typer.BadParameter("specify the device once")
    wanted = device or device_argument or f"device-{time.time_ns() // 1_000_000}"

    def command() -> int:
        keys = DeviceKeyPair.generate()

        async def work(storage: Storage, settings: ServerConfig) -> dict[str, Any]:
            authority = read_federation_keys(settings)
            owner = await user_of(storage, settings, user=user, handle=handle)
            now = int(time.time())
            certificate = certificate_for_key(authority, owner, wanted, keys.public, now)
            values = {
                "user_id": owner.user_id,
                "device_id": wanted,
                "public_key": keys.public.hex(),
                "private_key": keys.private.hex(),
                "issuer_public": authority.public.hex(),
                "certificate_serial": certificate.serial,
                "certificate_expires_at": moment(certificate.expires_at),
                "certificate": certificate.to_wire(),
            }
            with SecretFile(out, values):
                await give_device_key(storage, owner, certificate, now)
            return values

        values = on_store(config, data_dir, work)
        if out is not None:
            del values["private_key"]
        if not as_json:
            values["certificate"] = json.dumps(values["certificate"], separators=(",", ":"))
        print_values(values, as_json=as_json)
        return 0

    finish(command)
