"""The metrics that are one number of :class:`Counters` each: name, type, meaning, and where it stands."""

from collections.abc import Callable
from typing import Final

from commucat_server.ops.counters import Counters

COUNTED: Final[tuple[tuple[str, str, str, Callable[[Counters], float]], ...]] = (
    ("commucat_frames_ingress", "counter", "Frames that clients sent.", lambda c: c.frames_ingress),
    ("commucat_frames_egress", "counter", "Frames sent to clients.", lambda c: c.frames_egress),
    ("commucat_relay_enqueued", "counter", "Messages stored, once per receiver.", lambda c: c.relay_enqueued),
    ("commucat_security_noise", "counter", "Noise handshakes that succeeded.", lambda c: c.handshakes),
    ("commucat_security_pq", "counter", "Of these, with a post-quantum part.", lambda c: c.handshakes_hybrid),
    (
        "commucat_security_fec_packets",
        "counter",
        "Packets of forward error correction.",
        lambda c: c.fec_packets,
    ),
    (
        "commucat_multipath_sessions",
        "counter",
        "Sessions over several paths.",
        lambda c: c.multipath_sessions,
    ),
    ("commucat_multipath_paths", "gauge", "Paths of these, all together.", lambda c: c.multipath_paths),
    ("commucat_ice_binding_requests", "counter", "STUN binding requests.", lambda c: c.ice_binding_requests),
    ("commucat_ice_binding_failures", "counter", "Of these, unanswered.", lambda c: c.ice_binding_failures),
    (
        "commucat_censorship_deflections",
        "counter",
        "Disguised transports offered.",
        lambda c: c.censorship_deflections,
    ),
    ("commucat_calls_total", "counter", "Calls that began to ring.", lambda c: c.calls_begun),
    ("commucat_call_voice_frames", "counter", "Voice frames passed on.", lambda c: c.voice_frames),
    ("commucat_call_video_frames", "counter", "Video frames passed on.", lambda c: c.video_frames),
    (
        "commucat_transport_candidates",
        "counter",
        "Candidates told within calls.",
        lambda c: c.transport_updates.get("candidate", 0),
    ),
    (
        "commucat_transport_pairs",
        "counter",
        "Selected pairs told within calls.",
        lambda c: c.transport_updates.get("selected_candidate_pair", 0),
    ),
    (
        "commucat_transport_keepalive",
        "counter",
        "Consents to go on told within calls.",
        lambda c: c.transport_updates.get("consent_keepalive", 0),
    ),
    (
        "commucat_federation_outbox_enqueued",
        "counter",
        "Events queued for other servers.",
        lambda c: c.federation_outbox_enqueued,
    ),
    (
        "commucat_federation_outbox_delivered",
        "counter",
        "Events that other servers took.",
        lambda c: c.federation_outbox_delivered,
    ),
    (
        "commucat_federation_inbound_processed",
        "counter",
        "Events of other servers that were taken.",
        lambda c: c.federation_inbound_processed,
    ),
    (
        "commucat_federation_inbound_rejected",
        "counter",
        "Events of other servers that were refused.",
        lambda c: c.federation_inbound_rejected,
    ),
    (
        "commucat_rate_limit_http",
        "counter",
        "Requests refused by a rate limit.",
        lambda c: c.rate_limited_http,
    ),
    ("commucat_rate_limit_connect", "counter", "Connects refused by a limit.", lambda c: c.rate_limited),
    ("commucat_secret_rotations_noise", "counter", "New Noise keys.", lambda c: c.secret_rotations_noise),
    ("commucat_secret_rotations_admin", "counter", "New admin tokens.", lambda c: c.secret_rotations_admin),
    ("commucat_device_rotations", "counter", "Devices that changed their key.", lambda c: c.device_rotations),
    # -- beyond the reference server
    (
        "commucat_federation_outbox_dead_total",
        "counter",
        "Messages that other servers refused for good.",
        lambda c: c.federation_outbox_dead,
    ),
    (
        "commucat_rate_limit_messages_total",
        "counter",
        "Frames refused because their device or user sent too many.",
        lambda c: c.rate_limited_messages,
    ),
    (
        "commucat_messages_confirmed_total",
        "counter",
        "Confirmations that deleted messages.",
        lambda c: c.relay_confirmed,
    ),
    (
        "commucat_messages_refused_total",
        "counter",
        "Receivers that refused a message.",
        lambda c: c.messages_refused,
    ),
    (
        "commucat_messages_expired_total",
        "counter",
        "Messages deleted unconfirmed, by age.",
        lambda c: c.messages_expired,
    ),
    ("commucat_commits_failed_total", "counter", "Batches not stored.", lambda c: c.commits_failed),
    ("commucat_clear_sessions_total", "counter", "Sessions without Noise.", lambda c: c.clear_sessions),
    (
        "commucat_sessions_displaced_total",
        "counter",
        "Sessions whose device connected to another node.",
        lambda c: c.sessions_displaced,
    ),
    ("commucat_reports_stored_total", "counter", "Delivery reports stored.", lambda c: c.reports_stored),
    ("commucat_reports_lost_total", "counter", "Messages not reported.", lambda c: c.reports_lost),
    ("commucat_live_frames_delivered_total", "counter", "Live frames passed on.", lambda c: c.live_delivered),
    ("commucat_live_frames_dropped_total", "counter", "Live frames dropped.", lambda c: c.live_dropped),
    (
        "commucat_live_frames_forwarded_total",
        "counter",
        "Live frames given to other nodes.",
        lambda c: c.live_forwarded,
    ),
    ("commucat_http_requests_total", "counter", "Requests but for /connect.", lambda c: c.http_requests),
    (
        "commucat_websocket_pings_received_total",
        "counter",
        "WebSocket Pings of clients.",
        lambda c: c.websocket.pings_received,
    ),
    ("commucat_websocket_pongs_sent_total", "counter", "Answers to these.", lambda c: c.websocket.pongs_sent),
    (
        "commucat_websocket_pongs_received_total",
        "counter",
        "WebSocket Pongs of clients.",
        lambda c: c.websocket.pongs_received,
    ),
    (
        "commucat_websocket_errors_total",
        "counter",
        "WebSocket connections ended for a violation or for silence.",
        lambda c: c.websocket.errors,
    ),
)
