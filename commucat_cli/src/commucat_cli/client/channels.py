"""The channel two devices meet on, without having talked about it."""

import struct
from collections.abc import Iterable

from blake3 import blake3

_CONTEXT = b"commucat:channel:v1"
_U32 = struct.Struct("<I")
_CHANNELS = 0xFFFF_FFFF  # 1 to 2^32-1: channel 0 belongs to the session itself


def derive_channel(one: str, other: str, attempt: int = 0) -> int:
    """A channel number from 1 to 2^32-1, the same whichever device asks.

    It is ``1 + n mod (2^32 - 1)``, n being the first four bytes, little-endian, of BLAKE3 over
    ``"commucat:channel:v1"``, the two ids in ascending order of their bytes (each as u32 length,
    little-endian, and UTF-8) and ``attempt`` (u32, little-endian). A number that one of them
    uses for another conversation is given up for the next ``attempt``.
    """
    return derive_call_channel((one, other), attempt)


def derive_call_channel(devices: Iterable[str], attempt: int = 0) -> int:
    """The same for any number of devices: for two the channel on which they exchange messages, too."""
    hasher = blake3(_CONTEXT)
    for device_id in sorted(device.encode() for device in devices):
        hasher.update(_U32.pack(len(device_id)) + device_id)
    hasher.update(_U32.pack(attempt))
    return 1 + int.from_bytes(hasher.digest()[:4], "little") % _CHANNELS
