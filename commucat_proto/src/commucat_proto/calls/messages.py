"""The call control messages: what CallOffer, CallAnswer, CallEnd, CallStats and
TransportUpdate frames carry (docs/protocol.md, "Call control messages").
"""

import enum
from typing import Any, ClassVar, Self, TypeAlias, cast, get_args

import attrs

from commucat_proto.calls.media_profile import (
    DEFAULT_PROFILE,
    AudioCodec,
    CallMediaProfile,
    Hardware,
    SourceMode,
    VideoCodec,
)
from commucat_proto.calls.media_updates import (
    ActiveSpeakers,
    CongestionReport,
    DeviceStreams,
    KeyFrameRequest,
    ReceiveSelection,
)
from commucat_proto.calls.transport import CallTransport, TransportCandidate, TransportCandidateRef
from commucat_proto.calls.wire_struct import (
    ANY,
    BOOL,
    F32,
    TEXT,
    U8,
    U16,
    U32,
    U64,
    Shape,
    WireStruct,
    array,
    checked,
    choice,
    optional,
    struct,
    wire,
)
from commucat_proto.errors import LocalProtocolError
from commucat_proto.frames import Frame, FrameType
from commucat_proto.json_text import JsonValue, round_f32


class RejectReason(enum.Enum):
    """Why a call is not taken."""

    BUSY = "busy"
    DECLINE = "decline"
    UNSUPPORTED = "unsupported"
    TIMEOUT = "timeout"
    ERROR = "error"


class EndReason(enum.Enum):
    """Why a call is over."""

    HANGUP = "hangup"
    CANCEL = "cancel"
    FAILURE = "failure"
    TIMEOUT = "timeout"


class StreamDirection(enum.Enum):
    """Whose media statistics speak of: sent or received by the reporter."""

    SEND = "send"
    RECEIVE = "receive"


class CallMessage(WireStruct):
    """Base of the five messages; ``frame_type`` is the frame that carries one."""

    __slots__ = ()

    frame_type: ClassVar[FrameType]

    def to_frame(self, channel: int, sequence: int) -> Frame:
        """The message as a frame.

        Raises:
            LocalProtocolError: free-form metadata that is no JSON.
        """
        return Frame.of_control(self.frame_type, channel, sequence, self.to_wire())


_OPTIONAL_PROFILE = wire(optional(struct(CallMediaProfile)))
_OPTIONAL_TRANSPORT = wire(optional(struct(CallTransport)))
_OPTIONAL_SOURCE = wire(optional(choice(SourceMode)))
_OPTIONAL_HARDWARE = wire(optional(choice(Hardware)))
_OPTIONAL_TEXT = wire(optional(TEXT))
_OPTIONAL_U32 = wire(optional(U32))
_OPTIONAL_U64 = wire(optional(U64))


@attrs.frozen(kw_only=True, field_transformer=checked)
class CallOffer(CallMessage):
    """Asks devices into a call. ``expires_at`` in Unix seconds.

    ``sender`` (member ``from``) and ``to`` are what the caller claims; a server checks them
    against the session and the channel.
    """

    frame_type: ClassVar[FrameType] = FrameType.CALL_OFFER

    call_id: str = attrs.field(metadata=wire(TEXT))
    sender: str = attrs.field(metadata=wire(TEXT, name="from"))
    to: tuple[str, ...] = attrs.field(metadata=wire(array(TEXT)))
    media: CallMediaProfile = attrs.field(default=DEFAULT_PROFILE, metadata=wire(struct(CallMediaProfile)))
    metadata: JsonValue = attrs.field(default=None, metadata=wire(ANY))
    transport: CallTransport | None = attrs.field(default=None, metadata=_OPTIONAL_TRANSPORT)
    expires_at: int | None = attrs.field(default=None, metadata=_OPTIONAL_U64)
    ephemeral_key: str | None = attrs.field(default=None, repr=False, metadata=_OPTIONAL_TEXT)


