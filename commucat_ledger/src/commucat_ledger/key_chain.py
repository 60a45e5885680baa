"""The chain of one device's key events, without input or output.

A device's key events (registered, certificate issued, key changed) are few. Each has a *link*, BLAKE3 over
the link before it and the event::

    "commucat:key-event:v1\\n"  link before (32, zeros first)  ids  recorded_at (8)  public_key (32)

where ``ids`` are device id and event id, each in UTF-8 behind its length in 4 bytes, big-endian. Whoever
remembers one link of a device can later be shown its events, and knows whether they are still those.
"""

from collections.abc import Iterable
from typing import Final

import attrs
from blake3 import blake3

from commucat_ledger.chain import GENESIS

CONTEXT: Final = b"commucat:key-event:v1\n"


@attrs.frozen(kw_only=True)
class KeyChainEvent:
    """One event: Unix seconds, and the Ed25519 key (32 bytes) that the device had from then on."""

    event_id: str
    device_id: str
    public_key: bytes
    recorded_at: int


def link_of(before: bytes, event: KeyChainEvent) -> bytes:
    """The 32-byte link of an event behind the link ``before``."""
    return blake3(
        b"".join(
            (
                CONTEXT,
                before,
                _counted(event.device_id),
                _counted(event.event_id),
                event.recorded_at.to_bytes(8),
                event.public_key,
            )
        )
    ).digest()


def links_of(events: Iterable[KeyChainEvent]) -> list[bytes]:
    """The link of each event, the oldest first."""
    links: list[bytes] = []
    for event in events:
        links.append(link_of(links[-1] if links else GENESIS, event))
    return links


def _counted(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(4) + data
