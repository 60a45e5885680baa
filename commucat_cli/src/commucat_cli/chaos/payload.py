"""What a message of a run carries, so that whoever receives it can tell which one it is.

In opaque frames, integers big-endian: 6 bytes ``chaos1``; BLAKE3 of the rest, 16 bytes; id, 8 bytes;
channel u32; sequence u32; length of the sender's device id u8; device id, UTF-8; zeros up to the wanted size.
In JSON frames the same stands in the member ``chaos``, and what fills the size in ``padding``.
"""

import struct
from collections.abc import Mapping
from typing import Any

import attrs
from blake3 import blake3

from commucat_proto import json_text

ID_LEN = 8
_MAGIC = b"chaos1"
_SUM_LEN = 16
_FIXED = struct.Struct(f">{ID_LEN}sIIB")


@attrs.frozen
class Message:
    """One message, as its sender names it."""

    sender: str
    channel: int
    sequence: int
    """Counts the sender's messages on this channel from 1."""
    id: str
    """Random, hexadecimal."""


def encode_message(message: Message, size: int) -> bytes:
    """A payload of ``size`` bytes, or as many more as its head needs."""
    sender = message.sender.encode()
    rest = _FIXED.pack(bytes.fromhex(message.id), message.channel, message.sequence, len(sender)) + sender
    rest = rest.ljust(size - len(_MAGIC) - _SUM_LEN, b"\0")
    return _MAGIC + blake3(rest).digest(_SUM_LEN) + rest


def decode_message(payload: bytes) -> Message | None:
    """The opposite; None for anything that no client of a run has made."""
    magic, total, rest = payload[:6], payload[6 : 6 + _SUM_LEN], payload[6 + _SUM_LEN :]
    if magic != _MAGIC or len(rest) < _FIXED.size or blake3(rest).digest(_SUM_LEN) != total:
        return None
    identity, channel, sequence, length = _FIXED.unpack_from(rest)
    sender = rest[_FIXED.size : _FIXED.size + length].decode("utf-8", "replace")
    return Message(sender, channel, sequence, identity.hex())


def encode_control(message: Message, value: Mapping[str, Any], size: int = 0) -> bytes:
    """The JSON text of ``value`` with the message's name in it, of about ``size`` bytes."""
    padding = "x" * size
    name = {**attrs.asdict(message), "sum": blake3(padding.encode()).hexdigest()}
    return json_text.dumps({**value, "chaos": name, "padding": padding})


def decode_control(value: object) -> Message | None:
    """The opposite; None for anything that no client of a run has made."""
    name = value.get("chaos") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(name, dict):
        return None
    padding = value.get("padding")
    if not isinstance(padding, str) or blake3(padding.encode()).hexdigest() != name.pop("sum", None):
        return None
    try:
        return Message(**name)
    except TypeError:
        return None
