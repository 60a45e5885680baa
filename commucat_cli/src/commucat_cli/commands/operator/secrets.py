"""``commucat-cli secrets``: the versions of the server's own keys, and how they are stored."""

import enum
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Annotated

import typer

from commucat_cli.commands.operator.on_store import on_store
from commucat_cli.commands.operator.operator_options import HEX_KEY, YesOption, confirmed
from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory, OperatorError
from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import Row, moment, print_rows, print_values
from commucat_cli.terminal import warn
from commucat_crypto import StaticKeyPair
from commucat_server.config import ServerConfig
from commucat_server.provision import (
    NOISE_SECRET,
    NoiseKeyVersion,
    is_encrypted,
    operator_record,
    rekey_secrets,
    rotate_noise_keys,
)
from commucat_storage import AlreadyExistsError, Secret, Storage

secrets_app = typer.Typer(
    help="The versions of the server's own keys, and how they are stored.", no_args_is_help=True
)


class RotatedSecret(enum.StrEnum):
    """What ``rotate`` makes a new version of."""

    NOISE = "noise"


@secrets_app.command("list")
def list_secrets(
    as_json: JsonOption = False, config: ConfigFile = None, data_dir: DataDirectory = None
) -> None:
    """List all stored versions of the server's secrets; no secret is shown.

    State: current (clients are told of it first), next (accepted, clients are told soon), accepted (for
    clients that know no newer one), good (of administrative tokens), expired.
    """

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> list[Row]:
            now = int(time.time())
            versions = await storage.secret_versions()
            return [_row(version, versions, now) for version in versions]

        print_rows("secrets", on_store(config, data_dir, work), as_json=as_json)
        return 0

    finish(command)


