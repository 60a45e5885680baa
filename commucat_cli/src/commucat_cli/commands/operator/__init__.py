"""Commands for the operator of a server; they work beside a running one."""

import typer

from commucat_cli.commands.operator.accounts import register_user
from commucat_cli.commands.operator.autopair import autopair
from commucat_cli.commands.operator.backup import backup, restore
from commucat_cli.commands.operator.bench import bench_app
from commucat_cli.commands.operator.diagnose import diagnose
from commucat_cli.commands.operator.key_history import key_history
from commucat_cli.commands.operator.ledger import ledger_app
from commucat_cli.commands.operator.migrate import migrate
from commucat_cli.commands.operator.transfer import transfer


def register(app: typer.Typer) -> None:
    """Add the operator's commands to ``app``."""
    app.command("migrate")(migrate)
    app.command("register-user")(register_user)
    app.command("autopair")(autopair)
    app.command("diagnose")(diagnose)
    app.command("backup")(backup)
    app.command("restore")(restore)
    app.command("transfer")(transfer)
    app.add_typer(ledger_app, name="ledger")
    app.command("key-history")(key_history)
    app.add_typer(bench_app, name="bench")
