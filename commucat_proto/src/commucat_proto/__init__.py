"""The CCP-1 protocol without I/O: bytes in, events out.

Frames and their codec, control messages, the session state machines of both sides, and the
sealed envelope of our own clients (:mod:`commucat_proto.sealing`). Nothing in here waits,
reads a clock or opens a socket; docs/protocol.md describes what it speaks.
"""

from commucat_proto import json_text
from commucat_proto.client_session import (
    ClientParameters,
    ClientSession,
    ClientState,
)
from commucat_proto.decoder import (
    FrameDecoder,
)
from commucat_proto.delivery_status import (
    DELIVERY_STATUS_EVENT,
    MAX_REPORTED,
    MESSAGE_ID_DIGITS,
    REPORT_CHANNEL,
    DeliveryReport,
    DeliveryStatus,
    ExpiryReason,
    is_delivery_report,
    is_message_id,
    read_delivery_report,
)
from commucat_proto.errors import (
    CodecError,
    CodecErrorCode,
    LocalProtocolError,
    ProtoError,
    RemoteProtocolError,
)
from commucat_proto.events import (
    AuthReceived,
    ClientEvent,
    ClientProved,
    Established,
    FrameRefused,
    FramesReceived,
    HandshakeFailed,
    HelloReceived,
    PeerClosed,
    Refused,
    ServerEvent,
    SessionFailed,
)
from commucat_proto.frames import (
    MAX_CHANNEL_ID,
    MAX_CONTROL_JSON_LEN,
    MAX_FRAME_LEN,
    MAX_SEQUENCE,
    PROTOCOL_VERSION,
    SUPPORTED_VERSIONS,
    Frame,
    FrameType,
    RefusedFrame,
    decode_frame,
    encode_frame,
    negotiate_version,
)
from commucat_proto.hello import (
    DELIVERY_ACK,
    DELIVERY_STATUS,
    SELF_COPY,
    SEND_ONLY,
    HandshakeDetail,
    HandshakeRefusedError,
    Hello,
    Resume,
    UserHint,
)
from commucat_proto.secure_stream import (
    CipherStreamError,
    SecureStream,
)
from commucat_proto.server_session import (
    ServerKey,
    ServerParameters,
    ServerSession,
    ServerState,
)
from commucat_proto.varint import (
    decode_varint,
    encode_varint,
    read_varint,
)

__all__ = [
    "DELIVERY_ACK",
    "DELIVERY_STATUS",
    "DELIVERY_STATUS_EVENT",
    "MAX_CHANNEL_ID",
    "MAX_CONTROL_JSON_LEN",
    "MAX_FRAME_LEN",
    "MAX_REPORTED",
    "MAX_SEQUENCE",
    "MESSAGE_ID_DIGITS",
    "PROTOCOL_VERSION",
    "REPORT_CHANNEL",
    "SELF_COPY",
    "SEND_ONLY",
    "SUPPORTED_VERSIONS",
    "AuthReceived",
    "CipherStreamError",
    "ClientEvent",
    "ClientParameters",
    "ClientProved",
    "ClientSession",
    "ClientState",
    "CodecError",
    "CodecErrorCode",
    "DeliveryReport",
    "DeliveryStatus",
    "Established",
    "ExpiryReason",
    "Frame",
    "FrameDecoder",
    "FrameRefused",
    "FrameType",
    "FramesReceived",
    "HandshakeDetail",
    "HandshakeFailed",
    "HandshakeRefusedError",
    "Hello",
    "HelloReceived",
    "LocalProtocolError",
    "PeerClosed",
    "ProtoError",
    "Refused",
    "RefusedFrame",
    "RemoteProtocolError",
    "Resume",
    "SecureStream",
    "ServerEvent",
    "ServerKey",
    "ServerParameters",
    "ServerSession",
    "ServerState",
    "SessionFailed",
    "UserHint",
    "decode_frame",
    "decode_varint",
    "encode_frame",
    "encode_varint",
    "is_delivery_report",
    "is_message_id",
    "json_text",
    "negotiate_version",
    "read_delivery_report",
    "read_varint",
]
