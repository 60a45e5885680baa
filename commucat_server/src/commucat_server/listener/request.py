"""The head of a request as HTTP/2 and HTTP/1.1 carry it."""

from collections.abc import Iterable

import attrs

from commucat_server.listener.errors import PeerViolationError

PROTOCOL_ERROR = 1  # RFC 9113, section 7
LISTS = frozenset({"forwarded", "x-forwarded-for"})
"""Headers of which the last instance counts most: the nearest proxy may add one of its own."""


@attrs.frozen(kw_only=True)
class RequestHead:
    """What a peer asks for, in bytes as sent."""

    method: bytes
    path: bytes
    """Without the query, not percent-decoded."""
    query: bytes
    protocol: bytes = b""
    """Of an extended CONNECT (RFC 8441), what the stream is to carry."""
    headers: list[tuple[bytes, bytes]]
    """Lower-case names, in order, without pseudo-headers; ``host`` is there whenever the peer named it."""

    @classmethod
    def from_fields(cls, fields: Iterable[tuple[bytes, bytes]]) -> "RequestHead":
        """Sort a decoded header list (RFC 9113, section 8.3.1).

        Raises:
            PeerViolationError: there is no path, which only a CONNECT request may lack, and we are no proxy.
        """
        method = target = authority = protocol = b""
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
            elif name == b":protocol":
                protocol = value
        if not method or not target:
            raise PeerViolationError(PROTOCOL_ERROR, "request without method or path")
        if authority and not has_host:
            headers.insert(0, (b"host", authority))
        path, _, query = target.partition(b"?")
        return cls(method=method, path=path, query=query, protocol=protocol, headers=headers)

    @classmethod
    def from_target(
        cls, method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]
    ) -> "RequestHead | None":
        """Read the target of an HTTP/1.1 request in origin form or absolute form (RFC 9112, section 3.2).

        ``None`` if it is neither: we are no proxy.
        """
        if target[:8].lower().startswith((b"https://", b"http://")):
            _, slash, rest = target.partition(b"//")[2].partition(b"/")
            target = slash + rest
        if not target.startswith(b"/"):
            return None
        path, _, query = target.partition(b"?")
        return cls(method=method, path=path, query=query, headers=list(headers))

    def first_headers(self) -> dict[str, str]:
        """The first instance of each header, decoded as Latin-1 (which never fails).

        Of :data:`LISTS` all, with commas between (RFC 9110, section 5.3).
        """
        first: dict[str, str] = {}
        for raw_name, raw_value in self.headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            if name not in first:
                first[name] = value
            elif name in LISTS:
                first[name] += "," + value
        return first
