"""The audit ledger, and whether the clock can be right."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from commucat_cli.diagnose.finding import Finding, failure, ok
from commucat_ledger import LedgerBrokenError, Verified, verify
from commucat_server.config import LedgerMode, ServerConfig

_ATTEMPTS = 3
_PAUSE = 0.2
# Older than this program: a machine with such a clock has lost it.
_EARLIEST = datetime(2025, 10, 1, tzinfo=UTC)
_TOLERANCE = 120


def check_ledger(config: ServerConfig) -> Iterator[Finding]:
    """The chain of the ledger file from its first line to its last."""
    target = config.ledger.target
    if config.ledger.mode is not LedgerMode.FILE or target is None:
        yield ok("ledger", f"mode {config.ledger.mode.value}: nothing is kept that could be checked")
        return
    try:
        checked = _verify(target)
    except FileNotFoundError:
        yield failure(
            "ledger", f"{target}: does not exist; start the server once, or restore it from a backup"
        )
    except LedgerBrokenError as exc:
        yield failure("ledger", f"{target}: {exc}")
    else:
        yield ok("ledger", f"{target}: {checked.lines} records, unbroken; head {checked.head.hex()}")


def _verify(target: Path) -> Verified:
    for _ in range(_ATTEMPTS - 1):
        try:
            return verify(target)
        except LedgerBrokenError:
            # A running server may have written half of its last line.
            time.sleep(_PAUSE)
    return verify(target)


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
