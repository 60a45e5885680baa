"""What the session machines report to whoever drives them."""

import attrs

from commucat_proto.frames import Frame, RefusedFrame
from commucat_proto.hello import HandshakeDetail, Hello


@attrs.frozen
class HelloReceived:
    """Server: a Hello whose proof and first Noise message are right.

    The device is *not* proved yet: the Hello may be a recording. Look it up, then answer
    with :meth:`ServerSession.send_auth` or :meth:`ServerSession.refuse`.
    """

    hello: Hello
    noise_key_version: int


@attrs.frozen
class ClientProved:
    """Server: the device owns its keys. Admit it, then :meth:`ServerSession.establish`."""

    hello: Hello
    code: str | None = attrs.field(repr=False)
    """One-time enrolment code, if the client sent one."""
    bound: bool
    """The client vouched for every member of its Hello under encryption. If not, somebody inside
    TLS may have changed members that the proof does not cover, such as ``resume``."""


@attrs.frozen
class HandshakeFailed:
    """The handshake is over. ``reply`` (perhaps empty) goes to the peer before the end."""

    detail: HandshakeDetail
    reason: str
    """For the log: which rule failed, without secrets."""
    reply: bytes = attrs.field(repr=False)
    undecodable: bool = False
    """The bytes were not even a frame."""


@attrs.frozen
class FramesReceived:
    """Established: complete frames, in order; never empty."""

    frames: list[Frame]


@attrs.frozen
class FrameRefused:
    """Server, established: a frame with intact borders whose JSON is too long or cannot be read.

    Answer it with an Error that names its sequence; the session goes on.
    """

    frame: RefusedFrame


@attrs.frozen
class SessionFailed:
    """Established: the peer broke the protocol; always the last event.

    ``code`` is ``decode`` (the borders of frames are lost, which may still be answered with an
    Error) or ``decrypt`` (nothing more can be read).
    """

    code: str
    reason: str


@attrs.frozen
class PeerClosed:
    """The peer ended its side."""


@attrs.frozen
class AuthReceived:
    """Client: the server knows its static key; send ``reply`` to it."""

    reply: bytes = attrs.field(repr=False)


@attrs.frozen
class Established:
    """Client: the server's final Ack. ``ack`` is its JSON object."""

    ack: dict[str, object] = attrs.field(repr=False)


@attrs.frozen
class Refused:
    """Client: the server answered with an Error frame; the handshake is over."""

    error: dict[str, object]


ServerEvent = (
    HelloReceived
    | ClientProved
    | HandshakeFailed
    | FramesReceived
    | FrameRefused
    | SessionFailed
    | PeerClosed
)
ClientEvent = (
    AuthReceived | Established | Refused | HandshakeFailed | FramesReceived | SessionFailed | PeerClosed
)
