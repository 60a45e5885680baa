"""Schemas of ``/api/p2p/assist``."""

from typing import Final

from commucat_proto.fec import MAX_MTU, MAX_OVERHEAD, MIN_MTU
from commucat_server.api.schemas import (
    Schema,
    array,
    boolean,
    constant,
    hexadecimal,
    integer,
    nullable,
    number,
    record,
    text,
    time,
)
from commucat_server.api.statistics import SECURITY
from commucat_server.nat.assist import MAX_HOST, MAX_ID, MAX_PATHS


def _all_optional(members: dict[str, Schema], description: str = "") -> Schema:
    """Each member may be absent or null."""
    return record(
        {name: nullable(schema) for name, schema in members.items()},
        optional=list(members),
        description=description,
    )


_PATH: Final = _all_optional(
    {
        "address": text("Without it the path is passed over.", maxLength=MAX_HOST),
        "id": text("`path-1`, `path-2`, ... unless given.", maxLength=MAX_ID),
        "port": integer("443 unless given.", minimum=1, maximum=65535),
        "server_name": text(maxLength=MAX_HOST),
        "priority": integer("The lowest comes first; 100 unless given.", minimum=0, maximum=255),
        "reality_fingerprint": hexadecimal(32, "Has no effect: that transport does not exist here."),
        "reality_pem": text("Needed with `reality_fingerprint`.", maxLength=64 * 1024),
    }
)
HINTS: Final = _all_optional(
    {
        "peer_hint": text(maxLength=MAX_HOST),
        "paths": array(_PATH) | {"maxItems": MAX_PATHS},
        "prefer_reality": boolean("Has no effect: that transport does not exist here."),
        "fec": _all_optional(
            {
                "mtu": integer("1152 unless given.", minimum=MIN_MTU, maximum=MAX_MTU),
                "repair_overhead": number("0.35 unless given.") | {"minimum": 0, "maximum": MAX_OVERHEAD},
            },
            "Without it, 1200 and 0.25.",
        ),
        "min_paths": integer(minimum=1, maximum=2**31),
    }
)
_QUALITY: Final = record(
    {
        "rtt_ms": integer(),
        "jitter_ms": number(),
        "packet_loss_percent": number(),
        "bandwidth_kbps": integer(),
        "quality_score": integer(minimum=0, maximum=100),
        "quality_label": constant("excellent", "good", "fair", "poor", "critical"),
        "probe_method": constant("fallback"),
    }
)
_TURN: Final = record(
    {
        "urls": array(text()),
        "username": text(),
        "credential": text(),
        "ttl_secs": integer("0: good for ever."),
        "expires_at": time(),
        "realm": text(),
    },
    optional=["expires_at", "realm"],
)
_CANDIDATE: Final = record(
    {
        "candidate": text(),
        "component": integer(),
        "protocol": constant("udp"),
        "foundation": text(),
        "priority": integer(),
        "ip": text(),
        "port": integer(),
        "typ": constant("host"),
    }
)
_ICE: Final = record(
    {
        "username_fragment": text(pattern="^[0-9a-f]{16}$"),
        "password": text(pattern="^[0-9a-f]{64}$"),
        "ttl_secs": integer(),
        "keepalive_interval_secs": integer(),
        "trickle": boolean(),
        "expires_at": time(),
        "servers": array(_TURN, "TURN servers."),
        "lite_candidates": array(_CANDIDATE, "The server's own STUN responder."),
    },
    optional=["servers", "lite_candidates"],
)
_PQ_NAMES: Final = (
    "identity_public_hex",
    "signed_prekey_public_hex",
    "kem_public_hex",
    "signature_public_hex",
)
ADVICE: Final = record(
    {
        "noise": record(
            {
                "pattern": constant("Xk", "Ik"),
                "prologue_hex": text(),
                "device_seed_hex": text("Always empty: a device's secrets are its own.", maxLength=0),
                "static_public_hex": hexadecimal(32, "The server's Noise static key, X25519."),
            }
        ),
        "pq": record({name: text("Empty: the server has no such key.") for name in _PQ_NAMES}),
        "ice": _ICE,
        "transports": array(
            record(
                {
                    "path_id": text(),
                    "transport": constant("WebSocket"),
                    "resistance": text(),
                    "latency": text(),
                    "throughput": text(),
                    "network_quality": _QUALITY,
                }
            )
        ),
        "multipath": record(
            {
                "fec_mtu": integer(),
                "fec_overhead": number(),
                "primary_path": nullable(text()),
                "sample_segments": {
                    "type": "object",
                    "additionalProperties": record({"total": integer(), "repair": integer()}),
                    "description": "Packets of a payload on each path, by its id.",
                },
            }
        ),
        "obfuscation": record(
            {
                "reality_fingerprint_hex": nullable(text()),
                "domain_fronting": boolean(),
                "protocol_mimicry": boolean(),
                "tor_bridge": boolean(),
            }
        ),
        "security": SECURITY,
        "keepalive": record(
            {
                "enabled": boolean(),
                "ping_interval_secs": integer(),
                "pong_timeout_secs": integer(),
                "max_missed_pongs": integer(),
            }
        ),
        "reconnect": record(
            {
                "strategy": constant("exponential_backoff"),
                "initial_backoff_secs": integer(),
                "max_backoff_secs": integer(),
                "max_attempts": integer("0: endless."),
            }
        ),
        "relay": record(
            {"path": text(), "ticket": text(), "expires_at": time()},
            description="How to meet a peer at the relay: a WebSocket to this path with `?ticket=`.",
        ),
    },
    optional=["relay"],
)
