"""Records and files for the ledger tests."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from commucat_ledger import GENESIS, LedgerRecord, head_of, line_of

NOON = datetime(2025, 10, 1, 12, 0, tzinfo=UTC)


def record(number: int = 1) -> LedgerRecord:
    return LedgerRecord(
        digest=bytes([number % 256]) * 32,
        metadata={"scope": "test", "number": number},
        recorded_at=NOON + timedelta(microseconds=number),
    )


def lines_of(count: int) -> list[bytes]:
    lines: list[bytes] = []
    head = GENESIS
    for number in range(1, count + 1):
        lines.append(line_of(record(number), head, number))
        head = head_of(lines[-1])
    return lines


def write_lines(path: Path, lines: Sequence[bytes]) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def content_of(path: Path) -> bytes:
    """The bytes of a file, for tests that are coroutines: a read of a few kilobytes may block."""
    return path.read_bytes()
