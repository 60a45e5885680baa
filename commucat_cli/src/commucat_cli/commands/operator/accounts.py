"""``commucat-cli register-user``: accounts, and the codes that let devices into them."""

import time
from typing import Annotated

import attrs
import trio
import typer

from commucat_cli.commands.operator.on_store import refuse_older_schema
from commucat_cli.commands.operator.settings import (
    ConfigFile,
    DataDirectory,
    OperatorError,
    explained,
    load,
    prepare_store_directory,
)
from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import moment, print_values
from commucat_server.config import ServerConfig
from commucat_server.identity.admissions import HANDLE, MAX_DISPLAY_NAME_LEN
from commucat_server.identity.tokens import enrolment_code_hash, new_enrolment_code, new_id
from commucat_server.provision import open_store
from commucat_storage import AlreadyExistsError, EnrolmentCode, Storage, User

WEEK = 7 * 86_400
LONGEST_TTL = 365 * 86_400
MAX_AVATAR_URL_LEN = 512


@attrs.frozen(kw_only=True)
class Registration:
    """What the operator asked for."""

    handle: str
    display_name: str | None
    avatar_url: str | None
    code_ttl: int
    new_code: bool


@attrs.frozen(kw_only=True)
class Registered:
    """An account with its fresh code."""

    user: User
    code: str = attrs.field(repr=False)
    expires_at: int


def _handle(text: str) -> str:
    if not HANDLE.fullmatch(text):
        raise typer.BadParameter("must be 1 to 64 of A-Z a-z 0-9 . _ -")
    return text


def _display_name(text: str | None) -> str | None:
    if text and (len(text) > MAX_DISPLAY_NAME_LEN or not text.isprintable()):
        raise typer.BadParameter(f"must be at most {MAX_DISPLAY_NAME_LEN} printable characters")
    return text or None


def _avatar_url(text: str | None) -> str | None:
    if not text:
        return None
    # Every reader of the profile fetches it: no other scheme, and nothing that breaks a line.
    if not text.startswith("https://") or len(text) > MAX_AVATAR_URL_LEN or not text.isprintable():
        raise typer.BadParameter(f"must be an https:// address of at most {MAX_AVATAR_URL_LEN} characters")
    return text


def register_user(
    handle: Annotated[str, typer.Argument(metavar="HANDLE", callback=_handle)],
    display_name: Annotated[
        str | None, typer.Argument(metavar="DISPLAY_NAME", callback=_display_name)
    ] = None,
    avatar_url: Annotated[str | None, typer.Argument(metavar="AVATAR_URL", callback=_avatar_url)] = None,
    code_ttl: Annotated[
        int, typer.Option(min=1, max=LONGEST_TTL, metavar="SECONDS", help="How long the code is good for.")
    ] = WEEK,
    new_code: Annotated[
        bool, typer.Option("--new-code", help="A further code for a user that exists, for one more device.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Create a user, and print a one-time code with which one device can log in as that user.

    The device uses it with: commucat-cli login --code CODE.
    """
    if new_code and (display_name or avatar_url):
        raise typer.BadParameter("--new-code changes no profile: leave DISPLAY_NAME and AVATAR_URL out")
    registration = Registration(
        handle=handle,
        display_name=display_name,
        avatar_url=avatar_url,
        code_ttl=code_ttl,
        new_code=new_code,
    )

    def command() -> int:
        with explained():
            settings = load(config, data_dir)
            if settings.storage.postgres_dsn is None and settings.storage.path.exists():
                refuse_older_schema(settings)
            prepare_store_directory(settings)
            registered = trio.run(_register, settings, registration)
        _print(registered, as_json=as_json)
        return 0

    finish(command)


def _print(registered: Registered, *, as_json: bool) -> None:
    user = registered.user
    values = {
        "user_id": user.user_id,
        "handle": user.handle,
        "display_name": user.display_name,
        "avatar_url": user.avatar_url,
        "code": registered.code,
        "code_expires_at": moment(registered.expires_at),
    }
    print_values(values, as_json=as_json)


async def _register(settings: ServerConfig, registration: Registration) -> Registered:
    async with open_store(settings) as storage:
        return await _register_in(storage, settings.server.domain, registration)


async def _register_in(storage: Storage, domain: str, registration: Registration) -> Registered:
    handle, now = registration.handle, int(time.time())
    known = await storage.load_user_by_handle(handle, domain)
    if registration.new_code and known is None:
        raise OperatorError(f"there is no user {handle} in {domain}; without --new-code it is created")
    user = known or User(
        user_id=new_id(),
        handle=handle,
        domain=domain,
        created_at=now,
        display_name=registration.display_name,
        avatar_url=registration.avatar_url,
    )
    code = new_enrolment_code()
    row = EnrolmentCode(
        code_hash=enrolment_code_hash(code),
        user_id=user.user_id,
        created_at=now,
        expires_at=now + registration.code_ttl,
    )
    if registration.new_code:
        await storage.add_enrolment_code(row)
    else:
        try:
            # Also when the handle was found above: only the insertion decides a race.
            await storage.create_user(user, row)
        except AlreadyExistsError as exc:
            raise OperatorError(
                f"the handle {handle} exists in {domain} already; --new-code gives its user a further code"
            ) from exc
    return Registered(user=user, code=code, expires_at=row.expires_at)
