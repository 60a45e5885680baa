"""What can go wrong on the path between the network and the handlers."""


class ListenerError(Exception):
    """Base of the errors of this package."""


class StreamLostError(ListenerError):
    """The peer reset the stream, or its connection is gone.

    An ordinary end: a handler that lets it escape is not reported as failed.
    """


class StreamMisuseError(ListenerError):
    """Our own code used a stream against its rules: a second response head, bytes after the end."""


class TlsConfigError(ListenerError):
    """The certificate or its key cannot be used; the message is one line for the operator."""


class LifespanError(ListenerError):
    """The ASGI application refused to start; the message is its own."""


class PeerViolationError(ListenerError):
    """The peer broke HTTP/2 or a limit of ours; the connection ends with ``code`` in its GOAWAY.

    Args:
        code: an error code of RFC 9113, section 7.
        reason: what happened, for the log.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
