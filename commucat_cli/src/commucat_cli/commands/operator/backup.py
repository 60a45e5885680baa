"""``commucat-cli backup`` and ``commucat-cli restore``."""

import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from commucat_cli.commands.operator.progress import shown_progress
from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory, explained, load
from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish, run_interruptibly
from commucat_cli.commands.results import print_values
from commucat_cli.terminal import warn
from commucat_server.provision import Moved, restore_backup, write_backup

StartOver = Annotated[
    bool,
    typer.Option(
        "--start-over", help="Delete what an attempt that was not finished has written, and begin anew."
    ),
]


def backup(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A directory that is empty or does not exist.")
    ],
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
    attachments: Annotated[
        bool,
        typer.Option(help="Whether the files of attachments are copied, which expire after a while anyway."),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Write everything that the server needs to go on elsewhere to a directory.

    The whole store as it is at one moment, the server's key, its certificate, its ledger, avatars and
    attachments; each file with a digest. The server may be running. What stands in the configuration
    (crypto.federation_seed, security.secret_key, your own certificate) is not included: keep the
    configuration, elsewhere. The backup can do whatever the server can: whoever has it is the server.
    Files have mode 0600.

    Prints backup=DIR, rows=N and digest=HEX. Restore it with commucat-cli restore DIR.
    """

    def command() -> int:
        with explained():
            settings = load(config, data_dir)
            with shown_progress() as progress:
                work = partial(
                    write_backup,
                    settings,
                    Path.cwd() / folder,
                    now=int(time.time()),
                    progress=progress,
                    attachments=attachments,
                )
                manifest, missing = run_interruptibly(work)
        for name in missing:
            warn(f"not included: {name}; keep the configuration, too")
        if not attachments:
            warn("not included: the files of attachments; after a restore they are not found")
        rows = sum(table.rows for table in manifest.tables.values())
        print_values({"backup": str(folder), "rows": rows, "digest": manifest.digest}, as_json=as_json)
        return 0

    finish(command)


def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What commucat-cli backup wrote.")],
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
    start_over: StartOver = False,
    as_json: JsonOption = False,
) -> None:
    """Fill an empty store and data directory from a backup.

    The store may be another one than that of the backup: the embedded one or PostgreSQL, as the
    configuration says. Every file is checked before anything is written, every row after it was
    written; a server does not start on a store that is half restored. Interrupted, the same command
    goes on. A store that holds something is refused and never overwritten.

    What happened after the backup is lost: revoke again what was revoked since. Sessions and
    one-time codes are not restored: devices connect anew, and new codes come from register-user.

    Prints restored=DIR, store=PLACE and rows=N.
    """

    def command() -> int:
        with explained():
            settings = load(config, data_dir)
            with shown_progress() as progress:
                work = partial(
                    restore_backup, settings, Path.cwd() / folder, progress=progress, start_over=start_over
                )
                manifest, moved = run_interruptibly(work)
        made = datetime.fromtimestamp(manifest.created_at, UTC)
        warn(f"this is the state of {made:%Y-%m-%d %H:%M} UTC; revoke again what was revoked since")
        tell(moved)
        rows = sum(moved.copied.rows.values())
        print_values({"restored": str(folder), "store": moved.place, "rows": rows}, as_json=as_json)
        return 0

    finish(command)


def tell(moved: Moved) -> None:
    """Warn of what did not come along."""
    for warning in moved.warnings:
        warn(warning)
    for name, count in moved.copied.left_out.items():
        warn(f"left out: {count} rows of {name}")
