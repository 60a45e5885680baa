"""The audit trail of devices' keys."""

from collections.abc import Sequence

from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.rows import select
from commucat_storage.records import KeyEvent


async def key_events(connection: Connection, device_id: str) -> tuple[KeyEvent, ...]:
    """Events of the device, the oldest first."""
    condition = "device_id = $1 ORDER BY recorded_at, event_id"
    return tuple(await select(connection, KeyEvent, "device_key_event", condition, device_id))


async def old_key_events(connection: Connection, before: int, limit: int) -> tuple[KeyEvent, ...]:
    """At most ``limit`` events recorded before that second that are not the newest of their device."""
    condition = (
        "recorded_at < to_timestamp($1::float8) AND EXISTS (SELECT 1 FROM device_key_event AS later "
        "WHERE later.device_id = device_key_event.device_id AND (later.recorded_at, later.event_id) > "
        "(device_key_event.recorded_at, device_key_event.event_id)) ORDER BY recorded_at, event_id LIMIT $2"
    )
    return tuple(await select(connection, KeyEvent, "device_key_event", condition, before, limit))


async def forget_key_events(connection: Connection, event_ids: Sequence[str]) -> int:
    """Delete these events; how many there were."""
    result = await connection.execute(
        "DELETE FROM device_key_event WHERE event_id = ANY($1::text[])", list(event_ids)
    )
    return int(result.rpartition(" ")[2])
