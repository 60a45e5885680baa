"""What the STUN responder answers: bytes and an address in, bytes out (RFC 8489, sections 6.3 and 9.1.3)."""

from collections.abc import Callable
from typing import Final

import attrs

from commucat_proto import stun
from commucat_proto.stun import Attribute, AttributeType, ErrorCode
from commucat_server.nat.credentials import IceCredentials
from commucat_server.ops.counters import Counters, count
from commucat_server.security.rate import RateLimit, identity_of

MAX_DATAGRAM: Final = 2048
"""Bytes. Longer ones are cut by the kernel, and a cut message is none."""
MAX_GROWTH: Final = 40
"""An answer to somebody who has not proved himself is at most so many bytes longer than his request: whoever
forges the sender's address gains next to nothing by it (IPv6, with FINGERPRINT: 32)."""
_UNDERSTOOD: Final = frozenset(
    {
        AttributeType.USERNAME,
        AttributeType.MESSAGE_INTEGRITY,
        AttributeType.MESSAGE_INTEGRITY_SHA256,
        AttributeType.PRIORITY,
        AttributeType.USE_CANDIDATE,
    }
)
"""Attributes that a receiver must not pass over if it does not know them have types below 0x8000."""
_MOST_NAMED: Final = 8
"""Types that an answer names, so that it stays short."""


@attrs.define(eq=False)
class Responder:
    """Answers Binding requests with the address that they came from.

    Args:
        credentials: that clients may prove themselves with.
        public: the server's own address, for ICE-CONTROLLED in answers to those who did.
        rate: answers to one address.
        counters: of the server.
    """

    credentials: IceCredentials
    public: stun.SocketAddress
    rate: RateLimit
    counters: Counters

    def answer(self, datagram: bytes, sender: stun.SocketAddress) -> bytes | None:
        """The answer to send to ``sender``; ``None``: nothing is sent.

        What is no Binding request is ignored; what is one and has a broken form is counted as a failure.
        """
        try:
            if not stun.is_binding_request(datagram):
                return None
            self.counters.ice_binding_requests += 1
            if self.rate.take(identity_of(str(sender.ip))) > 0.0:
                self._fail("limited")
                return None
            request, _ = stun.verify(datagram)
        except stun.StunError:
            self._fail("malformed")
            return None
        return self._answer(datagram, request, sender)

    def _answer(self, datagram: bytes, request: stun.StunMessage, sender: stun.SocketAddress) -> bytes | None:
        # It was the last attribute, or the message would not have been taken.
        fingerprint = stun.decode(datagram).first(AttributeType.FINGERPRINT) is not None
        username = request.first(AttributeType.USERNAME)
        sealed = any(request.first(each.value) is not None for each in stun.Integrity)
        if (username is None) == sealed:
            return self._refuse(request, ErrorCode.BAD_REQUEST, "Bad Request", fingerprint)
        key: bytes | None = None
        proved: stun.Integrity | None = None
        if username is not None:
            key = self.credentials.password_of(username)
            proved = None if key is None else stun.verify(datagram, key)[1]
            if proved is None:
                return self._refuse(request, ErrorCode.UNAUTHENTICATED, "Unauthenticated", fingerprint)
        unknown = [
            each.type for each in request.attributes if each.type < 0x8000 and each.type not in _UNDERSTOOD
        ]
        if unknown:
            extra = Attribute(AttributeType.UNKNOWN_ATTRIBUTES, stun.unknown_value(unknown[:_MOST_NAMED]))
            return self._refuse(request, ErrorCode.UNKNOWN_ATTRIBUTE, "Unknown Attribute", fingerprint, extra)
        if proved is None:
            answer = stun.binding_answer(request.transaction, sender)
            return stun.seal(answer, fingerprint=fingerprint)
        answer = stun.binding_answer(request.transaction, sender, self.public)
        # RFC 8445, section 7.1.3: checks of connectivity have both.
        return stun.seal(answer, key=key, integrity=proved, fingerprint=True)

    def _refuse(
        self,
        request: stun.StunMessage,
        code: ErrorCode,
        reason: str,
        fingerprint: bool,
        *extra: Attribute,
    ) -> bytes:
        # Without integrity, as the RFC has it for these codes: there is no key both sides share.
        self._fail(str(code.value))
        refusal = stun.StunMessage(
            kind=stun.Kind.ERROR,
            method=stun.Method.BINDING,
            transaction=request.transaction,
            attributes=(Attribute(AttributeType.ERROR_CODE, stun.error_value(code, reason)), *extra),
        )
        return stun.seal(refusal, fingerprint=fingerprint)

    def _fail(self, why: str) -> None:
        self.counters.ice_binding_failures += 1
        count(self.counters.ice_failures, why)


def rate_limit(per_second: int, clock: Callable[[], float]) -> RateLimit:
    """Answers to one address."""
    return RateLimit(burst=per_second, period=1.0, clock=clock)
