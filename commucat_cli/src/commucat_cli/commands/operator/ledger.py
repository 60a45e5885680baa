"""``commucat-cli ledger``: check the audit ledger of a server, and show what a device remembers of it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import attrs
import typer

from commucat_cli.audit.living import verify_living
from commucat_cli.audit.signatures import load_heads
from commucat_cli.commands.operator.settings import (
    ConfigFile,
    DataDirectory,
    OperatorError,
    explained,
    load,
)
from commucat_cli.commands.options import ProfileOption
from commucat_cli.commands.outcome import FAILURE, finish
from commucat_cli.profile import open_profile
from commucat_cli.terminal import one_line, print_now, report_error, warn
from commucat_ledger import LedgerBrokenError, SignedHead, Verified, files_of
from commucat_server.config import LedgerMode, ServerConfig
from commucat_server.provision import read_federation_keys

ledger_app = typer.Typer(help="Check the audit ledger of a server.", no_args_is_help=True)


@attrs.frozen(kw_only=True)
class _Task:
    """What is to be verified, against what."""

    files: Sequence[Path]
    heads: Path | None
    key: bytes | None


def _key(text: str | None) -> bytes | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise typer.BadParameter("must be 64 hexadecimal digits: the server's public key")
    return bytes.fromhex(text)


@ledger_app.command("verify")
def verify(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...", help="All files of the ledger, in any order; by default those of the server."
        ),
    ] = None,
    heads: Annotated[
        Path | None,
        typer.Option(
            "--heads",
            metavar="FILE",
            help="Heads that the server signed, kept elsewhere: shows what was cut off or written anew.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="HEX",
            help="The server's public key (device_ca_public); by default read from its data directory.",
            callback=lambda text: _key(text) and text,
            show_default=False,
        ),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept that the oldest files are not here.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Follow the chain through all files of a ledger; exits with 1 if a record was changed, removed or moved.

    Prints, for each ledger: ledger=ID, records=N, first=N, head=HEX, confirmed=N (the last record that a
    signed head confirms; what comes after it could have been changed by somebody who writes the file).
    """

    def command() -> int:
        with explained():
            task = _task(files or [], heads, _key(key), config, data_dir)
        kept: Sequence[SignedHead] = ()
        if task.heads is not None:
            assert task.key is not None, "a file of heads comes with a key"
            loaded = load_heads(task.heads, task.key)
            kept = loaded.heads
            if loaded.torn:
                warn(f"{task.heads}: the last head was cut off while it was written")
        try:
            results = verify_living(task.files, kept, partial=partial)
        except LedgerBrokenError as exc:
            return _tell_broken(exc, as_json=as_json)
        except OSError as exc:
            raise OperatorError(f"cannot read {exc.filename}: {exc.strerror}") from exc
        _tell(results, as_json=as_json, with_heads=task.heads is not None)
        return 0

    finish(command)


@ledger_app.command("heads")
def show_heads(profile: ProfileOption) -> None:
    """Print the heads that a device remembers, one JSON object a line, for `ledger verify --heads`."""

    def command() -> int:
        with open_profile(profile) as opened:
            for head in opened.state.ledger_heads():
                print_now(json.dumps(head.to_wire()))
        return 0

    finish(command)


def _task(
    files: Sequence[Path], heads: Path | None, key: bytes | None, config: Path | None, data_dir: Path | None
) -> _Task:
    settings: ServerConfig | None = None
    if not files or (heads is not None and key is None):
        settings = load(config, data_dir)
    if not files:
        assert settings is not None, "it was loaded"
        if settings.ledger.mode is not LedgerMode.FILE or settings.ledger.target is None:
            raise OperatorError(f"the server keeps no ledger file (ledger.mode {settings.ledger.mode.value})")
        heads = heads or settings.ledger.heads
        try:
            files = files_of(settings.ledger.target)
        except OSError as exc:
            raise OperatorError(f"cannot read {settings.ledger.target.parent}: {exc.strerror}") from exc
        if not files:
            raise OperatorError(f"{settings.ledger.target}: does not exist; start the server once")
    if heads is not None and key is None:
        assert settings is not None, "it was loaded"
        key = read_federation_keys(settings).public
    return _Task(files=files, heads=heads, key=key)


def _tell(results: Sequence[Verified], *, as_json: bool, with_heads: bool) -> None:
    documents = [
        {
            "ledger": result.ledger.hex(),
            "records": result.size,
            "first": result.first,
            "head": result.head.hex(),
            "confirmed": result.confirmed,
            "gaps": [{"record": record, "lost": lost} for record, lost in result.gaps],
        }
        for result in results
    ]
    if as_json:
        print_now(json.dumps({"ok": True, "ledgers": documents}, indent=2))
    else:
        for document in documents:
            for name in ("ledger", "records", "first", "head", "confirmed"):
                print_now(f"{name}={document[name]}")
    for result in results:
        for record, lost in result.gaps:
            warn(f"record {record} says that the server lost {lost} records before it")
    if not with_heads:
        warn("without --heads nothing shows whether records were cut off at the end, or all was written anew")


def _tell_broken(broken: LedgerBrokenError, *, as_json: bool) -> int:
    if as_json:
        document = {
            "ok": False,
            "file": None if broken.path is None else str(broken.path),
            "line": broken.line_number,
            "record": broken.record,
            "reason": one_line(broken.reason),
        }
        print_now(json.dumps(document, indent=2))
    report_error(f"record {broken.record}: {broken}")
    return FAILURE
