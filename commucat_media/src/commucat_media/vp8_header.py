"""The first bytes of a VP8 frame: whether it is a key frame, and how large the picture will be.

Read before the codec sees them, so that ten bytes cannot make it ask for gigabytes (RFC 6386, section 9.1).
"""

from typing import Final

from commucat_media.errors import MediaCodecError

_START_CODE: Final = b"\x9d\x01\x2a"
_HEADER_BYTES: Final = 10
_SIZE_BITS: Final = 0x3FFF


def is_vp8_key_frame(data: bytes) -> bool:
    """Whether this frame can be decoded without those before it."""
    return len(data) >= _HEADER_BYTES and not data[0] & 1


def vp8_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height that a key frame announces; None for a frame that keeps the size.

    Raises:
        MediaCodecError: no VP8 frame.
    """
    if not data:
        raise MediaCodecError("a VP8 frame without any bytes")
    if data[0] & 1:
        return None
    if len(data) < _HEADER_BYTES or data[3:6] != _START_CODE:
        raise MediaCodecError("no VP8 key frame: its start code is missing")
    width = int.from_bytes(data[6:8], "little") & _SIZE_BITS
    height = int.from_bytes(data[8:10], "little") & _SIZE_BITS
    if not width or not height:
        raise MediaCodecError(f"a VP8 key frame of {width}x{height}")
    return width, height
