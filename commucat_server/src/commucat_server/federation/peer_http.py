"""Requests to other servers by httpx: HTTP/2 over TLS. No redirects; answers of bounded size and time."""

import ssl
from typing import Final

import httpx
import trio

from commucat_server.config.errors import one_line
from commucat_server.federation.client import MAX_ANSWER, PeerAnswer, PeerUnreachableError

_CONNECTIONS: Final = 100
"""To all peers together; further requests wait."""
_KEEP: Final = 60.0
"""Seconds that an idle connection to a peer is kept."""
_MAX_TEXT: Final = 300


class PeerHttp:
    """One client for all peers."""

    def __init__(self, tls: ssl.SSLContext, patience: float, version: str) -> None:
        """``patience``: seconds for each step of a request; three times as many for all of it."""
        self._deadline = 3 * patience
        self._client = httpx.AsyncClient(
            http2=True,
            verify=tls,
            timeout=httpx.Timeout(patience),
            limits=httpx.Limits(
                max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=_KEEP
            ),
            headers={"user-agent": f"commucat-federation/{version}", "accept": "application/json"},
            follow_redirects=False,
            # A proxy of the environment is for people, and would see whom we write to.
            trust_env=False,
        )

    async def request(self, method: str, url: str, body: bytes | None) -> PeerAnswer:
        """Raises:
        PeerUnreachableError: there is no answer.
        """
        try:
            with trio.fail_after(self._deadline):
                try:
                    return await self._attempt(method, url, body)
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                    # Mostly a kept connection that the peer has just closed; events may come twice.
                    return await self._attempt(method, url, body)
        except (httpx.TimeoutException, trio.TooSlowError) as exc:
            raise PeerUnreachableError("it did not answer in time") from exc
        except PeerUnreachableError:
            raise
        except Exception as exc:
            # Not only what httpx names: a host that is no name is a UnicodeError, and what a peer breaks
            # behind the head of its answer comes from the library below. It may end no more than a request.
            raise PeerUnreachableError(one_line(f"{_kind(exc)}: {exc}"[:_MAX_TEXT])) from exc

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _attempt(self, method: str, url: str, body: bytes | None) -> PeerAnswer:
        headers = {} if body is None else {"content-type": "application/json"}
        async with self._client.stream(method, url, content=body, headers=headers) as response:
            answered = bytearray()
            async for piece in response.aiter_raw():
                answered += piece
                if len(answered) > MAX_ANSWER:
                    raise PeerUnreachableError(f"its answer is longer than {MAX_ANSWER} bytes")
            return PeerAnswer.read(
                response.status_code, bytes(answered), response.headers.get("retry-after", "")
            )


def _kind(exc: Exception) -> str:
    match exc:
        case httpx.ConnectError() | UnicodeError():
            return "cannot be reached"
        case httpx.NetworkError():
            return "the connection was lost"
        case _:
            return "it does not speak HTTP as expected"
