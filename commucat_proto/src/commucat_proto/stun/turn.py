"""Credentials that a TURN server derives from a shared secret, and channels (RFC 8656, section 12.4).

The form of the credentials is that of coturn's ``use-auth-secret``: the name says until when it is good.
"""

import base64
import hmac
import struct

from commucat_proto.errors import LocalProtocolError
from commucat_proto.stun.errors import StunError, StunFault

MIN_CHANNEL, MAX_CHANNEL = 0x4000, 0x4FFF
MAX_UNIX = 2**63 - 1


def turn_username(expires_at: int, fragment: str) -> str:
    """The name of a user until ``expires_at`` (Unix seconds).

    Raises:
        LocalProtocolError: the time is none.
    """
    if not 0 <= expires_at <= MAX_UNIX:
        raise LocalProtocolError("the end of a TURN credential is no time")
    return f"{expires_at}:{fragment}"


def turn_credential(secret: str, username: str) -> str:
    """The password for a name: Base64 of HMAC-SHA1, keyed by the secret in UTF-8."""
    return base64.b64encode(hmac.digest(secret.encode(), username.encode(), "sha1")).decode()


def channel_data(channel: int, data: bytes) -> bytes:
    """A ChannelData message for a datagram, without padding.

    Raises:
        LocalProtocolError: the channel is not from 0x4000 to 0x4FFF, or the data is too long.
    """
    if not MIN_CHANNEL <= channel <= MAX_CHANNEL or len(data) > 0xFFFF:
        raise LocalProtocolError("ChannelData needs a channel from 0x4000 to 0x4FFF and at most 65535 bytes")
    return struct.pack("!HH", channel, len(data)) + data


def read_channel_data(datagram: bytes) -> tuple[int, bytes]:
    """Channel and data.

    Raises:
        StunError: the datagram is no ChannelData.
    """
    if len(datagram) < 4:
        raise StunError(StunFault.SHORT)
    channel, length = struct.unpack_from("!HH", datagram)
    if not MIN_CHANNEL <= channel <= MAX_CHANNEL:
        raise StunError(StunFault.TYPE)
    if 4 + length > len(datagram):
        raise StunError(StunFault.LENGTH)
    return channel, datagram[4 : 4 + length]
