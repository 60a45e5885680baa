"""CCP-1 frames: types, limits, and one frame to and from bytes.

Layout (docs/protocol.md, "Frame")::

    frame = varint(len(body)) body
    body  = type:u8 varint(channel) varint(sequence) varint(len(payload)) payload

Bytes inside the body after the payload are skipped. The order of the checks decides which
error a peer sees; it is part of the protocol.
"""

import enum
from collections.abc import Iterable
from typing import Final

from commucat_proto import json_text
from commucat_proto.errors import CodecError, CodecErrorCode, LocalProtocolError
from commucat_proto.json_text import JsonTextError, JsonValue
from commucat_proto.varint import Buffer, encode_varint, read_varint

PROTOCOL_VERSION = 1
SUPPORTED_VERSIONS = (1,)

MAX_FRAME_LEN = 16_777_216
"""Bytes of a body, and separately of a payload."""
MAX_CONTROL_JSON_LEN = 262_144
"""Bytes of JSON text in a control frame."""
MAX_CHANNEL_ID = 0xFFFF_FFFF
MAX_SEQUENCE = 0xFFFF_FFFF


class FrameType(enum.IntEnum):
    """What a frame is for. The value is its code on the wire."""

    HELLO = 0x01
    AUTH = 0x02
    JOIN = 0x03
    LEAVE = 0x04
    MSG = 0x05
    ACK = 0x06
    TYPING = 0x07
    PRESENCE = 0x08
    KEY_UPDATE = 0x09
    GROUP_CREATE = 0x0A
    GROUP_INVITE = 0x0B
    GROUP_EVENT = 0x0C
    ERROR = 0x0D
    CALL_OFFER = 0x0E
    CALL_ANSWER = 0x0F
    CALL_END = 0x10
    VOICE_FRAME = 0x11
    VIDEO_FRAME = 0x12
    CALL_STATS = 0x13
    TRANSPORT_UPDATE = 0x14

    wire_name: str
    """The name CCP-1 uses in text, such as ``"KeyUpdate"``."""
    label: str
    """The name for logs and metrics, such as ``"key_update"``."""
    is_opaque: bool
    """The payload is ciphertext or media, not JSON."""

    def __init__(self, code: int) -> None:
        self.label = self._name_.lower()
        self.wire_name = self._name_.title().replace("_", "")
        self.is_opaque = self._name_ in ("MSG", "VOICE_FRAME", "VIDEO_FRAME")


_HEADS = {frame_type: bytes((frame_type,)) for frame_type in FrameType}
_BY_CODE = tuple(next((t for t in FrameType if t == code), None) for code in range(256))


def negotiate_version(ours: Iterable[int], theirs: Iterable[int]) -> int | None:
    """The highest version in both lists, or None."""
    return max(set(ours).intersection(theirs), default=None)


class Frame:
    """One frame, immutable: ``type``, ``channel``, ``sequence`` and the payload's bytes.

    Written by hand with slots because tens of thousands are made per second: 0.13 us each,
    an attrs frozen class takes 0.38. Type checkers refuse assignments.
    """

    __slots__ = ("_control", "channel", "payload", "sequence", "type")

    _control: JsonValue

    def __init__(self, type: FrameType, channel: int, sequence: int, payload: bytes) -> None:
        self.type: Final = type
        self.channel: Final = channel
        self.sequence: Final = sequence
        self.payload: Final = payload

    @classmethod
    def of_control(cls, type: FrameType, channel: int, sequence: int, value: JsonValue) -> "Frame":
        """A frame whose payload is the compact JSON text of ``value`` with sorted keys.

        ``value`` is kept, do not change it afterwards.

        Raises:
            LocalProtocolError: an opaque type, or a value that has no JSON text.
        """
        if type.is_opaque:
            raise LocalProtocolError(f"{type.wire_name} carries no JSON")
        try:
            frame = cls(type, channel, sequence, json_text.dumps(value))
        except JsonTextError as exc:
            raise LocalProtocolError(str(exc)) from exc
        frame._control = value
        return frame

    @property
    def control(self) -> JsonValue:
        """The JSON value of a control frame, parsed at most once. Do not change it.

        Raises:
            LocalProtocolError: the type is opaque.
            CodecError: InvalidControlJson; never for a frame that was decoded.
        """
        try:
            return self._control
        except AttributeError:
            if self.type.is_opaque:
                raise LocalProtocolError(f"{self.type.wire_name} carries no JSON") from None
        self._control = _parse_control(self.payload)
        return self._control

    def encode(self) -> bytes:
        """The frame's bytes, see :func:`encode_frame`."""
        return encode_frame(self.type, self.channel, self.sequence, self.payload)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frame):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[FrameType, int, int, bytes]:
        return self.type, self.channel, self.sequence, self.payload

    def __repr__(self) -> str:
        # The payload may be ciphertext or name people: only its length is shown.
        return f"Frame({self.type.name}, {self.channel}, {self.sequence}, <{len(self.payload)} bytes>)"


