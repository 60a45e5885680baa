"""Forward error correction by RaptorQ (RFC 6330): payloads that survive the loss of packets. No I/O."""

from commucat_proto.fec.datagrams import DatagramAssembler, datagrams_of
from commucat_proto.fec.raptor import (
    HINTED,
    LOW_LATENCY,
    MAX_MTU,
    MAX_OVERHEAD,
    MAX_PAYLOAD,
    MIN_MTU,
    FecDecoder,
    FecProfile,
    PacketCounts,
    encode,
    packet_counts,
)

__all__ = [
    "HINTED",
    "LOW_LATENCY",
    "MAX_MTU",
    "MAX_OVERHEAD",
    "MAX_PAYLOAD",
    "MIN_MTU",
    "DatagramAssembler",
    "FecDecoder",
    "FecProfile",
    "PacketCounts",
    "datagrams_of",
    "encode",
    "packet_counts",
]
