"""The client itself: sessions over the transport, sealed messages out and in, pinned peers.

:func:`connect` gives one session for load tests and tools; :func:`open_session` and
:func:`keep_connected` do it for a profile.
"""

from commucat_cli.client.answers import Answer, Refusal
from commucat_cli.client.channels import derive_channel
from commucat_cli.client.claim import ClaimRequest, ClaimResult, claim_device
from commucat_cli.client.connection import Connection, SessionInfo
from commucat_cli.client.delivery import Deliveries, SentMessage, require_reports, watch_reports
from commucat_cli.client.fingerprint import fingerprint, safety_number
from commucat_cli.client.inbox import InboxReader, ReceivedMessage
from commucat_cli.client.invitation import Invitation
from commucat_cli.client.key_history import CheckedHistory, fetch_key_history
from commucat_cli.client.lasting import keep_connected
from commucat_cli.client.login import LoginRequest, log_in
from commucat_cli.client.opening import attach, connect
from commucat_cli.client.outbox import Outbox, OutgoingMessage
from commucat_cli.client.peers import PeerDirectory
from commucat_cli.client.rotation import rotate_key
from commucat_cli.client.session import open_session

__all__ = [
    "Answer",
    "CheckedHistory",
    "ClaimRequest",
    "ClaimResult",
    "Connection",
    "Deliveries",
    "InboxReader",
    "Invitation",
    "LoginRequest",
    "Outbox",
    "OutgoingMessage",
    "PeerDirectory",
    "ReceivedMessage",
    "Refusal",
    "SentMessage",
    "SessionInfo",
    "attach",
    "claim_device",
    "connect",
    "derive_channel",
    "fetch_key_history",
    "fingerprint",
    "keep_connected",
    "log_in",
    "open_session",
    "require_reports",
    "rotate_key",
    "safety_number",
    "watch_reports",
]
