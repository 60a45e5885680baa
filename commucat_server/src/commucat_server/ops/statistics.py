"""The objects ``security`` and ``websocket`` of ``/healthz``; the first is ``/api/security-stats``, too."""

from typing import Any

from commucat_server.ops.counters import Counters


def security_statistics(counters: Counters) -> dict[str, Any]:
    """Handshakes and the means against censorship; those that this version lacks stay 0."""
    sessions, paths = counters.multipath_sessions, counters.multipath_paths
    return {
        "noise_handshakes": counters.handshakes,
        "pq_handshakes": counters.handshakes_hybrid,
        "fec_packets": counters.fec_packets,
        "multipath_sessions": sessions,
        "average_paths": paths / sessions if sessions else 0.0,
        "censorship_deflections": counters.censorship_deflections,
        "clear_sessions": counters.clear_sessions,
    }


def websocket_statistics(counters: Counters) -> dict[str, Any]:
    """WebSocket connections and their signs of life."""
    seen = counters.websocket
    return {
        "active_connections": counters.sessions.get("websocket", 0),
        "pings_received": seen.pings_received,
        "pongs_sent": seen.pongs_sent,
        "pongs_received": seen.pongs_received,
        "connection_errors": seen.errors,
        "ping_pong_ratio": seen.pongs_sent / seen.pings_received if seen.pings_received else 0.0,
    }
