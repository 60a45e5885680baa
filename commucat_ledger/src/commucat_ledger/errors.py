"""Everything this package raises."""


class LedgerError(Exception):
    """Base of every error of this package."""


class LedgerRecordError(LedgerError):
    """A record cannot be written as one JSON line; the caller made it wrong."""


class LedgerTargetError(LedgerError):
    """The ledger cannot be kept where it should be: no target, not a ledger file, not writable, in use."""


class LedgerClosedError(LedgerError):
    """A record was appended after the ledger was closed."""


class LedgerBrokenError(LedgerError):
    """A ledger file is not the unbroken chain that was written.

    ``line_number`` counts from 1 and names the first line that does not fit what stands before it. A line
    commits to the one before it, so an edited line shows at its successor: the reason names both.
    """

    def __init__(self, line_number: int, reason: str) -> None:
        super().__init__(f"line {line_number}: {reason}")
        self.line_number = line_number
        self.reason = reason
