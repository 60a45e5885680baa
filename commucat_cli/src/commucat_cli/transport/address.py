"""Where a server is."""

from urllib.parse import urlsplit

import attrs

from commucat_cli.errors import AddressError

DEFAULT_PORT = 443  # as for every https address (RFC 9110, section 4.2.2)


@attrs.frozen
class ServerAddress:
    """Host and port of a server. IPv6 hosts are kept without brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "ServerAddress":
        """Read ``https://HOST[:PORT]``, or ``HOST[:PORT]`` alone. A path is not kept.

        Raises:
            AddressError: another scheme, no host, an impossible port.
        """
        try:
            parts = urlsplit(text if "://" in text else f"https://{text}")
            port = DEFAULT_PORT if parts.port is None else parts.port
        except ValueError as exc:
            raise AddressError(f"{text!r} is no server address: {exc}") from exc
        if parts.scheme != "https":
            raise AddressError(f"{text!r}: a CommuCat server is reached by https only")
        if not parts.hostname or port == 0 or parts.username is not None:
            raise AddressError(f"{text!r} is no server address; write https://HOST:PORT")
        if not parts.hostname.isprintable() or " " in parts.hostname:
            raise AddressError(f"{text!r} is no server address; write https://HOST:PORT")
        return cls(parts.hostname, port)

    @property
    def authority(self) -> str:
        """``host:port`` as it stands in a request."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.authority}"
