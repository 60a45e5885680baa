"""Every number of the listener, with its unit and its reason."""

import attrs
from attrs.validators import and_, ge, gt, le

_POSITIVE = gt(0.0)
# RFC 9113, section 6.9.1: a flow-control window never exceeds 2^31-1.
_WINDOW = and_(ge(65_535), le(2**31 - 1))


@attrs.frozen(kw_only=True)
class ListenerSettings:
    """Limits and deadlines of the listener. Times in seconds, sizes in bytes.

    Raises:
        ValueError: a value is out of its range; the message names the field.
    """

    max_connections: int = attrs.field(default=10_000, validator=ge(1))
    """Open connections, handshakes included. More are closed at once: an idle one costs about 45 KiB."""
    handshake_timeout: float = attrs.field(default=10.0, validator=_POSITIVE)
    """For the TLS handshake, and again for the first bytes of HTTP/2 after it."""
    idle_timeout: float = attrs.field(default=60.0, validator=_POSITIVE)
    """How long a connection may live without any open stream. Frames of the connection itself (PING,
    SETTINGS) do not prolong it, nor does a header block that never ends."""
    write_timeout: float = attrs.field(default=30.0, validator=_POSITIVE)
    """For the kernel to take one write of ``write_size``: a peer that stopped reading is dropped after it."""
    ping_timeout: float = attrs.field(default=60.0, validator=_POSITIVE)
    """For the answer to a PING that ``confirm`` waits for. Longer than ``write_timeout``, as the PING may
    queue behind a full socket buffer."""
    stall_timeout: float = attrs.field(default=30.0, validator=_POSITIVE)
    """How long a request waits for a peer that sends no more of its body or reads no more of its answer,
    and the end of any stream for the peer to take it. Each step forward starts it anew."""
    drain_timeout: float = attrs.field(default=10.0, validator=_POSITIVE)
    """What handlers get to come to an end after their connection was lost, and everything at shutdown."""
    close_timeout: float = attrs.field(default=2.0, validator=_POSITIVE)
    """For the last words (GOAWAY, close_notify) on a connection that ends."""
    accept_backoff: float = attrs.field(default=0.1, validator=_POSITIVE)
    """Pause after a failed accept; at once again would spin while descriptors are exhausted."""
    report_interval: float = attrs.field(default=10.0, validator=_POSITIVE)
    """Repeated refusals (too many connections, failed accepts) are logged once per interval, with a count."""
    tcp_keepalive: int = attrs.field(default=60, validator=ge(1))
    """Idle seconds after which the kernel probes a silent peer (TCP keep-alive; then every quarter of it,
    four times), so that a vanished device does not hold its connection for ever."""

    max_streams: int = attrs.field(default=100, validator=ge(1))
    """Streams of one connection, counted until their handler has returned: a peer that opens and resets
    in a loop (CVE-2023-44487) is refused as soon as so many handlers run."""
    max_header_size: int = attrs.field(default=16_384, validator=ge(1_024))
    """Size of a request's header list after decompression, and of its compressed block before."""
    max_header_count: int = attrs.field(default=100, validator=ge(10))
    """Header fields of one request; more are answered with 431."""
    max_body: int = attrs.field(default=10 * 1024 * 1024, validator=ge(0))
    """Request body an ASGI request may carry; ``/connect`` streams have no limit."""
    stream_window: int = attrs.field(default=256 * 1024, validator=_WINDOW)
    """Bytes a peer may send on a stream before its handler takes them: the bound of the inbound queue."""
    connection_window: int = attrs.field(default=512 * 1024, validator=_WINDOW)
    """The same over all streams of a connection. More than one stream's, so that a handler that waits
    does not stop the connection's other streams."""
    max_frame_size: int = attrs.field(default=65_536, validator=and_(ge(16_384), le(2**24 - 1)))
    """Largest frame we accept. A frame is kept until it is complete, so this is memory a peer can claim."""
    outbox_high_water: int = attrs.field(default=256 * 1024, validator=ge(1))
    """``send`` waits while a stream has so many bytes queued: a slow reader stops its sender."""
    read_size: int = attrs.field(default=65_536, validator=ge(1_024))
    """Bytes asked for in one read."""
    write_size: int = attrs.field(default=65_536, validator=ge(1_024))
    """Bytes after which a write is cut, so that ``write_timeout`` measures progress, not volume."""

    flood_interval: float = attrs.field(default=10.0, validator=_POSITIVE)
    """The window in which resets and control frames are counted."""
    max_resets: int = attrs.field(default=200, validator=ge(1))
    """Streams reset per ``flood_interval``, whoever sent the reset (CVE-2023-44487, CVE-2025-8671)."""
    max_control_frames: int = attrs.field(default=1_000, validator=ge(1))
    """PING, SETTINGS, PRIORITY, unknown frames, padded DATA of a few bytes, and WINDOW_UPDATE without DATA to
    cause it, per ``flood_interval``. They cost a peer little or no flow control, and us time and answers
    (CVE-2019-9511, -9512, -9513, -9515, -9518)."""
