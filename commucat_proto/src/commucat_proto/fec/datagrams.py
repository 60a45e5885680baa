"""Payloads as datagrams of their own description, for paths that lose, double and reorder them.

A datagram is the payload's number, its length (4 bytes each, big-endian), the size of a symbol (2 bytes),
and one packet. It is what :class:`commucat_cli.client.p2p_relay.P2pRelay` sends as one message of ``/p2p``.
"""

import struct
from collections import OrderedDict
from typing import Final

from commucat_proto.errors import LocalProtocolError
from commucat_proto.fec.raptor import FecDecoder, FecProfile, encode

_HEAD: Final = struct.Struct("!IIH")
MAX_NUMBER: Final = 2**32 - 1
OPEN_PAYLOADS: Final = 64
"""Payloads that an assembler keeps parts of; when there are more, the oldest one is given up."""
KNOWN_PAYLOADS: Final = 1024
"""Numbers of finished payloads that it knows, so that late packets begin none again."""
HELD_BYTES: Final = 1024 * 1024
"""Bytes of parts that it keeps, all payloads together."""


def datagrams_of(number: int, payload: bytes, profile: FecProfile) -> list[bytes]:
    """The datagrams of one payload; ``number`` names it among those of one sender, and is used once.

    Raises:
        LocalProtocolError: the number does not fit 32 bits, or the payload is too long.
    """
    if not 0 <= number <= MAX_NUMBER:
        raise LocalProtocolError("the number of a payload has 32 bits")
    size, packets = encode(payload, profile)
    head = _HEAD.pack(number, len(payload), size)
    return [head + packet for packet in packets]


class DatagramAssembler:
    """Takes datagrams of one sender, as they come; gives each payload once."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, tuple[int, FecDecoder]] = OrderedDict()
        self._finished: OrderedDict[int, None] = OrderedDict()
        self.ignored = 0
        """Datagrams that were none, or did not agree with others of their payload."""
        self.abandoned = 0
        """Payloads that were given up for newer ones."""

    @property
    def held(self) -> int:
        """Bytes of packets that are kept."""
        return sum(decoder.held for _, decoder in self._open.values())

    def add(self, datagram: bytes) -> tuple[int, bytes] | None:
        """Number and bytes of a payload, if this datagram completes one."""
        if len(datagram) < _HEAD.size:
            self.ignored += 1
            return None
        number, length, size = _HEAD.unpack_from(datagram)
        if number in self._finished:
            return None
        known = self._open.get(number)
        if known is None:
            try:
                known = length, FecDecoder(length, size)
            except LocalProtocolError:
                self.ignored += 1
                return None
            self._open[number] = known
        if known[0] != length or known[1].size != size:
            self.ignored += 1
            return None
        payload = known[1].add(datagram[_HEAD.size :])
        if payload is None:
            self._make_room()
            return None
        del self._open[number]
        self._finish(number)
        return number, payload

    def _make_room(self) -> None:
        while len(self._open) > OPEN_PAYLOADS or (len(self._open) > 1 and self.held > HELD_BYTES):
            number, _ = self._open.popitem(last=False)
            self._finish(number)
            self.abandoned += 1

    def _finish(self, number: int) -> None:
        self._finished[number] = None
        if len(self._finished) > KNOWN_PAYLOADS:
            self._finished.popitem(last=False)