class RefusedFrame:
    """A frame with intact borders whose JSON nobody may read; its payload is not kept.

    What comes behind it in the stream is unharmed, so the frame can be answered by name.
    """

    __slots__ = ("_detail", "channel", "code", "sequence", "type")

    def __init__(
        self, type: FrameType, channel: int, sequence: int, code: CodecErrorCode, detail: str | None = None
    ) -> None:
        """``code``: ControlTooLarge or InvalidControlJson."""
        self.type: Final = type
        self.channel: Final = channel
        self.sequence: Final = sequence
        self.code: Final = code
        self._detail: Final = detail

    @property
    def error(self) -> CodecError:
        """Why, as an exception. Made when asked for: one that was raised keeps the payload alive and
        2.5 KB with it, and a read of five-byte frames brings tens of thousands."""
        return CodecError(self.code, self._detail)

    def __repr__(self) -> str:
        return f"RefusedFrame({self.type.name}, {self.channel}, {self.sequence}, {self.code.value})"


def encode_frame(type: FrameType, channel: int, sequence: int, payload: bytes) -> bytes:
    """The bytes of one frame. That the payload fits the type is not checked.

    Raises:
        CodecError: in this order ChannelIdTooLarge, SequenceTooLarge, ControlTooLarge (JSON
            types), PayloadTooLarge, FrameTooLarge. An opaque payload of exactly
            ``MAX_FRAME_LEN`` bytes fails by the last, because its header comes on top.
    """
    if not 0 <= channel <= MAX_CHANNEL_ID:
        raise CodecError(CodecErrorCode.CHANNEL_ID_TOO_LARGE)
    if not 0 <= sequence <= MAX_SEQUENCE:
        raise CodecError(CodecErrorCode.SEQUENCE_TOO_LARGE)
    length = len(payload)
    if length > MAX_CONTROL_JSON_LEN:
        if not type.is_opaque:
            raise CodecError(CodecErrorCode.CONTROL_TOO_LARGE)
        if length > MAX_FRAME_LEN:
            raise CodecError(CodecErrorCode.PAYLOAD_TOO_LARGE)
    header = _HEADS[type] + encode_varint(channel) + encode_varint(sequence) + encode_varint(length)
    body_len = len(header) + length
    if body_len > MAX_FRAME_LEN:
        raise CodecError(CodecErrorCode.FRAME_TOO_LARGE)
    return encode_varint(body_len) + header + payload


class FrameTemplate:
    """One frame for many receivers: everything but its sequence is encoded once."""

    __slots__ = ("_before", "_head", "_length", "_middle_len", "_tail")

    def __init__(self, type: FrameType, channel: int, payload: bytes) -> None:
        """That the payload fits the type is not checked.

        Raises:
            CodecError: as :func:`encode_frame` with the shortest sequence.
        """
        if not 0 <= channel <= MAX_CHANNEL_ID or len(payload) > MAX_CONTROL_JSON_LEN:
            encode_frame(type, channel, 0, payload)  # says what is too large, if anything is
        self._head = _HEADS[type] + encode_varint(channel)
        self._tail = encode_varint(len(payload)) + payload
        self._length = len(self._head) + len(self._tail)
        # What stands before a sequence of so many bytes: those of different receivers mostly have as many.
        self._middle_len = 0
        self._before = b""

    def encode(self, sequence: int) -> bytes:
        """The same bytes as :func:`encode_frame`.

        Raises:
            CodecError: SequenceTooLarge, or FrameTooLarge with a sequence that takes more bytes.
        """
        if not 0 <= sequence <= MAX_SEQUENCE:
            raise CodecError(CodecErrorCode.SEQUENCE_TOO_LARGE)
        middle = encode_varint(sequence)
        if len(middle) != self._middle_len:
            body_len = self._length + len(middle)
            if body_len > MAX_FRAME_LEN:
                raise CodecError(CodecErrorCode.FRAME_TOO_LARGE)
            self._before = encode_varint(body_len) + self._head
            self._middle_len = len(middle)
        return self._before + middle + self._tail


