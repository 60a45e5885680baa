"""Whose fault it is, and the wire names of what can be wrong with a frame."""

import enum


class ProtoError(Exception):
    """Base of every exception this package raises on purpose."""


class LocalProtocolError(ProtoError):
    """Our own caller asked for something the protocol or the session's state forbids."""


class RemoteProtocolError(ProtoError):
    """The peer broke the protocol."""


class CodecErrorCode(enum.Enum):
    """Why bytes are no frame (or cannot become one). The value is the name used on the wire."""

    UNEXPECTED_EOF = "UnexpectedEof"
    """The bytes end inside a varint, a body or a payload."""
    VARINT_OVERFLOW = "VarintOverflow"
    """The tenth byte of a varint still announces another one."""
    FRAME_TOO_LARGE = "FrameTooLarge"
    """The body is, or is announced, longer than the limit."""
    INVALID_FRAME_TYPE = "InvalidFrameType"
    """No frame type has this code."""
    CHANNEL_ID_TOO_LARGE = "ChannelIdTooLarge"
    """The channel does not fit 32 bits."""
    SEQUENCE_TOO_LARGE = "SequenceTooLarge"
    """The sequence does not fit 32 bits."""
    PAYLOAD_TOO_LARGE = "PayloadTooLarge"
    """The payload is, or is announced, longer than the limit."""
    CONTROL_TOO_LARGE = "ControlTooLarge"
    """The JSON text of a control frame is longer than the limit."""
    INVALID_CONTROL_JSON = "InvalidControlJson"
    """The payload of a control frame is not JSON, or not of the shape its type asks for."""

    @property
    def text(self) -> str:
        """What a person is told; the same words as every other CCP-1 implementation."""
        return _TEXTS[self]


_TEXTS = {
    CodecErrorCode.UNEXPECTED_EOF: "unexpected end of frame",
    CodecErrorCode.VARINT_OVERFLOW: "varint overflow",
    CodecErrorCode.FRAME_TOO_LARGE: "frame exceeds limits",
    CodecErrorCode.INVALID_FRAME_TYPE: "invalid frame type",
    CodecErrorCode.CHANNEL_ID_TOO_LARGE: "channel id exceeds limits",
    CodecErrorCode.SEQUENCE_TOO_LARGE: "sequence exceeds limits",
    CodecErrorCode.PAYLOAD_TOO_LARGE: "payload exceeds limits",
    CodecErrorCode.CONTROL_TOO_LARGE: "control payload exceeds limits",
    CodecErrorCode.INVALID_CONTROL_JSON: "invalid control payload",
}


class CodecError(RemoteProtocolError):
    """Bytes that are no frame, or a frame that has no bytes.

    ``detail`` may name the place (``"media.audio.bitrate: not an integer"``). It never
    repeats what the peer sent, so it can be logged and told.
    """

    def __init__(self, code: CodecErrorCode, detail: str | None = None) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return self.code.text if self.detail is None else f"{self.code.text}: {self.detail}"
