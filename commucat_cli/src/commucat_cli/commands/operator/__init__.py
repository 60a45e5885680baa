"""Commands for the operator of a server; they work beside a running one."""

import typer

from commucat_cli.commands.operator.accounts import register_user
from commucat_cli.commands.operator.bench import bench_app
from commucat_cli.commands.operator.diagnose import diagnose
from commucat_cli.commands.operator.migrate import migrate


def register(app: typer.Typer) -> None:
    """Add the operator's commands to ``app``."""
    app.command("migrate")(migrate)
    app.command("register-user")(register_user)
    app.command("diagnose")(diagnose)
    app.add_typer(bench_app, name="bench")
