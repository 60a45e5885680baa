"""TURN servers as a client is told of them, with credentials of its own where they share a secret with us."""

from collections.abc import Sequence
from typing import Any, Final

from commucat_proto.stun import turn_credential, turn_username
from commucat_server.config.ice_section import TurnServer
from commucat_server.ops.times import rfc3339

MIN_TTL: Final = 60
MAX_TTL: Final = 2**32 - 1


def turn_documents(
    servers: Sequence[TurnServer], *, fragment: str, ttl: int, now: int
) -> list[dict[str, Any]]:
    """One JSON object for each server, in the given order.

    Args:
        servers: as configured.
        fragment: names the client in what the TURN server logs.
        ttl: seconds that credentials are good; brought into the range from 60 to 2^32 - 1.
        now: Unix seconds.
    """
    ttl = min(max(ttl, MIN_TTL), MAX_TTL)
    return [_document(server, fragment, ttl, now) for server in servers]


def _document(server: TurnServer, fragment: str, ttl: int, now: int) -> dict[str, Any]:
    document: dict[str, Any] = {"urls": list(server.urls)}
    if server.secret is None:
        document |= {"username": server.username, "credential": server.password, "ttl_secs": 0}
    else:
        username = turn_username(now + ttl, fragment)
        document |= {
            "username": username,
            "credential": turn_credential(server.secret, username),
            "ttl_secs": ttl,
            "expires_at": rfc3339(now + ttl),
        }
    if server.realm is not None:
        document["realm"] = server.realm
    return document
