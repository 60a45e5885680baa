"""Advice for a pair of devices that want a path to each other: what is asked, checked, and answered.

Nothing here opens a connection: hosts that a caller names are repeated to the caller, and asked nothing.
"""

import math
from collections.abc import Callable
from secrets import token_bytes
from typing import Any, Final

import attrs

from commucat_proto import stun
from commucat_proto.errors import LocalProtocolError
from commucat_proto.fec import HINTED, LOW_LATENCY, FecProfile, encode, packet_counts
from commucat_server.config.ice_section import TurnServer
from commucat_server.nat.credentials import IceCredentials
from commucat_server.nat.turn import turn_documents
from commucat_server.ops.times import rfc3339

MAX_PATHS: Final = 8
MAX_HOST: Final = 253
MAX_ID: Final = 64
DEFAULT_PORT: Final = 443
DEFAULT_PRIORITY: Final = 100
TRIAL_MIN, TRIAL_MAX = 512, 2048
"""The trial payload is three times the MTU, which is brought into this range for it."""
# The reference server's numbers for a path that nobody has measured.
UNMEASURED: Final = {
    "rtt_ms": 100,
    "jitter_ms": 15.0,
    "packet_loss_percent": 1.0,
    "bandwidth_kbps": 5000,
    "quality_score": 70,
    "quality_label": "fair",
    "probe_method": "fallback",
}
KEEPALIVE: Final = {
    "enabled": True,
    "ping_interval_secs": 30,
    "pong_timeout_secs": 10,
    "max_missed_pongs": 3,
}
RECONNECT: Final = {
    "strategy": "exponential_backoff",
    "initial_backoff_secs": 1,
    "max_backoff_secs": 60,
    "max_attempts": 0,
}


class HintError(Exception):
    """A request is not what it must be; the text is for the caller."""


@attrs.frozen(kw_only=True)
class Path:
    """One way that the caller could take, by its id."""

    id: str
    priority: int


@attrs.frozen(kw_only=True)
class Hints:
    """What a caller has said, with the defaults for the rest."""

    paths: tuple[Path, ...]
    """By priority, the lowest first."""
    fec: FecProfile


def hints_of(body: dict[str, Any]) -> Hints:
    """Check the JSON object of a request; null is the same as absent.

    Raises:
        HintError: it is not what it must be.
    """
    _text(body, "peer_hint", MAX_HOST)
    _boolean(body, "prefer_reality")
    _whole(body, "min_paths", 1, 2**31)
    given = body.get("paths")
    if given is not None and not isinstance(given, list):
        raise HintError("invalid JSON payload")
    if given and len(given) > MAX_PATHS:
        raise HintError(f"too many paths (max {MAX_PATHS})")
    paths: list[Path] = []
    for number, path in enumerate(given or (), 1):
        if not isinstance(path, dict):
            raise HintError("invalid JSON payload")
        if (found := _path(path, number)) is not None:
            paths.append(found)
    if given and not paths:
        raise HintError("no paths provided")
    if len({path.id for path in paths}) < len(paths):
        raise HintError("two paths have one id")
    if not paths:
        paths = [Path(id="primary", priority=0), Path(id="backup", priority=1)]
    return Hints(paths=tuple(sorted(paths, key=lambda path: path.priority)), fec=_profile(body.get("fec")))


def _path(given: dict[str, Any], number: int) -> Path | None:
    address = _text(given, "address", MAX_HOST)
    _whole(given, "port", 1, 65535)
    _text(given, "server_name", MAX_HOST)
    priority = _whole(given, "priority", 0, 255)
    name = _text(given, "id", MAX_ID)
    fingerprint = _text(given, "reality_fingerprint", 1024)
    pem = _text(given, "reality_pem", 64 * 1024)
    if fingerprint is not None:
        _check_fingerprint(fingerprint)
        if pem is None:
            raise HintError("reality certificate missing")
    if address is None:
        return None  # The terminal client of 2025 sends paths it has no address for.
    return Path(id=name or f"path-{number}", priority=DEFAULT_PRIORITY if priority is None else priority)


