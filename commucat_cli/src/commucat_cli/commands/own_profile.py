"""``profile``: what others see of this profile's user."""

from pathlib import Path
from typing import Annotated, Final

import trio
import typer

from commucat_cli.client import Connection
from commucat_cli.client.friends import set_avatar
from commucat_cli.commands.once import ask_once
from commucat_cli.commands.options import JsonOption, ProfileOption, ViaOption
from commucat_cli.commands.results import print_values
from commucat_cli.errors import CliError

profile_app = typer.Typer(
    help="What others see of this profile's user.", no_args_is_help=True, rich_markup_mode=None
)

MAX_PICTURE: Final = 5 * 1024 * 1024
_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)


@profile_app.callback()
def _profile() -> None:
    """A callback, so that one command is not taken for the whole group."""


@profile_app.command("avatar")
def avatar(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A JPEG, PNG, WebP or GIF picture of at most 5 MiB.")
    ],
    profile: ProfileOption,
    as_json: JsonOption = False,
    via: ViaOption = None,
) -> None:
    """Show everybody this picture. Prints where it is."""

    async def ask(connection: Connection) -> str:
        picture = await trio.to_thread.run_sync(_read, file)
        kinds = [kind for magic, kind in _MAGIC if picture.startswith(magic)]
        if not kinds:
            raise CliError(f"{file} is no JPEG, PNG, WebP or GIF picture")
        return await set_avatar(connection, picture, kinds[0])

    ask_once(profile, via, ask, lambda url: print_values({"avatar_url": url}, as_json=as_json))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PICTURE + 1)
    except OSError as exc:
        raise CliError(f"{path} cannot be read: {exc.strerror}") from exc
    if len(data) > MAX_PICTURE:
        raise CliError(f"{path} is larger than 5 MiB")
    return data
