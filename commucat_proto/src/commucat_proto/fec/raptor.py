"""One payload as RaptorQ packets, and back.

A packet is the payload id of RFC 6330, section 3.2 (source block number, symbol id in 24 bits), and one
symbol. Payloads here are short enough for one source block. How long the payload and a symbol are travels
outside the packets.

The library under this aborts with an exception that is no ``Exception`` when a packet has a wrong length or
block, and its decoder is of no use after it; nothing reaches it unchecked.
"""

import math
from typing import Final

import attrs
import raptorq

from commucat_proto.errors import LocalProtocolError

ID_LEN: Final = 4
ALIGNMENT: Final = 8
"""Bytes; symbols have a multiple of it (RFC 6330, section 4.3, Al)."""
MIN_MTU: Final = 256
MAX_MTU: Final = 9000
MAX_OVERHEAD: Final = 2.0
MAX_PAYLOAD: Final = 64 * 1024
"""Bytes: at :data:`MIN_SYMBOL` 2048 source symbols, one block, and milliseconds of computing."""
MIN_SYMBOL: Final = 32
_SPARE: Final = 32
"""Packets beyond the source symbols, times two, that a decoder takes for one payload: it fails with
probability 256^-(n+1) with n to spare (RFC 6330, section 1), so more come from somebody who wants to cost."""


def _mtu(_profile: object, _attribute: object, value: int) -> None:
    if not MIN_MTU <= value <= MAX_MTU:
        raise LocalProtocolError(f"the MTU of error correction must be from {MIN_MTU} to {MAX_MTU}")


def _overhead(_profile: object, _attribute: object, value: float) -> None:
    # Not a number is in no range.
    if not 0.0 <= value <= MAX_OVERHEAD:
        raise LocalProtocolError(f"the overhead of error correction must be from 0 to {MAX_OVERHEAD:g}")


@attrs.frozen
class FecProfile:
    """How a payload is cut and how much is added.

    Raises:
        LocalProtocolError: a value is out of its range.
    """

    mtu: int = attrs.field(validator=_mtu)
    """Bytes of a symbol at most; a packet has 4 more."""
    repair_overhead: float = attrs.field(validator=_overhead)
    """Repair packets for each source packet; at least one is made unless it is 0."""


LOW_LATENCY: Final = FecProfile(1200, 0.25)
HINTED: Final = FecProfile(1152, 0.35)
"""What a request of advice gets that asks for error correction without numbers."""


@attrs.frozen
class PacketCounts:
    """Packets of a payload."""

    source: int
    repair: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.source + self.repair


def symbol_size(length: int, mtu: int) -> int:
    """Bytes of a symbol for a payload: the MTU rounded down to the alignment, less for a short payload."""
    short = max(MIN_SYMBOL, length + -length % ALIGNMENT)
    return min(mtu - mtu % ALIGNMENT, short)


def packet_counts(length: int, profile: FecProfile) -> PacketCounts:
    """How many packets :func:`encode` makes of ``length`` bytes."""
    source = -(-length // symbol_size(length, profile.mtu))
    repair = max(1, math.ceil(source * profile.repair_overhead)) if source and profile.repair_overhead else 0
    return PacketCounts(source, repair)


def encode(payload: bytes, profile: FecProfile) -> tuple[int, list[bytes]]:
    """The size of a symbol, and the packets: the source packets first. None for an empty payload.

    Raises:
        LocalProtocolError: the payload is longer than :data:`MAX_PAYLOAD`.
    """
    if len(payload) > MAX_PAYLOAD:
        raise LocalProtocolError(f"a payload has at most {MAX_PAYLOAD} bytes")
    size = symbol_size(len(payload), profile.mtu)
    if not payload:
        return size, []
    counts = packet_counts(len(payload), profile)
    return size, raptorq.Encoder.with_defaults(payload, size).get_encoded_packets(counts.repair)


class FecDecoder:
    """Puts one payload together again, of any packets that suffice.

    Args:
        length: bytes of the payload, 1 to :data:`MAX_PAYLOAD`.
        size: bytes of a symbol: a multiple of 8, from :data:`MIN_SYMBOL` to :data:`MAX_MTU`.

    Raises:
        LocalProtocolError: there can be no such payload.
    """

    def __init__(self, length: int, size: int) -> None:
        if not 0 < length <= MAX_PAYLOAD or not MIN_SYMBOL <= size <= MAX_MTU or size % ALIGNMENT:
            raise LocalProtocolError("no payload has this length and this size of symbols")
        self.size = size
        self._most = 2 * (-(-length // size) + _SPARE)
        self._seen: set[bytes] = set()
        self._decoder = raptorq.Decoder.with_defaults(length, size)
        self._done = False

    @property
    def held(self) -> int:
        """Bytes of packets that are kept."""
        return 0 if self._done else len(self._seen) * self.size

    def add(self, packet: bytes) -> bytes | None:
        """Take a packet; the payload as soon as it can be put together, once.

        What is no packet of this payload, or came before, or comes after, is ignored.
        """
        name = packet[:ID_LEN]
        if self._done or len(packet) != ID_LEN + self.size or name[0] != 0 or name in self._seen:
            return None
        if len(self._seen) >= self._most:
            return None
        self._seen.add(name)
        payload: bytes | None = self._decoder.decode(packet)
        if payload is None:
            return None
        self._done = True
        return bytes(payload)
