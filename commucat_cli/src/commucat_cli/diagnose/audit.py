"""The audit ledger, and whether the clock can be right."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from commucat_cli.audit.living import verify_living
from commucat_cli.audit.signatures import load_heads
from commucat_cli.diagnose.finding import Finding, failure, ok
from commucat_cli.errors import CliError
from commucat_ledger import LedgerBrokenError, SignedHead, files_of
from commucat_server.config import LedgerMode, ServerConfig
from commucat_server.provision import ProvisionError, read_federation_keys

# Older than this program: a machine with such a clock has lost it.
_EARLIEST = datetime(2025, 10, 1, tzinfo=UTC)
_TOLERANCE = 120


def check_ledger(config: ServerConfig) -> Iterator[Finding]:
    """The chain of the ledger file from its first line to its last."""
    target = config.ledger.target
    if config.ledger.mode is not LedgerMode.FILE or target is None:
        yield ok("ledger", f"mode {config.ledger.mode.value}: nothing is kept that could be checked")
        return
    if not target.exists():
        yield failure(
            "ledger", f"{target}: does not exist; start the server once, or restore it from a backup"
        )
        return
    try:
        heads = _heads(config)
        [checked] = verify_living(files_of(target), heads, partial=True)
    except (LedgerBrokenError, CliError) as exc:
        yield failure("ledger", f"{target}: {exc}")
    except OSError as exc:
        yield failure("ledger", f"{exc.filename}: cannot be read: {exc.strerror}")
    except ValueError:
        yield failure("ledger", f"{target}: archives of another ledger are beside it; move them away")
    else:
        text = f"{target}: records {checked.first} to {checked.size}, unbroken; head {checked.head.hex()}"
        if config.ledger.heads is not None:
            text += f"; signed up to record {checked.confirmed}"
        yield ok("ledger", text)


def _heads(config: ServerConfig) -> Sequence[SignedHead]:
    """What the second place holds, before the ledger is read: it may grow meanwhile."""
    if config.ledger.heads is None:
        return ()
    try:
        key = read_federation_keys(config).public
    except ProvisionError:
        return ()  # another check tells of it
    return load_heads(config.ledger.heads, key).heads


def check_clock(config: ServerConfig) -> Iterator[Finding]:
    """A clock that was set back makes codes, sessions and certificates live too long or not at all."""
    now = time.time()
    shown = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if now < _EARLIEST.timestamp():
        yield failure("clock", f"{shown} is in the past; set the clock")
        return
    ahead = [path for path in _written_by_server(config) if path.stat().st_mtime > now + _TOLERANCE]
    if ahead:
        yield failure("clock", f"{shown}, but {ahead[0]} was written later than that; set the clock")
    else:
        yield ok("clock", shown)


def _written_by_server(config: ServerConfig) -> list[Path]:
    store = config.storage.path
    written = [store, store.with_name(f"{store.name}-wal")]
    if config.ledger.mode is LedgerMode.FILE and config.ledger.target is not None:
        written.append(config.ledger.target)
    return [path for path in written if path.exists()]
