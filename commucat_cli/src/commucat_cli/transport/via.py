"""The ways to connect: which HTTP, which form of frames, and which way the client's bytes go."""

import enum


class Form(enum.Enum):
    """How frames travel; the value is what the server's answer names."""

    BINARY = "binary"
    SSE = "sse"
    LONG_POLL = "long-poll"
    WEBSOCKET = "websocket"


class Via(enum.StrEnum):
    """A way to connect, as a person chooses it.

    Names say HTTP/1.1 or HTTP/2 where the form's usual one is not meant. With ``posts`` the
    client's bytes go in short POSTs beside the response, for networks that let no streaming
    request through.
    """

    AUTO = "auto"
    """Binary, or WebSocket where the other side speaks HTTP/1.1 only."""
    BINARY = "binary"
    HTTP1 = "http1"
    SSE = "sse"
    SSE_HTTP1 = "sse-http1"
    SSE_POSTS = "sse-posts"
    SSE_POSTS_HTTP1 = "sse-posts-http1"
    LONG_POLL = "long-poll"
    LONG_POLL_HTTP1 = "long-poll-http1"
    LONG_POLL_POSTS = "long-poll-posts"
    LONG_POLL_POSTS_HTTP1 = "long-poll-posts-http1"
    WEBSOCKET = "websocket"
    WEBSOCKET_HTTP2 = "websocket-http2"

    @property
    def form(self) -> Form:
        """How frames travel."""
        for form in (Form.SSE, Form.LONG_POLL, Form.WEBSOCKET):
            if self.value.startswith(form.value):
                return form
        return Form.BINARY

    @property
    def http1(self) -> bool:
        """Over HTTP/1.1, with a connection for each request at the same time."""
        return self is Via.WEBSOCKET or self.value.endswith("http1")

    @property
    def posts(self) -> bool:
        """The client's bytes go in POSTs of their own."""
        return "-posts" in self.value


WAYS = tuple(via for via in Via if via is not Via.AUTO)
"""All that can be told apart on the wire."""
