"""``commucat-cli transfer``: from one store to another."""

from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer

from commucat_cli.commands.operator.backup import StartOver, tell
from commucat_cli.commands.operator.progress import shown_progress
from commucat_cli.commands.operator.settings import DataDirectory, explained, load
from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish, run_interruptibly
from commucat_cli.commands.results import print_values
from commucat_cli.terminal import warn
from commucat_server.provision import place_of_store, transfer_store, unmark_store
from commucat_storage.moving import TABLES

_MAY_STAY = {table.name for table in TABLES if not table.sqlite}

From = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="CONFIG", help="Configuration file of the store to give up.", show_default=False
    ),
]
To = Annotated[
    Path | None,
    typer.Option("--to", metavar="CONFIG", help="The same with the new, empty store.", show_default=False),
]
Unmark = Annotated[
    Path | None,
    typer.Option(
        "--unmark",
        metavar="CONFIG",
        help="Transfer nothing: let servers use this store again, which was given up.",
        show_default=False,
    ),
]
ToDataDirectory = Annotated[
    Path | None,
    typer.Option(
        "--to-data-dir",
        metavar="DIR",
        help="Data directory of the new server, if it is another; keys, certificate and ledger go along.",
        show_default=False,
    ),
]
LeaveOut = Annotated[
    list[str] | None,
    typer.Option(
        "--leave-out",
        metavar="TABLE",
        help="Leave this table behind; for what the new store has no place for.",
        show_default=False,
    ),
]


def transfer(
    source: From = None,
    target: To = None,
    data_dir: DataDirectory = None,
    to_data_dir: ToDataDirectory = None,
    leave_out: LeaveOut = None,
    start_over: StartOver = False,
    unmark: Unmark = None,
    as_json: JsonOption = False,
) -> None:
    """Move everything from one store to another: embedded to PostgreSQL, back, or between two of a kind.

    Stop the server first; the command refuses while one uses either store, and none can start until it
    is done. The new store must be empty. Every row is checked after it was written. Interrupted, the
    same command goes on. At its end the old store is marked, and no server starts on it any more, so
    that never two live from one identity; --unmark takes that back, and loses what happened since.

    Queued messages, groups, routes and one-time codes move along; clients lose nothing and connect as
    before. Sessions do not: devices connect anew. A server without a configuration file is --from /dev/null.

    Prints from=PLACE, to=PLACE and rows=N.
    """
    if unmark is not None:
        if source is not None or target is not None:
            raise typer.BadParameter("goes without --from and --to", param_hint="--unmark")
        finish(partial(_unmark, unmark, data_dir, as_json=as_json))
    if source is None or target is None:
        raise typer.BadParameter("both are needed", param_hint="--from and --to")
    for name in leave_out or ():
        if name not in _MAY_STAY:
            raise typer.BadParameter(
                f"{name!r} is no table that can be left behind", param_hint="--leave-out"
            )
    old, new, new_dir = source, target, to_data_dir or data_dir

    def command() -> int:
        with explained():
            settings, others = load(old, data_dir), load(new, new_dir)
            with shown_progress() as progress:
                work = partial(
                    transfer_store,
                    settings,
                    others,
                    progress=progress,
                    leave_out=leave_out or (),
                    start_over=start_over,
                )
                moved = run_interruptibly(work)
        tell(moved)
        values = {
            "from": place_of_store(settings),
            "to": moved.place,
            "rows": sum(moved.copied.rows.values()),
        }
        print_values(values, as_json=as_json)
        return 0

    finish(command)


def _unmark(file: Path, data_dir: Path | None, *, as_json: bool) -> int:
    with explained():
        settings = load(file, data_dir)
        place = trio.run(unmark_store, settings)
    if place is None:
        warn(f"{place_of_store(settings)} was not marked")
    else:
        warn(f"stop every server on {place}: two servers must not live from one identity")
    print_values({"usable": place_of_store(settings)}, as_json=as_json)
    return 0
