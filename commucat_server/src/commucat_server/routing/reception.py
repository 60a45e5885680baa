"""How a session receives: how much waits in memory for it, and which frames its client can read."""

import math
from collections.abc import Callable
from typing import TypeAlias

import attrs

from commucat_proto import FrameType

# What may wait in memory for one receiver that reads slowly; the rest waits in the store.
# Large enough to fill a fast connection between two wake-ups of the writer.
WINDOW_FRAMES = 2048
WINDOW_BYTES = 1024 * 1024
PAGE_ROWS = 512
PAGE_BYTES = 512 * 1024
"""One read of the store while a session catches up; several fit in a connection's outbox."""

Shape: TypeAlias = tuple[FrameType, bytes]
"""The type and the payload of a frame."""


@attrs.frozen(kw_only=True)
class Reception:
    """What one kind of client takes. The default is every client that speaks the protocol as it is now."""

    window_bytes: int = WINDOW_BYTES
    page_bytes: int = PAGE_BYTES
    max_frame: float = math.inf
    """Bytes of an encoded frame; the client could never read a longer one."""
    notices: float = math.inf
    """Bytes of live frames in the whole life of a session; what is more is dropped."""
    durable: Callable[[FrameType, bytes], Shape] | None = None
    """Brings a durable frame into a shape that the client can read."""
    live: Callable[[FrameType, bytes], Shape | None] | None = None
    """The same for a live frame; None means that it is not for this client."""


FULL = Reception()
