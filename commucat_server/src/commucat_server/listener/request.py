"""The head of a request as HTTP/2 carries it: pseudo-headers and headers."""

from collections.abc import Iterable

import attrs

from commucat_server.listener.errors import PeerViolationError

PROTOCOL_ERROR = 1  # RFC 9113, section 7


@attrs.frozen(kw_only=True)
class RequestHead:
    """What a peer asks for, in bytes as sent."""

    method: bytes
    path: bytes
    """Without the query, not percent-decoded."""
    query: bytes
    headers: list[tuple[bytes, bytes]]
    """Lower-case names, in order, without pseudo-headers; ``host`` is there whenever the peer named it."""

    @classmethod
    def from_fields(cls, fields: Iterable[tuple[bytes, bytes]]) -> "RequestHead":
        """Sort a decoded header list (RFC 9113, section 8.3.1).

        Raises:
            PeerViolationError: there is no path, which only a CONNECT request may lack, and we are no proxy.
        """
        method = target = authority = b""
        headers: list[tuple[bytes, bytes]] = []
        has_host = False
        for name, value in fields:
            if not name.startswith(b":"):
                has_host = has_host or name == b"host"
                headers.append((name, value))
            elif name == b":method":
                method = value
            elif name == b":path":
                target = value
            elif name == b":authority":
                authority = value
        if not method or not target:
            raise PeerViolationError(PROTOCOL_ERROR, "request without method or path")
        if authority and not has_host:
            headers.insert(0, (b"host", authority))
        path, _, query = target.partition(b"?")
        return cls(method=method, path=path, query=query, headers=headers)

    def first_headers(self) -> dict[str, str]:
        """The first instance of each header, decoded as Latin-1 (which never fails)."""
        first: dict[str, str] = {}
        for name, value in self.headers:
            first.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        return first
