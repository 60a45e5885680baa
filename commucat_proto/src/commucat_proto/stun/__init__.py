"""STUN messages (RFC 8489), the TURN requests that build on them (RFC 8656), and ICE-lite. No I/O."""

from commucat_proto.stun.addresses import (
    SocketAddress,
    address_value,
    format_address,
    xor_address,
    xor_address_value,
)
from commucat_proto.stun.attributes import (
    AttributeType,
    ErrorCode,
    error_value,
    parse_error,
    parse_unknown,
    unknown_value,
)
from commucat_proto.stun.errors import StunError, StunFault
from commucat_proto.stun.ice_lite import (
    HOST_PRIORITY,
    SOFTWARE,
    binding_answer,
    binding_request,
    foundation,
    host_candidate,
    is_binding_request,
)
from commucat_proto.stun.integrity import Integrity, long_term_key, seal, verify
from commucat_proto.stun.message import (
    HEADER_LEN,
    MAGIC_COOKIE,
    Attribute,
    Kind,
    Method,
    StunMessage,
    decode,
)
from commucat_proto.stun.turn import (
    channel_data,
    read_channel_data,
    turn_credential,
    turn_username,
)

__all__ = [
    "HEADER_LEN",
    "HOST_PRIORITY",
    "MAGIC_COOKIE",
    "SOFTWARE",
    "Attribute",
    "AttributeType",
    "ErrorCode",
    "Integrity",
    "Kind",
    "Method",
    "SocketAddress",
    "StunError",
    "StunFault",
    "StunMessage",
    "address_value",
    "binding_answer",
    "binding_request",
    "channel_data",
    "decode",
    "error_value",
    "format_address",
    "foundation",
    "host_candidate",
    "is_binding_request",
    "long_term_key",
    "parse_error",
    "parse_unknown",
    "read_channel_data",
    "seal",
    "turn_credential",
    "turn_username",
    "unknown_value",
    "verify",
    "xor_address",
    "xor_address_value",
]
