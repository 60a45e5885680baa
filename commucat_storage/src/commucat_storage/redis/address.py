"""Where Redis is: the URL of the configuration, read strictly."""

import re
import ssl
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs
from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection

EXAMPLE: Final = "redis://user:password@host:6379/0"
DEFAULT_PORT: Final = 6379
_INDEX: Final = re.compile(r"[0-9]{1,9}")
_TLS_OPTIONS: Final = {"ssl_ca_certs": "ca_file", "ssl_certfile": "cert_file", "ssl_keyfile": "key_file"}


class AddressError(ValueError):
    """The URL cannot be used. The text quotes nothing of it: any part may be a piece of the password."""


@attrs.frozen(kw_only=True)
class RedisAddress:
    """A server, the database on it, and who we are there."""

    host: str = ""
    port: int = DEFAULT_PORT
    path: str = ""
    """Of a Unix socket, instead of host and port."""
    db: int = 0
    user: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    tls: bool = False
    ca_file: str | None = None
    """PEM certificates that are trusted, instead of the system's."""
    cert_file: str | None = None
    key_file: str | None = None

    @classmethod
    def parse(cls, url: str) -> "RedisAddress":
        """Read ``redis://``, ``rediss://`` (TLS) or ``unix://``.

        Raises:
            AddressError: it is none of these, or something in it has no meaning.
        """
        if "#" in url:
            raise AddressError("holds a #; in a password write %23")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # The original text would show what it could not read.
            raise AddressError("host or port cannot be read; percent-encode / ? # @ in passwords") from None
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise AddressError("must begin with redis://, rediss:// or unix://")
        options = _options(parts)
        user, password = _credentials(parts)
        shared: dict[str, Any] = {"user": user, "password": password}
        if parts.scheme == "unix":
            return _unix(cls, parts, options, shared)
        return _tcp(cls, parts, port, options, shared)

    @property
    def place(self) -> str:
        """For messages: without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        where = self.path or f"{host}:{self.port}"
        return f"Redis at {where}, database {self.db}"

    def check_files(self) -> None:
        """See that the files of the TLS options can be used.

        Raises:
            AddressError: one cannot.
        """
        try:
            if self.ca_file is not None:
                ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                ssl.create_default_context().load_cert_chain(self.cert_file, self.key_file)
        except OSError as exc:  # includes everything that is wrong inside
            names = ", ".join(name for name in (self.ca_file, self.cert_file, self.key_file) if name)
            raise AddressError(f"names files that cannot be used ({names}): {exc.strerror or exc}") from exc

    def connection(self, name: str) -> AbstractConnection:
        """A connection that is not opened yet; it waits for ever, so somebody else has to have a deadline."""
        arguments: dict[str, Any] = {
            "db": self.db,
            "username": self.user,
            "password": self.password,
            "client_name": name,
            "protocol": 2,
            "socket_timeout": None,
            "socket_connect_timeout": None,
        }
        if self.path:
            return UnixDomainSocketConnection(path=self.path, **arguments)
        arguments |= {"host": self.host, "port": self.port}
        if not self.tls:
            return Connection(**arguments)
        return SSLConnection(
            # Said here, as not all versions of the library check the name by themselves.
            ssl_cert_reqs="required",
            ssl_check_hostname=True,
            ssl_ca_certs=self.ca_file,
            ssl_certfile=self.cert_file,
            ssl_keyfile=self.key_file,
            **arguments,
        )


def _options(parts: SplitResult) -> dict[str, str]:
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError:
        raise AddressError("what follows the ? is not name=value") from None
    options = dict(pairs)
    if len(options) != len(pairs):
        raise AddressError("gives an option twice")
    if not options.keys() <= {"db", *_TLS_OPTIONS}:
        raise AddressError(f"has an unknown option; known are db, {', '.join(_TLS_OPTIONS)}")
    if any(not value for value in options.values()):
        raise AddressError("has an option without a value")
    return options


def _credentials(parts: SplitResult) -> tuple[str | None, str | None]:
    before, at, _ = parts.netloc.rpartition("@")
    if not at:
        return None, None
    user, colon, password = before.partition(":")
    if not colon or not password:
        raise AddressError("has an @ but no password before it; a password without a user is :password@")
    return unquote(user) or None, unquote(password)


def _unix(
    kind: type[RedisAddress], parts: SplitResult, options: dict[str, str], shared: dict[str, Any]
) -> RedisAddress:
    if options.keys() & _TLS_OPTIONS.keys():
        raise AddressError("has TLS options, but a Unix socket has no TLS")
    if parts.netloc.rpartition("@")[2] or len(parts.path) < 2:
        raise AddressError("must name the socket by its whole path: unix:///run/redis/redis.sock?db=0")
    return kind(path=unquote(parts.path), db=_index(options.get("db", "0")), **shared)


def _tcp(
    kind: type[RedisAddress],
    parts: SplitResult,
    port: int | None,
    options: dict[str, str],
    shared: dict[str, Any],
) -> RedisAddress:
    if not parts.hostname:
        raise AddressError("names no host")
    if port == 0:
        raise AddressError("port 0 cannot be connected to")
    in_path = parts.path.strip("/")
    if in_path and "db" in options:
        raise AddressError("names the database twice")
    tls = {_TLS_OPTIONS[name]: value for name, value in options.items() if name != "db"}
    if tls and parts.scheme != "rediss":
        raise AddressError("has TLS options; with TLS it begins with rediss://")
    if ("cert_file" in tls) != ("key_file" in tls):
        raise AddressError("needs ssl_certfile and ssl_keyfile together")
    return kind(
        host=parts.hostname,
        port=DEFAULT_PORT if port is None else port,
        db=_index(in_path or options.get("db", "0")),
        tls=parts.scheme == "rediss",
        **tls,
        **shared,
    )


def _index(text: str) -> int:
    if not _INDEX.fullmatch(text):
        raise AddressError("the database is a number, 0 to 15 on most servers")
    return int(text)
