"""What the server counts about itself. Plain integers, written from the event-loop thread."""

import attrs

from commucat_storage import Timings

RTT_BOUNDS = (5.0, 10.0, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)
"""Milliseconds."""
LOSS_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5)
"""Parts of 1."""
CALL_BOUNDS = (5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0)
"""Seconds."""


def count(table: dict[str, int], name: str, amount: int = 1) -> None:
    """Add to a name; the names are the server's own words, so a table has an end."""
    table[name] = table.get(name, 0) + amount


@attrs.define
class SocketCounters:
    """Control frames of all WebSocket connections, since start."""

    pings_received: int = 0
    pongs_sent: int = 0
    pongs_received: int = 0
    errors: int = 0
    """Connections that broke the rules of WebSocket, or gave no sign of life."""


@attrs.define
class Counters:
    """Counted since start."""

    frames_ingress: int = 0
    frames_egress: int = 0
    relay_enqueued: int = 0
    relay_confirmed: int = 0
    messages_refused: int = 0
    commits_failed: int = 0
    handshakes: int = 0
    handshakes_failed: int = 0
    clear_sessions: int = 0
    messages_expired: int = 0
    reports_stored: int = 0
    """Reports to senders, each about any number of messages."""
    reports_refused: int = 0
    """Reports that their receiver's inbox did not take."""
    reports_lost: int = 0
    """Messages of which no report was made: too many were confirmed at once."""
    live_delivered: int = 0
    live_dropped: int = 0
    live_forwarded: int = 0
    """Receivers of live frames on other nodes; what became of the frames is counted there."""
    sessions_displaced: int = 0
    """Sessions that ended because their device connected to another node."""
    pairing_limited: int = 0
    """Claims of pairing codes that were not looked at: too many had failed."""
    rate_limited: int = 0
    """Handshakes refused for their address, or because too many are unfinished."""
    rate_limited_http: int = 0
    """Other requests refused for their address, device or user."""
    rate_limited_messages: int = 0
    """Frames refused because their device or user sent too many."""
    http_requests: int = 0
    """Other than ``/connect``."""
    http_answers: dict[int, int] = attrs.Factory(dict)
    """Answers to these, by status."""
    handshakes_hybrid: int = 0
    """Of the handshakes, those with a post-quantum key agreement beside."""
    sessions: dict[str, int] = attrs.Factory(dict)
    """Sessions that are open, by the form in which their frames travel."""
    refusals: dict[str, int] = attrs.Factory(dict)
    """Frames that were refused, by the reason that their sender was told."""
    handshake_refusals: dict[str, int] = attrs.Factory(dict)
    """Handshakes that failed, by what their peer was told."""
    calls_begun: int = 0
    calls_ended: dict[str, int] = attrs.Factory(dict)
    """By reason: what the device that ended it said, or ``timeout``, ``disconnect``."""
    call_seconds: Timings = attrs.Factory(lambda: Timings(CALL_BOUNDS))
    """From the offer to the end."""
    calls_recovered: int = 0
    """Calls of an earlier process, or of a node that is no more, that were taken over."""
    calls_orphaned: int = 0
    """Of these, the ones that ended because their devices did not come back."""
    call_writes_failed: int = 0
    """Attempts to store calls that failed."""
    voice_frames: int = 0
    video_frames: int = 0
    media_audio: int = 0
    """Packets of sound that the forwarder has queued for receivers on this node, counted for each."""
    media_video: int = 0
    """The same for video."""
    media_bytes: int = 0
    """The payloads of both."""
    media_dropped: dict[str, int] = attrs.Factory(dict)
    """Media packets that were dropped, by cause; for a slow receiver counted for each."""
    media_transcoded: dict[str, int] = attrs.Factory(dict)
    """Media packets that were transcoded, by what they became."""
    transport_updates: dict[str, int] = attrs.Factory(dict)
    """By the ``update`` of the frame."""
    transport_rtt: Timings = attrs.Factory(lambda: Timings(RTT_BOUNDS))
    """Milliseconds that clients report of the path of a call."""
    transport_loss: Timings = attrs.Factory(lambda: Timings(LOSS_BOUNDS))
    """Parts of packets that clients report as lost in a call."""
    multipath_sessions: int = 0
    multipath_paths: int = 0
    fec_packets: int = 0
    censorship_deflections: int = 0
    ice_binding_requests: int = 0
    ice_binding_failures: int = 0
    ice_failures: dict[str, int] = attrs.Factory(dict)
    """These by reason: ``malformed``, ``limited``, or the code of the error that was answered."""
    p2p_assists: int = 0
    """Answers of ``/api/p2p/assist``."""
    p2p_meetings: int = 0
    """Meetings of two peers at ``/p2p``, since start."""
    p2p_waiting: int = 0
    """Peers at ``/p2p`` that wait for another one now."""
    p2p_open: int = 0
    """Meetings of two peers now."""
    p2p_messages: int = 0
    p2p_bytes: int = 0
    p2p_ends: dict[str, int] = attrs.Factory(dict)
    """Ends of connections to ``/p2p``, by reason."""
    federation_outbox_enqueued: int = 0
    federation_outbox_delivered: int = 0
    federation_outbox_dead: int = 0
    """Messages that another server has refused for good."""
    federation_inbound_processed: int = 0
    federation_inbound_rejected: int = 0
    secret_rotations_noise: int = 0
    """Rotations that this node has told the ledger of, whoever made them."""
    secret_rotations_admin: int = 0
    messages_purged: int = 0
    """Messages that operators' commands have deleted; they are among ``messages_expired`` as well."""
    device_rotations: int = 0
    websocket: SocketCounters = attrs.Factory(SocketCounters)
