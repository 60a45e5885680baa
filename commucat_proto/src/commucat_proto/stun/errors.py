"""What can be wrong with a datagram that claims to be STUN."""

import enum

from commucat_proto.errors import RemoteProtocolError


class StunFault(enum.Enum):
    """Why bytes are no STUN message, or an attribute is not what its type says."""

    SHORT = "shorter than a header"
    TYPE = "the first two bits are not zero"
    LENGTH = "the announced length is not that of the datagram"
    COOKIE = "wrong magic cookie"
    ATTRIBUTE = "an attribute is longer than its message"
    TOO_MANY = "too many attributes"
    VALUE = "the value of an attribute has a wrong shape"
    FINGERPRINT = "wrong fingerprint"


class StunError(RemoteProtocolError):
    """Bytes that are no STUN message; never repeats what the peer sent."""

    def __init__(self, fault: StunFault) -> None:
        super().__init__(fault.value)
        self.fault = fault
