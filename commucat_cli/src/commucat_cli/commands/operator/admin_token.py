"""``commucat-cli admin-token``: who may see metrics and statistics."""

import time
from typing import Annotated

import typer

from commucat_cli.commands.operator.on_store import on_store
from commucat_cli.commands.operator.operator_options import YesOption, confirmed
from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory, OperatorError
from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import Row, moment, print_rows, print_values
from commucat_server.config import ServerConfig
from commucat_server.identity.admin_tokens import ADMIN_SECRET, NewToken, is_endless, make_admin_token
from commucat_server.provision import operator_record
from commucat_storage import AlreadyExistsError, Storage

_DAY = 86_400
_LONGEST_DAYS = 36_500

admin_token_app = typer.Typer(
    help="Administrative tokens: who may see metrics and statistics.", no_args_is_help=True
)


@admin_token_app.command("rotate", hidden=True)
@admin_token_app.command("new")
def new(
    days: Annotated[
        int | None,
        typer.Option(
            "--days",
            min=1,
            max=_LONGEST_DAYS,
            metavar="N",
            help="How long it is good for; by default as the configuration says, or for ever.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Make a new token and print it, once: the store keeps a salted hash.

    Running servers accept it within a second. Older tokens are good for the grace time of the configuration
    (security.rotation.admin_grace_hours); the oldest of more than admin_max_versions ends at once.

    Prints token, version, expires_at and, for older tokens, previous_N_expires_at.
    """

    def command() -> int:
        async def work(storage: Storage, settings: ServerConfig) -> NewToken:
            now = int(time.time())
            lifetime = None if days is None else days * _DAY
            try:
                return await make_admin_token(storage, settings.security_rotation, now, lifetime=lifetime)
            except AlreadyExistsError as exc:
                raise OperatorError("somebody else has made a token at this moment; try again") from exc

        made = on_store(config, data_dir, work)
        values: dict[str, str | int | None] = {
            "token": made.token,
            "version": made.version,
            "expires_at": moment(made.expires_at) or "never",
        }
        for version, until in made.previous_until.items():
            values[f"previous_{version}_expires_at"] = moment(until)
        print_values(values, as_json=as_json)
        return 0

    finish(command)


@admin_token_app.command("list")
def list_tokens(
    as_json: JsonOption = False, config: ConfigFile = None, data_dir: DataDirectory = None
) -> None:
    """List the tokens by their version numbers; the tokens themselves are nowhere."""

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> list[Row]:
            now = int(time.time())
            return [
                {
                    "version": row.version,
                    "state": "good" if row.valid_after <= now < row.expires_at else "expired",
                    "created_at": moment(row.created_at),
                    "expires_at": "never" if is_endless(row) else moment(row.expires_at),
                }
                for row in await storage.secret_versions(ADMIN_SECRET)
            ]

        print_rows("tokens", on_store(config, data_dir, work), as_json=as_json)
        return 0

    finish(command)


@admin_token_app.command("revoke")
def revoke(
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", help="As admin-token list shows it.")],
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """End a token now. Running servers refuse it within a second.

    Prints version and expires_at.
    """
    confirmed(yes=yes, what="whoever uses this token sees nothing any more")

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> int:
            now = int(time.time())
            metadata = {
                "scope": "secret",
                "event": "revoke",
                "name": ADMIN_SECRET,
                "version": version,
                "by": "operator",
            }
            record = operator_record(f"{ADMIN_SECRET}:{version}", metadata, now)
            if not await storage.set_secret_expiry(ADMIN_SECRET, version, now, record):
                raise OperatorError(f"there is no token {version}; see: commucat-cli admin-token list")
            return now

        ended = on_store(config, data_dir, work)
        print_values({"version": version, "expires_at": moment(ended)}, as_json=as_json)
        return 0

    finish(command)
