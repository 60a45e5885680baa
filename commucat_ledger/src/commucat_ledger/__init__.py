"""Append-only audit records with a hash chain, and their verifier.

A ledger takes records of what a server did (who proved which key, which call was made) and writes them
as JSON lines of which each commits to the one before. The core (records, lines, the check of a chain)
does no input or output; a single thread writes the file.
"""

from commucat_ledger.chain import GENESIS, MAX_LINE_BYTES, ChainCheck, Verified, head_of, line_of
from commucat_ledger.errors import (
    LedgerBrokenError,
    LedgerClosedError,
    LedgerError,
    LedgerRecordError,
    LedgerTargetError,
)
from commucat_ledger.ledger import Ledger, LedgerMode, open_ledger
from commucat_ledger.record import LedgerRecord
from commucat_ledger.verify import verify

__all__ = [
    "GENESIS",
    "MAX_LINE_BYTES",
    "ChainCheck",
    "Ledger",
    "LedgerBrokenError",
    "LedgerClosedError",
    "LedgerError",
    "LedgerMode",
    "LedgerRecord",
    "LedgerRecordError",
    "LedgerTargetError",
    "Verified",
    "head_of",
    "line_of",
    "open_ledger",
    "verify",
]
