"""Requests to other servers, as the rest of federation sees them.

What speaks HTTP is loaded when the first one is made: many servers never make one.
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
import orjson

from commucat_server.config.errors import one_line
from commucat_server.listener import TlsConfigError

MAX_ANSWER: Final = 1024 * 1024
"""Bytes of an answer; what is longer is none."""
_MAX_TEXT: Final = 300


class PeerUnreachableError(Exception):
    """No answer, or none that HTTP knows. One line."""


@attrs.frozen
class PeerAnswer:
    """What a peer said."""

    status: int
    document: Mapping[str, Any]
    """The JSON object of the body; empty if it is something else."""
    retry_after: float | None = None
    """Seconds, if the peer named some."""

    @classmethod
    def read(cls, status: int, body: bytes, retry_after: str) -> "PeerAnswer":
        """From the body and the header of that name."""
        try:
            value = orjson.loads(body)
        except ValueError:
            value = {}
        seconds = retry_after if retry_after.isascii() and retry_after.isdecimal() else ""
        return cls(
            status,
            value if isinstance(value, dict) else {},
            float(seconds) if 0 < len(seconds) <= 6 else None,
        )

    @property
    def text(self) -> str:
        """One line for people: the status, and the problem if the peer named one."""
        said = [self.document.get(name) for name in ("title", "detail")]
        words = ": ".join(each for each in said if isinstance(each, str) and each)
        return one_line(f"status {self.status}{', ' if words else ''}{words}"[:_MAX_TEXT])


class Http(Protocol):
    """What makes the requests."""

    async def request(self, method: str, url: str, body: bytes | None) -> PeerAnswer:
        """Raises:
        PeerUnreachableError: there is no answer.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class PeerClient:
    """Made by :func:`open_peer_client`; may be used by many tasks."""

    def __init__(self, tls_ca: Path | None, patience: float, version: str) -> None:
        self._tls_ca = tls_ca
        self._patience = patience
        self._version = version
        self._http: Http | None = None

    async def post(self, url: str, body: bytes) -> PeerAnswer:
        """Send a JSON text.

        Raises:
            PeerUnreachableError: there is no answer.
        """
        return await self._loaded().request("POST", url, body)

    async def get(self, url: str) -> PeerAnswer:
        """Ask for a JSON text.

        Raises:
            PeerUnreachableError: there is no answer.
        """
        return await self._loaded().request("GET", url, None)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.aclose()

    def _loaded(self) -> Http:
        if self._http is None:
            from commucat_server.federation.peer_http import PeerHttp

            self._http = PeerHttp(peer_tls(self._tls_ca), self._patience, self._version)
        return self._http


@asynccontextmanager
async def open_peer_client(
    *, tls_ca: Path | None, patience: float, version: str
) -> AsyncIterator[PeerClient]:
    """A client that trusts the system's authorities and those of ``tls_ca``.

    Args:
        tls_ca: a file of PEM certificates.
        patience: seconds for connecting, for each piece of a request, and until the answer begins.
        version: ours, for the peers' logs.

    Raises:
        TlsConfigError: ``tls_ca`` cannot be used.
    """
    if tls_ca is not None:
        peer_tls(tls_ca)
    client = PeerClient(tls_ca, patience, version)
    try:
        yield client
    finally:
        await client.aclose()


def peer_tls(tls_ca: Path | None) -> ssl.SSLContext:
    """How peers prove who they are.

    Raises:
        TlsConfigError: the file cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if tls_ca is not None:
        try:
            context.load_verify_locations(tls_ca)
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, FileNotFoundError | PermissionError) else str(exc)
            raise TlsConfigError(
                one_line(f"federation.tls_ca: {tls_ca}: {reason}; it must hold certificates in PEM form")
            ) from exc
    return context
