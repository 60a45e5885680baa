"""Append-only audit records with a hash chain, and their verifier.

A ledger takes records of what a server did (who proved which key, which call was made) and writes them
as JSON lines of which each commits to the one before; now and then it signs where it stands. The core
(records, lines, heads, the check of a chain) does no input or output; a single thread writes the files.
"""

from commucat_ledger.archives import files_of
from commucat_ledger.chain import GENESIS, MAX_LINE_BYTES, BadLine, Line, head_of, line_of, parse_line
from commucat_ledger.chain_check import ChainCheck, Verified
from commucat_ledger.errors import (
    LedgerBrokenError,
    LedgerClosedError,
    LedgerError,
    LedgerHeadError,
    LedgerRecordError,
    LedgerTargetError,
)
from commucat_ledger.file import Rotation
from commucat_ledger.heads import KeptHeads, SignedHead, Signer, keep_head, read_heads
from commucat_ledger.ledger import Ledger, LedgerMode, open_ledger
from commucat_ledger.record import LedgerRecord
from commucat_ledger.verify import verify, verify_files
from commucat_ledger.writer import HeadPolicy

__all__ = [
    "GENESIS",
    "MAX_LINE_BYTES",
    "BadLine",
    "ChainCheck",
    "HeadPolicy",
    "KeptHeads",
    "Ledger",
    "LedgerBrokenError",
    "LedgerClosedError",
    "LedgerError",
    "LedgerHeadError",
    "LedgerMode",
    "LedgerRecord",
    "LedgerRecordError",
    "LedgerTargetError",
    "Line",
    "Rotation",
    "SignedHead",
    "Signer",
    "Verified",
    "files_of",
    "head_of",
    "keep_head",
    "line_of",
    "open_ledger",
    "parse_line",
    "read_heads",
    "verify",
    "verify_files",
]
