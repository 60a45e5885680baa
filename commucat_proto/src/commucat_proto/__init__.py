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
    decode_frame,
    encode_frame,
    negotiate_version,
)
from commucat_proto.hello import (
    DELIVERY_ACK,
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
    "MAX_CHANNEL_ID",
    "MAX_CONTROL_JSON_LEN",
    "MAX_FRAME_LEN",
    "MAX_SEQUENCE",
    "PROTOCOL_VERSION",
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
    "Established",
    "Frame",
    "FrameDecoder",
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
    "json_text",
    "negotiate_version",
    "read_varint",
]
