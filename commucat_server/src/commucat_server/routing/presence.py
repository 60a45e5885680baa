"""Presence of devices: published at connect, refreshed while the session lives."""

from collections.abc import Callable

import structlog

from commucat_storage import Presence, Storage, StorageError

log = structlog.get_logger("commucat.presence")

ONLINE = "online"
OFFLINE = "offline"
MAX_STATE_LEN = 64


class PresenceBoard:
    """Writes presence with a lifetime, so that a killed server leaves nobody online for ever."""

    def __init__(self, storage: Storage, *, ttl: int, clock: Callable[[], float]) -> None:
        self._storage = storage
        self._ttl = ttl
        self._clock = clock
        self._states: dict[str, str] = {}

    async def publish(self, device_id: str, state: str) -> None:
        """The device says how it is; repeated by :meth:`refresh` until it leaves."""
        self._states[device_id] = state
        await self._write(device_id, state)

    async def leave(self, device_id: str) -> None:
        self._states.pop(device_id, None)
        await self._write(device_id, OFFLINE)

    async def refresh(self) -> None:
        """Renew the lifetime of everybody who is here."""
        for device_id, state in tuple(self._states.items()):
            await self._write(device_id, state)

    async def state_of(self, device_id: str) -> str | None:
        found = await self._storage.read_presence(device_id, int(self._clock()))
        return found.state if found else None

    async def _write(self, device_id: str, state: str) -> None:
        expires_at = int(self._clock()) + max(1, self._ttl)
        presence = Presence(device_id=device_id, state=state, expires_at=expires_at)
        try:
            await self._storage.publish_presence(presence)
        except StorageError as exc:
            # Nobody's session ends because others do not see it; the next refresh tries again.
            log.warning("presence not stored", reason=str(exc))