def decode_frame(data: Buffer, offset: int = 0) -> tuple[Frame, int]:
    """The frame at ``offset`` of bytes that are all there is.

    Returns:
        The frame and how many bytes it took; what follows belongs to the next one.

    Raises:
        CodecError: the first rule of docs/protocol.md, "Decoding", that fails.
    """
    end = len(data)
    found = read_varint(data, offset, end)
    if found is None:
        raise CodecError(CodecErrorCode.UNEXPECTED_EOF)
    length, start = found
    if length > MAX_FRAME_LEN:
        raise CodecError(CodecErrorCode.FRAME_TOO_LARGE)
    stop = start + length
    if stop > end:
        raise CodecError(CodecErrorCode.UNEXPECTED_EOF)
    return decode_body(data, start, stop), stop - offset


def decode_body(buffer: Buffer, position: int, stop: int) -> Frame:
    """The frame whose body is ``buffer[position:stop]``, all of which is there.

    Raises:
        CodecError: any code but FrameTooLarge; UnexpectedEof means a malformed body here,
            never "more bytes are needed".
    """
    found = cut_body(buffer, position, stop)
    if isinstance(found, RefusedFrame):
        raise found.error
    return found


def cut_body(buffer: Buffer, position: int, stop: int) -> Frame | RefusedFrame:
    """As :func:`decode_body`, but JSON that cannot be read is no reason to give the stream up.

    Raises:
        CodecError: any code but FrameTooLarge, ControlTooLarge and InvalidControlJson.
    """
    if position >= stop:
        raise CodecError(CodecErrorCode.UNEXPECTED_EOF)
    frame_type = _BY_CODE[buffer[position]]
    if frame_type is None:
        raise CodecError(CodecErrorCode.INVALID_FRAME_TYPE)
    position += 1
    # Three times the same: a one-byte varint, by far the most frequent, is read in place.
    if position < stop and (channel := buffer[position]) < 0x80:
        position += 1
    else:
        channel, position = _body_varint(buffer, position, stop)
        if channel > MAX_CHANNEL_ID:
            raise CodecError(CodecErrorCode.CHANNEL_ID_TOO_LARGE)
    if position < stop and (sequence := buffer[position]) < 0x80:
        position += 1
    else:
        sequence, position = _body_varint(buffer, position, stop)
        if sequence > MAX_SEQUENCE:
            raise CodecError(CodecErrorCode.SEQUENCE_TOO_LARGE)
    if position < stop and (length := buffer[position]) < 0x80:
        position += 1
    else:
        length, position = _body_varint(buffer, position, stop)
        if length > MAX_FRAME_LEN:
            raise CodecError(CodecErrorCode.PAYLOAD_TOO_LARGE)
    end = position + length
    if end > stop:
        raise CodecError(CodecErrorCode.UNEXPECTED_EOF)
    if frame_type.is_opaque:
        return Frame(frame_type, channel, sequence, bytes(buffer[position:end]))
    if length > MAX_CONTROL_JSON_LEN:
        # Neither copied nor parsed: what is announced too long costs nothing but its room.
        return RefusedFrame(frame_type, channel, sequence, CodecErrorCode.CONTROL_TOO_LARGE)
    frame = Frame(frame_type, channel, sequence, bytes(buffer[position:end]))
    try:
        frame._control = _parse_control(frame.payload)
    except CodecError as exc:
        return RefusedFrame(frame_type, channel, sequence, exc.code, exc.detail)
    return frame


def _body_varint(buffer: Buffer, position: int, stop: int) -> tuple[int, int]:
    found = read_varint(buffer, position, stop)
    if found is None:
        raise CodecError(CodecErrorCode.UNEXPECTED_EOF)
    return found


def _parse_control(payload: bytes) -> JsonValue:
    try:
        return json_text.loads(payload)
    except JsonTextError as exc:
        raise CodecError(CodecErrorCode.INVALID_CONTROL_JSON, str(exc)) from exc
