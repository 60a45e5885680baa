"""TLS 1.3 and HTTP to a CommuCat server, and the ways in which a session's bytes travel over it."""

from commucat_cli.transport.address import ServerAddress
from commucat_cli.transport.carry import session_stream
from commucat_cli.transport.h1_client import H1Client
from commucat_cli.transport.h2_client import H2Client
from commucat_cli.transport.h2_stream import H2Stream
from commucat_cli.transport.open import Timeouts, closing, open_h2, open_http, running
from commucat_cli.transport.stream import Headers, HttpClient, RawStream, Response, SessionStream
from commucat_cli.transport.trust import HTTP1, HTTP2, Trust, client_context
from commucat_cli.transport.via import WAYS, Form, Via

__all__ = [
    "HTTP1",
    "HTTP2",
    "WAYS",
    "Form",
    "H1Client",
    "H2Client",
    "H2Stream",
    "Headers",
    "HttpClient",
    "RawStream",
    "Response",
    "ServerAddress",
    "SessionStream",
    "Timeouts",
    "Trust",
    "Via",
    "client_context",
    "closing",
    "open_h2",
    "open_http",
    "running",
    "session_stream",
]
