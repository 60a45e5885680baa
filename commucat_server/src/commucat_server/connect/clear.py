"""Sessions without encryption after the handshake, for the terminal client of October 2025.

That client shakes hands by Noise, forgets the keys, and speaks in plain frames inside TLS. It never opens
its HTTP/2 window, so that a connection is over after 64 KiB and it has to connect again; the end must be a
proper one.
"""

from collections.abc import Mapping

import trio

from commucat_crypto import NoisePattern
from commucat_proto import DELIVERY_ACK, SEND_ONLY, Hello
from commucat_server.config import ClearFrames
from commucat_server.listener import ConnectStream

_USER_AGENT = "CommuCat-CLI/"
_LINGER = 2.0
"""Seconds for the client to end its side after we have ended ours."""


def is_client_of_2025(headers: Mapping[str, str], hello: Hello) -> bool:
    """Whether the request looks like that client; its name alone would also be that of a later version."""
    return headers.get("user-agent", "").startswith(_USER_AGENT) and _may_be_clear(hello)


def is_clear(mode: ClearFrames, headers: Mapping[str, str], hello: Hello) -> bool:
    """Whether the session of this Hello goes on without encryption."""
    match mode:
        case ClearFrames.NEVER:
            return False
        case ClearFrames.AUTO:
            return is_client_of_2025(headers, hello)
        case ClearFrames.ALWAYS:
            return _may_be_clear(hello)


def _may_be_clear(hello: Hello) -> bool:
    # Whoever knows capabilities of this server encrypts. With IK the client has begun to already.
    return hello.pattern is NoisePattern.XK and not {DELIVERY_ACK, SEND_ONLY} & set(hello.capabilities)


async def watch_window(stream: ConnectStream, patience: float) -> None:
    """Watch whether the client takes what waits for it; runs until cancelled.

    Raises:
        TooSlowError: bytes have waited for ``patience`` seconds, and it has taken none.
    """
    taken, since = -1, trio.current_time()
    while True:
        before, taken = taken, stream.sent_bytes - stream.outbox_bytes
        if taken != before or not stream.outbox_bytes:
            since = trio.current_time()
        elif trio.current_time() - since >= patience:
            raise trio.TooSlowError
        await trio.sleep(patience / 4)


async def linger(stream: ConnectStream) -> None:
    """Behind our end, wait for the client's: it takes a reset that overtakes it for a failure.

    Raises:
        StreamLostError: the client has gone meanwhile.
    """
    with trio.move_on_after(_LINGER):
        while await stream.receive():
            pass  # No longer taken: it was told that the session is over.
