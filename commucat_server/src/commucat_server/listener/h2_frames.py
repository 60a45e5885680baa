"""Frames of HTTP/2 as bytes (RFC 9113, section 4.1)."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""Section 3.4."""

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
"""Kinds of frames, section 6."""

ACK = END_STREAM = 0x1
END_HEADERS = 0x4
"""Flags."""

INITIAL_WINDOW = 65_535
"""Section 6.9.2."""
LARGEST_FRAME = 16_384
"""Bytes of payload that a peer takes if it says nothing else, section 6.5.2."""
LARGEST_WINDOW = 2**31 - 1
"""Section 6.9.1."""

HEAD_SIZE = 9
read_head = struct.Struct(">BHBBL").unpack_from
"""Length (24 bits, here 8 + 16), kind, flags, and the reserved bit with the stream."""

_write_head = struct.Struct(">HBBBL").pack  # the length is here 16 + 8 bits


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame.

    Args:
        kind: what it is.
        flags: as the kind gives them a meaning.
        stream_id: 0 for the connection.
        payload: at most 2^24 - 1 bytes.
    """
    size = len(payload)
    return _write_head(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def data_frame(stream_id: int, data: bytes) -> bytes:
    """A plain DATA frame."""
    return frame(DATA, 0, stream_id, data)
