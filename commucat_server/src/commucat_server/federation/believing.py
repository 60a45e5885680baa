"""Which events of other servers are believed: signed by a known peer, for this server, and of our time."""

from collections.abc import Callable
from typing import Final

from commucat_proto.federation import Event, EventFormatError, EventVerificationError, SignedEvent
from commucat_server.federation import problems
from commucat_server.federation.event_window import EventWindow
from commucat_server.federation.peers import KnownPeer, PeerDirectory

_RELAY: Final = "relay"
"""The scope of events that are for whoever gets them; some peers write it."""


class EventGate:
    """One per server."""

    def __init__(
        self, domain: str, directory: PeerDirectory, window: EventWindow, clock: Callable[[], float]
    ) -> None:
        """``domain``: ours, in lower case."""
        self._domain = domain
        self._directory = directory
        self._window = window
        self._clock = clock

    def believed(self, body: bytes) -> tuple[KnownPeer, Event]:
        """The event of a body, and the peer that it is from.

        Raises:
            RefusedEventError: it is not to be believed.
        """
        if not body:
            raise problems.EMPTY.raised()
        try:
            signed = SignedEvent.decode(body)
        except EventFormatError as exc:
            raise problems.UNREADABLE.raised() from exc
        event = signed.event
        peer = self._directory.get(event.origin)
        if peer is None:
            raise problems.UNKNOWN_PEER.raised()
        if not any(_is_signed_by(signed, key) for key in peer.keys):
            raise problems.SIGNATURE.raised()
        # Its digest does not tell where origin ends and scope begins: both are compared as wholes.
        if event.scope.lower() not in (self._domain, _RELAY):
            raise problems.SCOPE.raised()
        if not self._window.takes(event.created_at, self._clock()):
            raise problems.CLOCK.raised()
        return peer, event


def _is_signed_by(signed: SignedEvent, key: bytes) -> bool:
    try:
        signed.verify(key)
    except EventVerificationError:
        return False
    return True
