"""What can go wrong in the terminal client. Each text is one line for a person: what, where, what to do."""


class CliError(Exception):
    """Base: the command cannot go on."""


class ProfileError(CliError):
    """The profile directory is missing, incomplete, open to others, in use or damaged."""


class AddressError(CliError):
    """The text is no address of a server."""


class TrustError(CliError):
    """The server's TLS certificate, domain, authority or keys are not the expected ones."""


class NotCommuCatError(CliError):
    """Something answers at the address, but not as a CommuCat server does."""


class UnknownHostError(CliError):
    """The host name has no address."""


class HandshakeRefused(CliError):  # noqa: N818 - a decision of the server, not a defect
    """The server does not let this device in."""


class SessionReplaced(CliError):  # noqa: N818
    """Another session of the same device took over."""


class SessionEndedError(CliError):
    """The server ended the session for a reason that reconnecting does not cure."""


class PeerKeyError(CliError):
    """A device has no certificate, a wrong one, or another key than it had before."""


class RestError(CliError):
    """A REST request was answered by a problem document."""

    def __init__(self, text: str, *, status: int) -> None:
        super().__init__(text)
        self.status = status
        """HTTP status of the answer."""


class RetryableError(CliError):
    """Base of what may be over in a moment: connect again."""


class UnreachableError(RetryableError):
    """No connection to the server: refused, timed out, no route."""


class ConnectionLostError(RetryableError):
    """The connection ended before its time."""


class ServerBusyError(RetryableError):
    """The server is shutting down, or asks to come back later."""
