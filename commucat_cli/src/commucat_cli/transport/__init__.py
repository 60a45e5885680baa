"""TLS 1.3 and HTTP/2 to a CommuCat server: one connection, any number of requests."""

from commucat_cli.transport.address import ServerAddress
from commucat_cli.transport.h2_client import H2Client, Response
from commucat_cli.transport.h2_stream import H2Stream
from commucat_cli.transport.open import Timeouts, open_h2, running
from commucat_cli.transport.trust import Trust, client_context

__all__ = [
    "H2Client",
    "H2Stream",
    "Response",
    "ServerAddress",
    "Timeouts",
    "Trust",
    "client_context",
    "open_h2",
    "running",
]
