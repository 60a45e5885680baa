"""``commucat-cli diagnose``."""

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory, load
from commucat_cli.commands.outcome import FAILURE, finish
from commucat_cli.diagnose import Finding, Status, examine
from commucat_cli.terminal import one_line, print_now
from commucat_server.config import ConfigError


def diagnose(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Read the whole database for damage, however large.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
    bind: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the server listens, if it was started with --bind.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check a server's configuration, files, store and the running server itself.

    One line for each check: ok, warn or fail. Exits with 1 if anything fails. Creates no file; the only
    thing written is the store's own probe row, as /readyz of a running server does.
    """

    def command() -> int:
        findings = _findings(config, data_dir, bind, full=full)
        failed = any(finding.status is Status.FAIL for finding in findings)
        _print(findings, ok=not failed, as_json=as_json)
        return FAILURE if failed else 0

    finish(command)


def _print(findings: Sequence[Finding], *, ok: bool, as_json: bool) -> None:
    if as_json:
        checks = [{"name": f.name, "status": f.status.value, "text": one_line(f.text)} for f in findings]
        print_now(json.dumps({"ok": ok, "checks": checks}, indent=2))
        return
    for finding in findings:
        print_now(f"{finding.status.value:4} {finding.name}: {one_line(finding.text)}")


def _findings(config: Path | None, data_dir: Path | None, bind: str | None, *, full: bool) -> list[Finding]:
    try:
        settings = load(config, data_dir, bind)
    except ConfigError as exc:
        # Nothing else is known without it.
        return [Finding("configuration", Status.FAIL, str(exc))]
    # The server's parts log what they find odd; standard output is for the findings.
    with redirect_stdout(sys.stderr):
        return list(examine(settings, full=full))
