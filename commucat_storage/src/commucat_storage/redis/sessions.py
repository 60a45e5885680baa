"""The live sessions of this node, as other nodes see them: ``route:<device>`` and ``presence:<device>``."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, TypeVar

import attrs

from commucat_storage.redis.connection import Reply
from commucat_storage.redis.link import Command, Link
from commucat_storage.redis.trouble import TroubleError

T = TypeVar("T")

ONLINE: Final = "online"
OFFLINE: Final = "offline"
CHUNK: Final = 100
"""Sessions of one script call: neither Redis nor this process is busy with it for more than a millisecond."""
MAX_ENDED: Final = 20_000
"""Sessions that ended while Redis was away; of more, the entries expire by themselves."""

# KEYS: route and presence of each device. ARGV: the lifetime in seconds, then for each device "1" to take
# the device over or "0" to renew what is ours, the route, the presence.
_ANNOUNCE: Final = """
for i = 1, #KEYS, 2 do
  local a = 2 + (i - 1) / 2 * 3
  local mine = ARGV[a + 1]
  local held = ARGV[a] == '0' and redis.pcall('GET', KEYS[i])
  if type(held) ~= 'string' or held == mine then
    redis.call('SET', KEYS[i], mine, 'EX', ARGV[1])
    redis.call('SET', KEYS[i + 1], ARGV[a + 2], 'EX', ARGV[1])
  end
end
return #KEYS / 2
"""
# KEYS as above. ARGV: the lifetime, then for each device the route and the last presence.
_END: Final = """
local ended = 0
for i = 1, #KEYS, 2 do
  local a = 2 + (i - 1)
  if redis.pcall('GET', KEYS[i]) == ARGV[a] then
    redis.call('DEL', KEYS[i])
    redis.call('SET', KEYS[i + 1], ARGV[a + 1], 'EX', ARGV[1])
    ended = ended + 1
  end
end
return ended
"""


def route_key(device: str) -> bytes:
    return f"route:{device}".encode("utf-8", "surrogatepass")


def presence_key(device: str) -> bytes:
    return f"presence:{device}".encode("utf-8", "surrogatepass")


@attrs.define
class _Session:
    session_hash: str
    state: str = ONLINE
    user: Mapping[str, Any] | None = None
    heard: bool = False
    """Redis has taken it in: from now on it is renewed only where nobody else has taken over."""


class SessionTable:
    """A :class:`Source` that announces sessions, renews them in time, and takes back those that ended.

    The order of two nodes that take the same device over is theirs to settle in the database: the loser
    forgets its session, and the winner's next renewal sets the route again.
    """

    def __init__(
        self, link: Link, *, node: str, ttl: int, interval: float, clock: Callable[[], float]
    ) -> None:
        self._link = link
        self._node = node
        self._ttl = ttl
        self._interval = interval
        self._clock = clock
        self._live: dict[str, _Session] = {}
        # To be announced. Dictionaries keep the order.
        self._due: dict[str, None] = {}
        self._ended: dict[str, _Session] = {}
        self._renew_at = math.inf

    def note(self, device: str, session_hash: str) -> None:
        """A session begins; it takes the device over from whatever was noted before."""
        self._live[device] = _Session(session_hash)
        self._announce(device)

    def describe(self, device: str, state: str, user: Mapping[str, Any] | None) -> None:
        """Set the presence of a device; without effect unless its session is live here."""
        session = self._live.get(device)
        if session is not None:
            session.state, session.user = state, user
            self._announce(device)

    def forget(self, device: str, session_hash: str) -> None:
        """A session has ended."""
        session = self._live.get(device)
        if session is None or session.session_hash != session_hash:
            return
        del self._live[device]
        self._due.pop(device, None)
        self._end(device, session)
        self._link.wake()

    def forget_all(self) -> None:
        """The node ends."""
        for device, session in tuple(self._live.items()):
            self.forget(device, session.session_hash)

    def __len__(self) -> int:
        return len(self._live)

    def _announce(self, device: str) -> None:
        self._due[device] = None
        self._link.wake()

    def _end(self, device: str, session: _Session) -> None:
        self._ended[device] = session
        while len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]

    # -- for the link ---------------------------------------------------------------------------------

    def take(self, now: float) -> list[Command]:
        if now >= self._renew_at:
            self._due.update(dict.fromkeys(self._live))
            self._renew_at = now + self._interval if self._live else math.inf
        elif self._live and self._renew_at == math.inf:
            self._renew_at = now + self._interval
        # First what ended: a device may have come back meanwhile.
        return [command for command in (self._take_ended(), self._take_due()) if command is not None]

    def next_time(self) -> float:
        return self._renew_at

    def connected(self) -> None:
        # The server may have been restarted empty, or be another one.
        self._due.update(dict.fromkeys(self._live))

    def disconnected(self, trouble: TroubleError) -> None:
        pass

    def _take_ended(self) -> Command | None:
        taken = _some(self._ended)
        if not taken:
            return None
        keys, arguments = self._keys(taken), [str(self._ttl)]
        for device, session in taken.items():
            arguments += [self._route(session), self._presence(device, session, OFFLINE)]

        def done(reply: Reply) -> None:
            # What the server refuses expires by itself; what it did not hear is said again.
            if isinstance(reply, TroubleError):
                for device, session in taken.items():
                    if device not in self._ended:
                        self._end(device, session)

        return Command(("EVAL", _END, len(keys), *keys, *arguments), done, writes=True)

    def _take_due(self) -> Command | None:
        taken = [(device, self._live[device]) for device in _some(self._due)]
        if not taken:
            return None
        keys, arguments = self._keys(device for device, _ in taken), [str(self._ttl)]
        for device, session in taken:
            presence = self._presence(device, session, session.state)
            arguments += ["0" if session.heard else "1", self._route(session), presence]

        def done(reply: Reply) -> None:
            if not isinstance(reply, Exception):
                for _, session in taken:
                    session.heard = True

        return Command(("EVAL", _ANNOUNCE, len(keys), *keys, *arguments), done, writes=True)

    def _keys(self, devices: Iterable[str]) -> list[bytes]:
        return [key for device in devices for key in (route_key(device), presence_key(device))]

    def _route(self, session: _Session) -> str:
        return f"{self._node}:{session.session_hash}"

    def _presence(self, device: str, session: _Session, state: str) -> str:
        user = None if session.user is None else dict(session.user)
        expires_at = datetime.fromtimestamp(int(self._clock()) + self._ttl, UTC).isoformat()
        return json.dumps(
            {"entity": device, "state": state, "expires_at": expires_at, "user": user}, separators=(",", ":")
        )


def _some(waiting: dict[str, T]) -> dict[str, T]:
    """Remove up to ``CHUNK`` entries, the oldest first."""
    return {key: waiting.pop(key) for key in list(islice(waiting, CHUNK))}
