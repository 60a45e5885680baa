"""The client's side of TLS between two buffers. Bytes in, bytes out, no I/O.

A socket that encrypts for itself can do so only when it sends. Here a record can be made before it is due.
"""

import ssl
from contextlib import suppress

_READ_LEN = 65_536


class TlsPipe:
    """One connection.

    Args:
        context: of a client.
        server_name: whose certificate is wanted.
    """

    def __init__(self, context: ssl.SSLContext, server_name: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    def shake_hands(self, data: bytes = b"") -> tuple[bool, bytes]:
        """Take what the server sent, nothing at first: (whether the handshake is over, what to send to it).

        Raises:
            ssl.SSLError: there is no agreement, or the server is somebody else.
        """
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False, self._outgoing.read()
        return True, self._outgoing.read()

    def encrypt(self, data: bytes) -> bytes:
        """Records of ``data``. They must be sent in the order in which they were made."""
        self._tls.write(data)
        return self._outgoing.read()

    def decrypt(self, data: bytes) -> bytes:
        """Take bytes as the network split them; return what they bring.

        Raises:
            ssl.SSLError: they are no TLS, or the server refuses to go on.
        """
        self._incoming.write(data)
        found: list[bytes] = []
        # What is left may be half a record, or one of TLS itself.
        with suppress(ssl.SSLWantReadError):
            # Asked beforehand: an exception costs more than a small record.
            while self._incoming.pending or self._tls.pending():
                if not (piece := self._tls.read(_READ_LEN)):
                    break  # the server's end; nothing counts behind it
                found.append(piece)
        return found[0] if len(found) == 1 else b"".join(found)
