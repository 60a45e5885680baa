"""Pairing codes in Redis: ``pairing:<CODE>``, so that every node can answer for a code without the database.

The database stays the authority: what is found here is still to be claimed there.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import attrs

from commucat_storage.redis.asks import Asks, UnansweredError


@attrs.frozen(kw_only=True)
class PairingCode:
    """Who offers a code, and until when it holds (seconds since 1970)."""

    user_id: str
    issuer_device_id: str
    expires_at: int


class RedisPairing:
    """Remembers codes until they expire."""

    def __init__(self, asks: Asks, *, seconds: float, clock: Callable[[], float]) -> None:
        self._asks = asks
        self._seconds = seconds
        self._clock = clock

    def remember(self, code: str, offer: PairingCode) -> None:
        """Store a code until it expires. Never waits; may get lost."""
        left = offer.expires_at - int(self._clock())
        if left <= 0:
            return
        document = {
            "user_id": offer.user_id,
            "issuer_device_id": offer.issuer_device_id,
            "expires_at": datetime.fromtimestamp(offer.expires_at, UTC).isoformat(),
        }
        self._asks.tell("SET", pairing_key(code), json.dumps(document), "EX", left, writes=True)

    async def find(self, code: str) -> PairingCode | None:
        """The offer behind a code; None if Redis knows none, or does not answer."""
        try:
            found = await self._asks.ask("GET", pairing_key(code), seconds=self._seconds)
        except UnansweredError:
            return None
        return None if found is None else _offer(found)

    def forget(self, code: str) -> None:
        """The code was claimed. Never waits; may get lost."""
        self._asks.tell("DEL", pairing_key(code))


def pairing_key(code: str) -> bytes:
    return f"pairing:{code}".encode("utf-8", "surrogatepass")


def _offer(found: bytes) -> PairingCode | None:
    try:
        document = json.loads(found)
        expires_at = datetime.fromisoformat(document["expires_at"])
        user, issuer = document["user_id"], document["issuer_device_id"]
    except (ValueError, TypeError, KeyError):
        return None  # written by something else: the database knows
    if not (isinstance(user, str) and isinstance(issuer, str) and expires_at.tzinfo):
        return None
    return PairingCode(user_id=user, issuer_device_id=issuer, expires_at=int(expires_at.timestamp()))