@attrs.frozen(kw_only=True, field_transformer=checked)
class CallAnswer(CallMessage):
    """Takes a call, or rejects it with a ``reason``."""

    frame_type: ClassVar[FrameType] = FrameType.CALL_ANSWER

    call_id: str = attrs.field(metadata=wire(TEXT))
    accept: bool = attrs.field(metadata=wire(BOOL))
    media: CallMediaProfile | None = attrs.field(default=None, metadata=_OPTIONAL_PROFILE)
    transport: CallTransport | None = attrs.field(default=None, metadata=_OPTIONAL_TRANSPORT)
    reason: RejectReason | None = attrs.field(default=None, metadata=wire(optional(choice(RejectReason))))
    metadata: JsonValue = attrs.field(default=None, metadata=wire(ANY))
    selected_audio_codec: AudioCodec | None = attrs.field(
        default=None, metadata=wire(optional(choice(AudioCodec)))
    )
    selected_video_codec: VideoCodec | None = attrs.field(
        default=None, metadata=wire(optional(choice(VideoCodec)))
    )
    audio_source: SourceMode | None = attrs.field(default=None, metadata=_OPTIONAL_SOURCE)
    video_source: SourceMode | None = attrs.field(default=None, metadata=_OPTIONAL_SOURCE)
    video_hardware: Hardware | None = attrs.field(default=None, metadata=_OPTIONAL_HARDWARE)


@attrs.frozen(kw_only=True, field_transformer=checked)
class CallEnd(CallMessage):
    """Ends a call for everybody in it."""

    frame_type: ClassVar[FrameType] = FrameType.CALL_END

    call_id: str = attrs.field(metadata=wire(TEXT))
    reason: EndReason = attrs.field(metadata=wire(choice(EndReason)))
    metadata: JsonValue = attrs.field(default=None, metadata=wire(ANY))


@attrs.frozen(kw_only=True, field_transformer=checked)
class MediaStreamStats(WireStruct):
    """One stream's quality: ``bitrate`` in bit/s, ``packet_loss`` a fraction, times in ms.

    ``packet_loss`` is a 32-bit float on the wire, so 0.012 comes back as
    0.012000000104308128.
    """

    bitrate: int = attrs.field(metadata=wire(U32))
    packet_loss: float = attrs.field(default=0.0, converter=round_f32, metadata=wire(F32))
    jitter_ms: int = attrs.field(default=0, metadata=wire(U32))
    rtt_ms: int | None = attrs.field(default=None, metadata=_OPTIONAL_U32)
    frames_per_second: int | None = attrs.field(default=None, metadata=wire(optional(U8)))
    key_frames: int | None = attrs.field(default=None, metadata=_OPTIONAL_U32)
    codec: str | None = attrs.field(default=None, metadata=_OPTIONAL_TEXT)
    source: SourceMode | None = attrs.field(default=None, metadata=_OPTIONAL_SOURCE)
    hardware: Hardware | None = attrs.field(default=None, metadata=_OPTIONAL_HARDWARE)


_OPTIONAL_STATS = wire(optional(struct(MediaStreamStats)))


@attrs.frozen(kw_only=True, field_transformer=checked)
class CallStats(CallMessage):
    """How a side's streams are doing. ``timestamp`` in Unix seconds."""

    frame_type: ClassVar[FrameType] = FrameType.CALL_STATS

    call_id: str = attrs.field(metadata=wire(TEXT))
    direction: StreamDirection = attrs.field(metadata=wire(choice(StreamDirection)))
    audio: MediaStreamStats | None = attrs.field(default=None, metadata=_OPTIONAL_STATS)
    video: MediaStreamStats | None = attrs.field(default=None, metadata=_OPTIONAL_STATS)
    timestamp: int | None = attrs.field(default=None, metadata=_OPTIONAL_U64)


