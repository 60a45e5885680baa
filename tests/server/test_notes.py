"""What commands leave for the ledger comes there once, in order, and not before the server has it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from commucat_ledger import LedgerRecord
from commucat_server.ops.audit import Audit
from commucat_server.ops.notes import BATCH, Notes, collect_notes
from commucat_storage import open_sqlite


async def test_notes_of_a_command_reach_the_ledger_once_and_in_order(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store.db") as storage:
        notes = Notes()
        audit = Audit(notes)
        for number in range(BATCH + 1):
            audit.record(bytes([number]) * 32, {"scope": "test", "number": number})
        await notes.leave(storage)
        await notes.leave(storage)
        got: list[tuple[bytes, dict[str, Any]]] = []

        assert await collect_notes(storage, lambda *record: got.append(record)) == BATCH + 1
        assert await collect_notes(storage, lambda *record: got.append(record)) == 0

    assert [metadata["number"] for _, metadata in got] == list(range(BATCH + 1))
    assert all(datetime.fromisoformat(metadata["reported_at"]).tzinfo for _, metadata in got)
    assert got[3][0] == bytes([3]) * 32


async def test_a_note_is_forgotten_only_after_it_was_handed_over(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store.db") as storage:
        notes = Notes()
        record = LedgerRecord(digest=bytes(32), metadata={"a": "ж"}, recorded_at=datetime.now(UTC))
        notes.offer(record)
        await notes.leave(storage)

        def refuse(_digest: bytes, _metadata: dict[str, Any]) -> None:
            raise RuntimeError("killed")

        with pytest.raises(RuntimeError):
            await collect_notes(storage, refuse)

        [waiting] = await storage.waiting_notes(9)
        assert json.loads(waiting.metadata) == {"a": "ж"}