@secrets_app.command("rotate")
def rotate(
    which: Annotated[RotatedSecret, typer.Argument(metavar="noise", help="What to rotate.")],
    beyond_limit: Annotated[
        bool,
        typer.Option(
            "--beyond-limit", help="Even if there are more than noise_max_versions then; none is cut off."
        ),
    ] = False,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Make a new version of a server's key now, before its time.

    Every running server accepts it within a second, and tells clients of it after 90 seconds, when the last
    of them does. Clients that know only an older version get in for the grace time and learn the new one.
    Sessions go on. For administrative tokens there is: commucat-cli admin-token new.

    Prints name, version, public, valid_after, rotates_at, expires_at.
    """
    assert which is RotatedSecret.NOISE, "there is no other"

    def command() -> int:
        async def work(storage: Storage, settings: ServerConfig) -> NoiseKeyVersion:
            now = int(time.time())
            try:
                return await rotate_noise_keys(
                    storage, settings, now, by="operator", beyond_limit=beyond_limit
                )
            except AlreadyExistsError as exc:
                raise OperatorError("somebody else has rotated the key at this moment") from exc

        made = on_store(config, data_dir, work)
        values = {
            "name": NOISE_SECRET,
            "version": made.version,
            "public": made.keys.public.hex(),
            "valid_after": moment(made.valid_after),
            "rotates_at": moment(made.rotates_at),
            "expires_at": moment(made.expires_at),
        }
        print_values(values, as_json=as_json)
        return 0

    finish(command)


@secrets_app.command("generate-noise")
def generate_noise(as_json: JsonOption = False) -> None:
    """Print a new X25519 pair for [crypto] noise_private and noise_public, the first key of a new server.

    Only for who must choose that key: a server makes one by itself, and later changes of the configuration
    have no effect. Nothing is stored.
    """

    def command() -> int:
        pair = StaticKeyPair.generate()
        print_values(
            {"noise_private": pair.private.hex(), "noise_public": pair.public.hex()}, as_json=as_json
        )
        return 0

    finish(command)


@secrets_app.command("revoke")
def revoke(
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", help="As secrets list shows it.")],
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """End an older version of the Noise key at once, because somebody may have it.

    Clients of this version's kind find the newer one by its signature; others that know only this one do
    not get in any more. The newest version cannot be ended: rotate first, and wait until it is shown.

    Prints name, version and expires_at.
    """
    confirmed(yes=yes, what="clients that know only this version may not get in any more")

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> int:
            now = int(time.time())
            versions = await storage.secret_versions(NOISE_SECRET)
            shown = [each.version for each in versions if each.valid_after <= now]
            newest = max(shown, default=versions[0].version if versions else 0)
            if versions and version >= newest:
                coming = [each for each in versions if each.valid_after > now and each.version > version]
                if coming:
                    begin = moment(coming[0].valid_after)
                    raise OperatorError(
                        f"clients are told of version {coming[0].version} from {begin} on; version {version} "
                        "can be ended then"
                    )
                raise OperatorError(
                    f"version {version} is not older than the one that clients are told of; run first: "
                    "commucat-cli secrets rotate noise"
                )
            metadata = {
                "scope": "secret",
                "event": "revoke",
                "name": NOISE_SECRET,
                "version": version,
                "by": "operator",
            }
            record = operator_record(f"{NOISE_SECRET}:{version}", metadata, now)
            if not await storage.set_secret_expiry(NOISE_SECRET, version, now, record):
                raise OperatorError(
                    f"there is no version {version} of {NOISE_SECRET}; see: commucat-cli secrets list"
                )
            return now

        ended = on_store(config, data_dir, work)
        values = {"name": NOISE_SECRET, "version": version, "expires_at": moment(ended)}
        print_values(values, as_json=as_json)
        return 0

    finish(command)


@secrets_app.command("rekey")
def rekey(
    new_key: Annotated[
        Path | None,
        typer.Option(
            "--new-key",
            metavar="FILE",
            help="File with the new security.secret_key, 64 hexadecimal digits, mode 0600.",
            show_default=False,
        ),
    ] = None,
    generate: Annotated[
        bool,
        typer.Option("--generate", help="Make a new key and write it to the file, which must not exist."),
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Store the secrets unencrypted from now on.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Encrypt the stored secrets with another key.

    The configuration names the key they are encrypted with now, if any. Afterwards put the new one into the
    configuration (security.secret_key or COMMUCAT_SECRET_KEY) and restart every server; those that run go on
    with the keys they have read. All versions change in one transaction, or none.

    Prints rekeyed=N and encrypted=yes or no.
    """
    if (new_key is None) == (not remove):
        raise typer.BadParameter("specify --new-key FILE or --remove, exactly one of them")
    if generate and new_key is None:
        raise typer.BadParameter("--generate writes to the file of --new-key")

    def command() -> int:
        key = None
        if new_key is not None:
            if generate:
                _write_key(new_key)
            key = _read_key(new_key)

        async def work(storage: Storage, settings: ServerConfig) -> int:
            return await rekey_secrets(storage, settings.security.secret_key, key, int(time.time()))

        count = on_store(config, data_dir, work)
        print_values({"rekeyed": count, "encrypted": key is not None}, as_json=as_json)
        todo = "remove security.secret_key" if key is None else "set security.secret_key to the new key"
        warn(f"{todo} (or COMMUCAT_SECRET_KEY) and restart every server")
        return 0

    finish(command)


def _row(version: Secret, versions: tuple[Secret, ...], now: int) -> Row:
    sealed = is_encrypted(version)
    noise = version.name == NOISE_SECRET
    return {
        "name": version.name,
        "version": version.version,
        "state": _state(version, versions, now),
        "public": version.public.hex() if noise and version.public is not None else None,
        "encrypted": sealed if noise else None,
        "created_at": moment(version.created_at),
        "valid_after": moment(version.valid_after),
        "rotates_at": moment(version.rotates_at),
        "expires_at": moment(version.expires_at),
    }


def _state(version: Secret, versions: tuple[Secret, ...], now: int) -> str:
    same = [each for each in versions if each.name == version.name]
    newest = max(each.version for each in same)
    if version.name != NOISE_SECRET:
        return "good" if version.valid_after <= now < version.expires_at else "expired"
    if version.valid_after > now:
        return "next"
    if version.version == max(each.version for each in same if each.valid_after <= now):
        return "current"
    return "accepted" if version.expires_at > now or version.version == newest else "expired"


def _write_key(path: Path) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(f"{secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(handle)
    except OSError as exc:
        raise OperatorError(f"cannot write {path}: {exc.strerror}") from exc


def _read_key(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            mode = stat.S_IMODE(os.fstat(handle).st_mode)
            text = file.read(1024)
    except OSError as exc:
        raise OperatorError(f"cannot read {path}: {exc.strerror}") from exc
    if mode & 0o077:
        raise OperatorError(f"{path}: open to other users (mode {mode:04o}); run: chmod 600 {path}")
    digits = text.decode("ascii", "replace").strip()
    if not HEX_KEY.fullmatch(digits):
        raise OperatorError(f"{path}: does not hold 64 hexadecimal digits; make one with --generate")
    return bytes.fromhex(digits)
