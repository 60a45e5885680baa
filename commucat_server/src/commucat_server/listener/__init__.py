"""The path bytes take: accept, TLS 1.3, HTTP/2 or HTTP/1.1, one task per stream.

Streams to ``/connect`` go to a handler coroutine as ``ConnectStream``; every other request goes to an ASGI
3 application. Back-pressure holds in both directions: a handler that does not receive stops its peer, and
a peer that does not read stops its handler. Nothing here knows what the bytes mean.
"""

from commucat_server.listener.accept import open_tcp, serve_listeners
from commucat_server.listener.activation import ActivationError, activated_sockets
from commucat_server.listener.asgi import AsgiApp, asgi_lifespan
from commucat_server.listener.errors import (
    LifespanError,
    ListenerError,
    StreamLostError,
    StreamMisuseError,
    TlsConfigError,
)
from commucat_server.listener.h1_connection import H1Connection
from commucat_server.listener.h2_connection import H2Connection
from commucat_server.listener.settings import ListenerSettings
from commucat_server.listener.shutdown import ShutdownSignal
from commucat_server.listener.stream import ConnectHandler, ConnectStream
from commucat_server.listener.tls import TlsIdentity, tls_context
from commucat_server.listener.turnstile import Step, Turnstile

__all__ = [
    "ActivationError",
    "AsgiApp",
    "ConnectHandler",
    "ConnectStream",
    "H1Connection",
    "H2Connection",
    "LifespanError",
    "ListenerError",
    "ListenerSettings",
    "ShutdownSignal",
    "Step",
    "StreamLostError",
    "StreamMisuseError",
    "TlsConfigError",
    "TlsIdentity",
    "Turnstile",
    "activated_sockets",
    "asgi_lifespan",
    "open_tcp",
    "serve_listeners",
    "tls_context",
]