def _check_fingerprint(text: str) -> None:
    try:
        size = len(bytes.fromhex(text))
    except ValueError:
        size = 0
    if size != 32:
        raise HintError("invalid reality fingerprint")


def _profile(given: object) -> FecProfile:
    if given is None:
        return LOW_LATENCY
    if not isinstance(given, dict):
        raise HintError("invalid JSON payload")
    mtu, overhead = _whole(given, "mtu", -(2**31), 2**31), given.get("repair_overhead")
    if overhead is None:
        overhead = HINTED.repair_overhead
    if isinstance(overhead, bool) or not isinstance(overhead, int | float) or not math.isfinite(overhead):
        raise HintError("invalid JSON payload")
    try:
        return FecProfile(HINTED.mtu if mtu is None else mtu, float(overhead))
    except LocalProtocolError as exc:
        raise HintError(f"fec: {exc}") from exc


def _text(value: dict[str, Any], name: str, longest: int) -> str | None:
    found = value.get(name)
    if found is None:
        return None
    if not isinstance(found, str):
        raise HintError("invalid JSON payload")
    if len(found) > longest:
        raise HintError(f"{name} is too long (max {longest} characters)")
    return found or None


def _boolean(value: dict[str, Any], name: str) -> None:
    if value.get(name) is not None and not isinstance(value[name], bool):
        raise HintError("invalid JSON payload")


def _whole(value: dict[str, Any], name: str, low: int, high: int) -> int | None:
    found = value.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int):
        raise HintError("invalid JSON payload")
    if not low <= found <= high:
        raise HintError(f"{name} must be from {low} to {high}")
    return found


def trial(profile: FecProfile, paths: tuple[Path, ...]) -> dict[str, dict[str, int]]:
    """How many packets of a payload travel on each path: of a real encoding of random bytes.

    Takes a millisecond or two of computing, for a worker thread. Source packets go round all paths, repair
    packets round all but the first.
    """
    payload = token_bytes(3 * min(max(profile.mtu, TRIAL_MIN), TRIAL_MAX))
    _, packets = encode(payload, profile)
    source = packet_counts(len(payload), profile).source
    counts = {path.id: {"total": 0, "repair": 0} for path in paths}
    names = [path.id for path in paths]
    spare = names[1:] or names
    for number in range(len(packets)):
        repair = number >= source
        name = spare[(number - source) % len(spare)] if repair else names[number % len(names)]
        counts[name]["total"] += 1
        counts[name]["repair"] += repair
    return counts


@attrs.frozen(kw_only=True)
class IceAdvice:
    """What a client is told of STUN and TURN."""

    credentials: IceCredentials
    turn: tuple[TurnServer, ...]
    turn_ttl: int
    lite: stun.SocketAddress | None
    """Where clients reach the server's own responder; ``None``: there is none, or its address is unknown."""
    ttl: int
    """Seconds that the credentials of the responder are good."""
    keepalive: int
    """Seconds."""
    clock: Callable[[], float]

    def document(self) -> dict[str, Any]:
        """With new credentials at each call."""
        credential = self.credentials.issue(self.ttl)
        document: dict[str, Any] = {
            "username_fragment": credential.fragment,
            "password": credential.password,
            "ttl_secs": self.ttl,
            "keepalive_interval_secs": self.keepalive,
            "trickle": True,
            "expires_at": rfc3339(credential.expires_at),
        }
        servers = turn_documents(
            self.turn, fragment=credential.fragment, ttl=self.turn_ttl, now=int(self.clock())
        )
        if servers:
            document["servers"] = servers
        if self.lite is not None:
            document["lite_candidates"] = [_candidate(self.lite)]
        return document


def _candidate(address: stun.SocketAddress) -> dict[str, Any]:
    return {
        "candidate": stun.host_candidate(address),
        "component": 1,
        "protocol": "udp",
        "foundation": stun.foundation(address),
        "priority": stun.HOST_PRIORITY,
        "ip": str(address.ip),
        "port": address.port,
        "typ": "host",
    }
