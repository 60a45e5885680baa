"""Commands for the operator of a server; they work beside a running one."""

import typer

from commucat_cli.commands.operator.accounts import register_user
from commucat_cli.commands.operator.admin_token import admin_token_app
from commucat_cli.commands.operator.autopair import autopair
from commucat_cli.commands.operator.backup import backup, restore
from commucat_cli.commands.operator.bench import bench_app
from commucat_cli.commands.operator.cleanup import cleanup
from commucat_cli.commands.operator.diagnose import diagnose
from commucat_cli.commands.operator.groups import groups_app
from commucat_cli.commands.operator.key_history import key_history
from commucat_cli.commands.operator.ledger import ledger_app
from commucat_cli.commands.operator.migrate import migrate
from commucat_cli.commands.operator.queue import queue_app
from commucat_cli.commands.operator.rotate_keys import rotate_keys
from commucat_cli.commands.operator.secrets import secrets_app
from commucat_cli.commands.operator.sessions import sessions_app
from commucat_cli.commands.operator.stats import stats
from commucat_cli.commands.operator.transfer import transfer


def register(app: typer.Typer) -> None:
    """Add the operator's commands to ``app``."""
    app.command("migrate")(migrate)
    app.command("register-user")(register_user)
    app.command("autopair")(autopair)
    app.command("rotate-keys")(rotate_keys)
    app.command("diagnose")(diagnose)
    for alias in ("diagnostics", "doctor"):
        app.command(alias, hidden=True)(diagnose)
    app.command("backup")(backup)
    app.command("restore")(restore)
    app.command("transfer")(transfer)
    app.add_typer(ledger_app, name="ledger")
    app.command("key-history")(key_history)
    app.add_typer(secrets_app, name="secrets")
    app.add_typer(admin_token_app, name="admin-token")
    app.add_typer(sessions_app, name="sessions")
    app.add_typer(queue_app, name="queue")
    app.add_typer(groups_app, name="groups")
    app.command("cleanup")(cleanup)
    app.command("stats")(stats)
    app.add_typer(bench_app, name="bench")
