"""Records that are stored beside what they tell of, and go to the ledger from there.

A change that is made outside of the server's process, or that must be recorded exactly as it was committed,
brings its record with it in the same transaction. A server that runs, now or later, writes it to its ledger.
"""

import secrets
from collections.abc import Mapping
from typing import Any

import orjson
from blake3 import blake3

from commucat_storage.operating import OperatorRecord


def operator_record(about: str, metadata: Mapping[str, Any], now: int) -> OperatorRecord:
    """A record whose digest names ``about``; never with a secret in ``metadata``."""
    return record_of(blake3(about.encode()).digest(), metadata, now)


def record_of(digest: bytes, metadata: Mapping[str, Any], now: int) -> OperatorRecord:
    """The same with a digest of 32 bytes, such as a public key."""
    return OperatorRecord(
        record_id=secrets.token_hex(16),
        digest=digest,
        metadata=orjson.dumps(dict(metadata), option=orjson.OPT_SORT_KEYS).decode(),
        recorded_at=now,
    )
