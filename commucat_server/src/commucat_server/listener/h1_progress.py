"""How many bytes of a connection the peer's kernel has acknowledged.

HTTP/1.1 has nothing like a PING, so this is the only answer a peer's transport gives. It proves that the
bytes have left our host and arrived at the peer's; not that a program there has read them.
"""

import errno
import fcntl
import socket
import struct
import sys
import termios
from typing import Protocol

from commucat_server.listener.errors import StreamLostError
from commucat_server.listener.tcp_stream import TcpStream
from commucat_server.listener.tls_stream import TlsStream

# tcp_states.h: established, and established while the peer sends no more.
_ALIVE = frozenset({1, 8})


class SendProgress(Protocol):
    """What ``confirm`` needs to know of the transport below a connection."""

    def sent(self) -> int:
        """Bytes passed to the kernel so far."""

    def acknowledged(self) -> int:
        """How many of these the peer's kernel has acknowledged, at least.

        Raises:
            StreamLostError: the connection is no more; what it held cannot be known.
        """


class TcpProgress:
    """The progress of a TLS connection over TCP.

    Other systems than Linux do not tell the state of a connection that was reset, so that a queue that
    was dropped could be taken for one that was delivered. There nothing counts as acknowledged: messages are
    delivered again.

    Args:
        stream: the TCP connection.
        tls: what sends on it.
    """

    __slots__ = ("_stream", "_tls")

    def __init__(self, stream: TcpStream, tls: TlsStream) -> None:
        self._stream = stream
        self._tls = tls

    def sent(self) -> int:
        return self._tls.sent_bytes

    def acknowledged(self) -> int:
        if sys.platform != "linux":
            return 0
        # First the queue, then the state: a reset in between comes too late to have emptied the queue.
        sent = self._tls.sent_bytes
        handle = self._stream.socket
        try:
            raw = fcntl.ioctl(handle.fileno(), termios.TIOCOUTQ, bytes(4))
            state = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except (OSError, ValueError) as exc:
            reason = errno.errorcode.get(getattr(exc, "errno", None) or 0, "closed")
            raise StreamLostError(f"connection lost: {reason}") from exc
        if state not in _ALIVE:
            raise StreamLostError("connection lost")
        return sent - int(struct.unpack("i", raw)[0])
