"""What the server counts about itself. Plain integers, written from the event-loop thread."""

import attrs


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
    rate_limited: int = 0
    secret_rotations_noise: int = 0
    """Rotations that this node has told the ledger of, whoever made them."""
    secret_rotations_admin: int = 0
    messages_purged: int = 0
    """Messages that operators' commands have deleted; they are among ``messages_expired`` as well."""
