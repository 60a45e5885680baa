"""The audit trail of devices' keys."""

import sqlite3
from collections.abc import Sequence

from commucat_storage.records import KeyEvent
from commucat_storage.sqlite.rows import select


def key_events(connection: sqlite3.Connection, device_id: str) -> tuple[KeyEvent, ...]:
    """Events of the device, the oldest first."""
    condition = "device_id = ? ORDER BY recorded_at, event_id"
    return tuple(select(connection, KeyEvent, "device_key_event", condition, (device_id,)))


def old_key_events(connection: sqlite3.Connection, before: int, limit: int) -> tuple[KeyEvent, ...]:
    """At most ``limit`` events recorded before that second that are not the newest of their device."""
    condition = (
        "recorded_at < ? AND EXISTS (SELECT 1 FROM device_key_event AS later "
        "WHERE later.device_id = device_key_event.device_id AND (later.recorded_at, later.event_id) > "
        "(device_key_event.recorded_at, device_key_event.event_id)) ORDER BY recorded_at, event_id LIMIT ?"
    )
    return tuple(select(connection, KeyEvent, "device_key_event", condition, (before, limit)))


def forget_key_events(connection: sqlite3.Connection, event_ids: Sequence[str]) -> int:
    """Delete these events; how many there were."""
    marks = ", ".join("?" * len(event_ids))
    return connection.execute(
        f"DELETE FROM device_key_event WHERE event_id IN ({marks})",  # noqa: S608 - question marks
        tuple(event_ids),
    ).rowcount
