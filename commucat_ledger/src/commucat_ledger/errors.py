"""Everything this package raises."""

from pathlib import Path


class LedgerError(Exception):
    """Base of every error of this package."""


class LedgerRecordError(LedgerError):
    """A record cannot be written as one JSON line; the caller made it wrong."""


class LedgerTargetError(LedgerError):
    """The ledger cannot be kept where it should be: no target, not a ledger file, not writable, in use."""


class LedgerClosedError(LedgerError):
    """A record was appended after the ledger was closed."""


class LedgerHeadError(LedgerError):
    """A signed head, or a file of them, has a wrong form."""


class LedgerBrokenError(LedgerError):
    """A ledger is not the unbroken chain that was written.

    ``line_number`` counts from 1 in ``path`` and names the first line that does not fit what stands before
    it. ``record`` is the number of the first record that is wrong or missing, as far as it can be told.
    A line commits to the one before it, so an edited line shows at its successor: the reason names it.
    """

    def __init__(
        self, line_number: int, reason: str, *, path: Path | None = None, record: int | None = None
    ) -> None:
        place = f"line {line_number}" if path is None else f"{path} line {line_number}"
        super().__init__(f"{place}: {reason}")
        self.line_number = line_number
        self.reason = reason
        self.path = path
        self.record = record
