"""Unsigned LEB128: seven bits a byte, least significant group first, high bit = more follow.

Values are 64 bits wide, so a varint has 1 to 10 bytes (docs/protocol.md, "Varint"). Overlong
forms are read without complaint and the bits of a tenth byte above the lowest are dropped:
every peer in the field does so, and a stricter reader would only disagree with them about
where a frame ends.
"""

from commucat_proto.errors import CodecError, CodecErrorCode, LocalProtocolError

Buffer = bytes | bytearray | memoryview

MAX_VARINT = 2**64 - 1
MAX_VARINT_LEN = 10

_ONE_BYTE = tuple(bytes((n,)) for n in range(0x80))


def encode_varint(n: int) -> bytes:
    """The shortest form of ``n``.

    Raises:
        LocalProtocolError: ``n`` is negative or above 2^64-1.
    """
    # Written out up to 32-bit values: channels derived from device ids need all five bytes
    # in every frame, and a loop costs twice as much.
    if 0 <= n < 0x80:
        return _ONE_BYTE[n]
    if 0 <= n < 0x4000:
        return bytes((n & 0x7F | 0x80, n >> 7))
    if 0 <= n < 0x20_0000:
        return bytes((n & 0x7F | 0x80, n >> 7 & 0x7F | 0x80, n >> 14))
    if 0x1000_0000 <= n < 0x8_0000_0000:
        return bytes(
            (n & 0x7F | 0x80, n >> 7 & 0x7F | 0x80, n >> 14 & 0x7F | 0x80, n >> 21 & 0x7F | 0x80, n >> 28)
        )
    if not 0 <= n <= MAX_VARINT:
        raise LocalProtocolError("a varint holds 0 to 2^64-1")
    groups = bytearray()
    while n >= 0x80:
        groups.append(n & 0x7F | 0x80)
        n >>= 7
    groups.append(n)
    return bytes(groups)


def read_varint(buffer: Buffer, offset: int, end: int) -> tuple[int, int] | None:
    """Read the varint at ``offset``, looking at no byte from ``end`` on.

    Returns:
        ``(value, offset of the byte after it)``, or None when ``end`` came too early.

    Raises:
        CodecError: VarintOverflow, ten bytes without a last one.
    """
    value = shift = 0
    while offset < end:
        byte = buffer[offset]
        offset += 1
        if byte < 0x80:
            value |= byte << shift
            # Only a tenth byte can reach beyond 64 bits.
            return (value if shift < 63 else value & MAX_VARINT), offset
        value |= (byte & 0x7F) << shift
        shift += 7
        if shift == 70:
            raise CodecError(CodecErrorCode.VARINT_OVERFLOW)
    return None


def decode_varint(data: Buffer, offset: int = 0) -> tuple[int, int]:
    """Read the varint at ``offset`` of bytes that are all there is.

    Returns:
        ``(value, offset of the byte after it)``.

    Raises:
        CodecError: UnexpectedEof, VarintOverflow.
    """
    found = read_varint(data, offset, len(data))
    if found is None:
        raise CodecError(CodecErrorCode.UNEXPECTED_EOF)
    return found
