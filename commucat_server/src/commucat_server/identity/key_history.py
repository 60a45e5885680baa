"""What a device may see of the history of its keys, signed by the server."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import trio

from commucat_crypto import DeviceKeyPair, history_statement
from commucat_ledger.chain import GENESIS
from commucat_ledger.key_chain import KeyChainEvent, links_of
from commucat_storage import KeyEvent, Storage, StorageUnavailableError
from commucat_storage.key_archive import ArchiveError, read_archive


@attrs.frozen(kw_only=True)
class KeyHistory:
    """The events of a device, the oldest first, each with its link, and the server's word for the last."""

    events: tuple[tuple[KeyEvent, bytes], ...]
    link: bytes
    """Of the last event; zeros if there is none."""
    signed_at: int
    key: bytes
    """Ed25519, the server's."""
    signature: bytes
    """Over ``history_statement``."""


class KeyHistories:
    """``archive``: the file to which old events move, if they do."""

    def __init__(
        self,
        storage: Storage,
        authority: DeviceKeyPair,
        clock: Callable[[], float],
        archive: Path | None = None,
    ) -> None:
        self._storage = storage
        self._authority = authority
        self._clock = clock
        self._archive = archive
        # The archive is read as a whole: one at a time is enough.
        self._reading = trio.CapacityLimiter(1)

    async def of(self, device_id: str) -> KeyHistory:
        """The history as it stands.

        Raises:
            StorageError: the store or the archive cannot be read.
        """
        events = {event.event_id: event for event in await self._archived(device_id)}
        events |= {event.event_id: event for event in await self._storage.key_events(device_id)}
        ordered = sorted(events.values(), key=lambda event: (event.recorded_at, event.event_id))
        links = links_of(map(_chained, ordered))
        link = links[-1] if links else GENESIS
        now = int(self._clock())
        statement = history_statement(device_id, events=len(ordered), link=link, signed_at=now)
        return KeyHistory(
            events=tuple(zip(ordered, links, strict=True)),
            link=link,
            signed_at=now,
            key=self._authority.public,
            signature=self._authority.sign(statement),
        )

    async def _archived(self, device_id: str) -> list[KeyEvent]:
        if self._archive is None:
            return []
        return await trio.to_thread.run_sync(
            partial(_read_archived, self._archive, device_id), limiter=self._reading
        )


def _read_archived(path: Path, device_id: str) -> list[KeyEvent]:
    try:
        return [event for event in read_archive(path) if event.device_id == device_id]
    except (ArchiveError, OSError) as exc:
        raise StorageUnavailableError(f"the archive of key events cannot be read: {exc}") from exc


def _chained(event: KeyEvent) -> KeyChainEvent:
    return KeyChainEvent(
        event_id=event.event_id,
        device_id=event.device_id,
        public_key=event.public_key,
        recorded_at=event.recorded_at,
    )