@attrs.frozen(kw_only=True, field_transformer=checked)
class NewCandidate(WireStruct):
    """One more candidate of the sender (trickle ICE)."""

    name: ClassVar[str] = "candidate"

    candidate: TransportCandidate = attrs.field(metadata=wire(struct(TransportCandidate)))


@attrs.frozen(kw_only=True, field_transformer=checked)
class SelectedCandidatePair(WireStruct):
    """The pair the sender uses from now on."""

    name: ClassVar[str] = "selected_candidate_pair"

    local: TransportCandidateRef = attrs.field(metadata=wire(struct(TransportCandidateRef)))
    remote: TransportCandidateRef = attrs.field(metadata=wire(struct(TransportCandidateRef)))
    rtt_ms: int | None = attrs.field(default=None, metadata=_OPTIONAL_U32)


@attrs.frozen(kw_only=True, field_transformer=checked)
class ConsentKeepalive(WireStruct):
    """The sender still wants media (RFC 7675); the next word within ``interval_secs``."""

    name: ClassVar[str] = "consent_keepalive"

    interval_secs: int | None = attrs.field(default=None, metadata=wire(optional(U16)))


CallUpdate: TypeAlias = (
    NewCandidate
    | SelectedCandidatePair
    | ConsentKeepalive
    | ReceiveSelection
    | KeyFrameRequest
    | ActiveSpeakers
    | DeviceStreams
    | CongestionReport
)
"""Everything that a TransportUpdate can say."""

_KINDS: tuple[type[CallUpdate], ...] = get_args(CallUpdate)
_UPDATES: dict[str, type[CallUpdate]] = {kind.name: kind for kind in _KINDS}


def _check_update(value: object) -> None:
    if not isinstance(value, _KINDS):
        raise ValueError("not an update")


@attrs.frozen(kw_only=True, field_transformer=checked)
class CallTransportUpdate(CallMessage):
    """A change of a running call's transport.

    On the wire one flat object: ``call_id``, ``update`` with the name of the kind, and the
    kind's own members beside them.
    """

    frame_type: ClassVar[FrameType] = FrameType.TRANSPORT_UPDATE

    call_id: str = attrs.field(metadata=wire(TEXT))
    update: CallUpdate = attrs.field(metadata=wire(Shape(_check_update)))

    @classmethod
    def _read(cls, value: object) -> Self:
        if not isinstance(value, dict):
            raise ValueError("not an object")
        name = value.get("update")
        kind = _UPDATES.get(name) if isinstance(name, str) else None
        if kind is None:
            raise ValueError("update: missing or not the name of one")
        if "call_id" not in value:
            raise ValueError("call_id: missing")
        return cls(call_id=cast("Any", value["call_id"]), update=kind._read(value))

    def to_wire(self) -> dict[str, JsonValue]:
        return {"call_id": self.call_id, "update": self.update.name, **self.update.to_wire()}


_MESSAGES: tuple[type[CallMessage], ...] = (CallOffer, CallAnswer, CallEnd, CallStats, CallTransportUpdate)
_BY_FRAME_TYPE: dict[FrameType | str, type[CallMessage]] = {
    **{message.frame_type: message for message in _MESSAGES},
    **{message.frame_type.wire_name: message for message in _MESSAGES},
    **{message.__name__: message for message in _MESSAGES},
}


def decode_call_message(frame_type: FrameType | str, value: JsonValue) -> CallMessage:
    """Read the control value of a call frame.

    ``frame_type`` may also be the frame's or the message's name (``"TransportUpdate"``,
    ``"CallTransportUpdate"``).

    Raises:
        CodecError: InvalidControlJson.
        LocalProtocolError: the type carries no call message.
    """
    message = _BY_FRAME_TYPE.get(frame_type)
    if message is None:
        raise LocalProtocolError(f"{frame_type!r} is no call control message")
    return message.from_wire(value)
