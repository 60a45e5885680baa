"""Who is connected. The one owner of that fact."""

from collections.abc import Iterator, Mapping
from typing import Any

from commucat_server.routing.live import LiveSession

REVOKED = {"error": "revoked", "title": "Device revoked", "detail": "this device was revoked"}
KEY_CHANGED = {
    "error": "key_changed",
    "title": "Device key changed",
    "detail": "connect again with the new key",
    "retry": True,
}
ENDED = {
    "error": "ended",
    "title": "Session ended",
    "detail": "its token is not valid any more; connect again",
    "retry": True,
}
RENEWED = {"error": "renewed", "title": "Inbox renewed", "detail": "connect again", "retry": True}
REPLACED = {"error": "replaced", "title": "Session replaced", "detail": "a newer session took over"}


class Arrival:
    """Notices what is committed for a device until its session is attached.

    Begun before the device's admission is committed, the greater of ``head`` and the admission's own number
    is the newest that the store has: a session that stands there need not look.
    """

    __slots__ = ("_all", "_device_id", "claim", "head")

    def __init__(self, everybody: dict[str, list["Arrival"]], device_id: str) -> None:
        self.head = 0
        """The highest inbox number that was told since."""
        self.claim = 0
        """The highest claim of other nodes that was told since."""
        self._all = everybody
        self._device_id = device_id
        everybody.setdefault(device_id, []).append(self)

    def end(self) -> None:
        """Notice nothing more. Again has no effect."""
        others = [each for each in self._all.get(self._device_id, ()) if each is not self]
        if others:
            self._all[self._device_id] = others
        else:
            self._all.pop(self._device_id, None)


class Registry:
    """All live sessions; at most one per device receives."""

    def __init__(self) -> None:
        self._receivers: dict[str, LiveSession] = {}
        self._sessions: set[LiveSession] = set()
        self._closing: Mapping[str, Any] | None = None
        self._arrivals: dict[str, list[Arrival]] = {}

    def attach(self, session: LiveSession, arrival: Arrival | None = None) -> None:
        """Enter a session. A receiving one replaces the device's older one, which is told.

        So is one that counts in an earlier epoch: the new numbers mean nothing to it. Where sessions have
        claims the higher one is the newer; ``arrival`` knows of those on other nodes.
        """
        self._sessions.add(session)
        older = self._receivers.get(session.device_id)
        if session.receives:
            if older is not None and older.claim > session.claim:
                session.end(REPLACED)
            else:
                self._receivers[session.device_id] = session
                if older is not None:
                    older.end(REPLACED)
                if arrival is not None:
                    self.displace(session.device_id, arrival.claim)
        elif older is not None and older.epoch != session.epoch:
            older.end(RENEWED)
        if self._closing is not None:
            session.end(self._closing)

    def detach(self, session: LiveSession) -> bool:
        """Remove exactly this session; True if its device has no receiver any more."""
        self._sessions.discard(session)
        session.close()
        if self._receivers.get(session.device_id) is session:
            del self._receivers[session.device_id]
            return True
        return False

    def receiver(self, device_id: str) -> LiveSession | None:
        """The device's receiving session on this server, if it is connected."""
        return self._receivers.get(device_id)

    def expect(self, device_id: str) -> Arrival:
        """The device is about to be admitted; the caller ends the arrival."""
        return Arrival(self._arrivals, device_id)

    def committed(self, device_id: str, number: int) -> LiveSession | None:
        """Note a message for the device; return its receiving session, as :meth:`receiver` does."""
        if self._arrivals:
            for arrival in self._arrivals.get(device_id, ()):
                arrival.head = max(arrival.head, number)
        return self._receivers.get(device_id)

    def suspect(self, device_id: str, number: int) -> None:
        """Another node says that it has committed messages for the device up to ``number``."""
        session = self.committed(device_id, number)
        if session is not None:
            session.suspect(number)

    def displace(self, device_id: str, claim: int) -> bool:
        """Another node says that a session of the device has claimed it under this number; True if that
        ends one here."""
        for arrival in self._arrivals.get(device_id, ()):
            arrival.claim = max(arrival.claim, claim)
        session = self._receivers.get(device_id)
        if session is None or session.claim >= claim or session.displaced:
            return False
        session.displaced = True
        session.end(REPLACED)
        return True

    def end_device(self, device_id: str, error: Mapping[str, Any]) -> None:
        """End every session of a device."""
        for session in self._sessions:
            if session.device_id == device_id:
                session.end(error)

    def end_all(self, error: Mapping[str, Any]) -> None:
        """End everything, and whatever still comes."""
        self._closing = error
        for session in self._sessions:
            session.end(error)

    def __iter__(self) -> Iterator[LiveSession]:
        return iter(tuple(self._sessions))

    def __len__(self) -> int:
        return len(self._sessions)
