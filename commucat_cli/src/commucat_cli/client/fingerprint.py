"""Numbers that two people compare to be sure that nobody is between their devices."""

import struct

from blake3 import blake3

from commucat_cli.client.addresses import local_id

_FINGERPRINT_CONTEXT = b"commucat:fingerprint:v1"
_SAFETY_CONTEXT = b"commucat:safety-number:v1"
_GROUPS = 12
_U32 = struct.Struct("<I")


def fingerprint(device_id: str, public_key: bytes) -> str:
    """Twelve groups of five digits for one device: BLAKE3 over its id (length first) and Ed25519 key."""
    return _digits(blake3(_FINGERPRINT_CONTEXT).update(_entry(device_id, public_key)))


def safety_number(one: tuple[str, bytes], other: tuple[str, bytes]) -> str:
    """Twelve groups of five digits for two devices (id, Ed25519 key), equal on both sides.

    About 199 bits: nobody finds keys that give a wanted number.
    """
    hasher = blake3(_SAFETY_CONTEXT)
    for entry in sorted((_entry(*one), _entry(*other))):
        hasher.update(entry)
    return _digits(hasher)


def _entry(device_id: str, public_key: bytes) -> bytes:
    # As it is called on its own server: both sides see the same numbers.
    raw = local_id(device_id).encode()
    return _U32.pack(len(raw)) + raw + public_key


def _digits(hasher: blake3) -> str:
    # Eight bytes per group, so that the remainder favours no digits noticeably.
    raw = hasher.digest(length=8 * _GROUPS)
    groups = (int.from_bytes(raw[start : start + 8], "little") % 100_000 for start in range(0, len(raw), 8))
    return " ".join(f"{group:05d}" for group in groups)
