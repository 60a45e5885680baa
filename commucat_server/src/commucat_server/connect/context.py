"""What every `/connect` stream needs from the rest of the server."""

import time
from collections.abc import Callable

import attrs

from commucat_ledger import Ledger
from commucat_server.calls.forwarder import Forwarder
from commucat_server.calls.service import CallService
from commucat_server.config import ClearFrames
from commucat_server.connect.relay import WorkerRelay
from commucat_server.identity.admissions import Admissions
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.identity.noise_catalogue import NoiseCatalogue
from commucat_server.listener import Turnstile
from commucat_server.ops.counters import Counters
from commucat_server.ops.spans import Spans
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.inbox import Inbox
from commucat_server.routing.presence import PresenceBoard
from commucat_server.routing.registry import Registry
from commucat_server.security.clients import ClientAddresses
from commucat_server.security.messages import MessageLimits
from commucat_server.security.rate import SharedRateLimit
from commucat_storage import Storage
from commucat_storage.bus import NodeBus


@attrs.frozen(kw_only=True)
class ConnectSettings:
    """Limits and deadlines of one stream. Times in seconds."""

    handshake_timeout: float
    """From the request to the final Ack."""
    write_stall: float
    """A client that takes no byte for so long is gone; what it missed waits in its inbox."""
    drain_timeout: float
    """For the last words at the end of a session."""
    keepalive: int
    relay_ttl: int
    channel_members: int
    delivery_status: bool
    """Whether senders that ask are told what becomes of their messages."""
    clear_frames: ClearFrames
    domain: str
    """The server's own: behind a device it means nothing."""
    open_join: bool
    """Join leads to the channel's open room."""
    max_handshakes: int
    """Unfinished handshakes at once, over all addresses."""


@attrs.define(kw_only=True, eq=False)
class ConnectContext:
    """The services behind `/connect`; built once by the composition root."""

    settings: ConnectSettings
    """The one thing here that changes: a new configuration brings others."""
    noise_keys: NoiseCatalogue
    storage: Storage
    ledger: Ledger
    admissions: Admissions
    issuer: CertificateIssuer
    registry: Registry
    inbox: Inbox
    presence: PresenceBoard
    bus: NodeBus
    calls: CallService
    forwarder: Forwarder
    cluster: Cluster
    counters: Counters
    connect_limit: SharedRateLimit
    new_user_limit: SharedRateLimit
    clock: Callable[[], float]
    relay: WorkerRelay | None = None
    """To the other workers of this server, if there are any."""
    clients: ClientAddresses = attrs.field(factory=ClientAddresses)
    spans: Spans = attrs.field(factory=Spans)
    messages: MessageLimits = attrs.field(factory=lambda: MessageLimits(time.monotonic))
    turnstile: Turnstile = attrs.field(factory=Turnstile)
    """Shared with the listener."""
