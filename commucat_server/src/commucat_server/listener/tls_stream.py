"""TLS over a Trio stream, for one reader and one writer.

Trio's own ``SSLStream`` serves any number of tasks and every version of TLS. Here exactly one task reads and
one writes, and the version is 1.3, where reading never has to write (no renegotiation, and a key update is
answered with the next write; RFC 8446, section 4.6.3). That saves its locks, and lets one read return every
record that has arrived instead of the first: together a quarter of the CPU time per message (measured by
``benchmarks/listener_echo.py``). It also tells a peer by an alert why its handshake was refused.
"""

import contextlib
import ssl
from collections.abc import Awaitable, Callable

import trio

from commucat_server.listener.tcp_stream import PromptStream

_RECORD_SIZE = 16_384  # RFC 8446, section 5.1
_RECEIVE_SIZE = 65_536
_SHORT_PIECE = 1_024
_SHORT_UNTIL = 16_384
"""The first so many bytes of each direction pass through OpenSSL's buffers in short pieces, later ones in
records. A buffer never becomes smaller than its largest piece, and most connections hardly say anything after
their handshake; those that do would pay for short pieces with their speed."""
_UNSENT_LIMIT = 4_096
"""Answers to key updates that may wait for the next write: 150 of them. A peer may ask for any number."""


class TlsStream(PromptStream):
    """The server's end of a TLS connection.

    Args:
        transport: the TCP stream; closed with this one.
        context: from ``tls_context``.
    """

    __slots__ = (
        "_arrived",
        "_broken",
        "_full",
        "_incoming",
        "_left",
        "_outgoing",
        "_prompt",
        "_received",
        "_sealed",
        "_tls",
        "_transport",
        "sent_bytes",
    )

    def __init__(self, transport: trio.abc.Stream, context: ssl.SSLContext) -> None:
        self._transport = transport
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # OpenSSL's buffers never shrink: what is large waits here, and passes through them in pieces.
        self._arrived: memoryview | bytes = b""
        self._sealed: list[bytes] = []
        self._received = 0
        # The last read took as much as it could: perhaps there is more of its record. To ask OpenSSL lets go
        # of the interpreter lock, which is then waited for again.
        self._full = False
        self._broken = False
        self._prompt = transport if isinstance(transport, PromptStream) else None
        # Encrypted bytes that the transport below keeps for its next write.
        self._left = 0
        self.sent_bytes = 0
        """Bytes that the transport below has taken, TLS's own included."""

    async def do_handshake(self, turn: Callable[[], Awaitable[None]] | None = None) -> None:
        """Agree on keys and protocol; to be called first, and by nobody else meanwhile.

        ``turn`` is awaited before bytes of the peer are worked on.

        Raises:
            trio.BrokenResourceError: the peer speaks no TLS 1.3, or went away. It got an alert if it can
                understand one; the cause is in ``__cause__``.
        """
        # The peer begins.
        await self._receive_pending()
        if turn is not None:
            await turn()
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if not (self._outgoing.pending and self.send_now(b"")):
                    await self._send_pending()
                if self._feed():
                    continue
                await self._receive_pending()
                if turn is not None:
                    await turn()
            except ssl.SSLError as exc:
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._send_pending()
                self._broken = True
                raise trio.BrokenResourceError("tls handshake failed") from exc
            else:
                await self._send_pending()
                return

    @property
    def protocol(self) -> str | None:
        """What ALPN has chosen (RFC 7301), ``None`` if the peer offered nothing we speak."""
        return self._tls.selected_alpn_protocol()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the bytes of all records that have arrived, up to ``max_bytes`` and one record more.

        ``b""`` means that the peer has ended the connection, politely or not.

        Raises:
            trio.BrokenResourceError: what came is no TLS of this connection, or nothing but key updates.
        """
        limit = _RECEIVE_SIZE if max_bytes is None else max_bytes
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            if not (
                waited
                or self._incoming.pending
                or self._incoming.eof
                or (self._full and self._tls.pending())
                or self._feed()
            ):
                # Nothing is there to be decrypted: finding out by trying costs an exception per read.
                await self._receive_pending()
                waited = True
            try:
                first = self._tls.read(_RECORD_SIZE)
            except ssl.SSLWantReadError:
                if not self._feed():
                    await self._receive_pending()
                    waited = True
                continue
            except ssl.SSLEOFError:
                first = b""
            except ssl.SSLError as exc:
                self._broken = True
                raise trio.BrokenResourceError("tls connection broken") from exc
            if not waited:
                # Others get their turn, however much has arrived; what was read must not be lost.
                await trio.lowlevel.cancel_shielded_checkpoint()
            return self._read_more(first, limit)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes in as few records as they fit in.

        Raises:
            trio.BrokenResourceError: the peer is gone, or an earlier call was cancelled.
        """
        self._encrypt(data)
        await self._send_pending()

    def send_now(self, data: bytes) -> bool:
        self._encrypt(data)
        if self._prompt is None:
            return False  # All of it waits here.
        encrypted = self._take_encrypted()
        if self._prompt.send_now(encrypted):
            self.sent_bytes += len(encrypted)
            return True
        self._left += len(encrypted)
        return False

    def _encrypt(self, data: bytes | bytearray | memoryview) -> None:
        if self._broken:
            raise trio.BrokenResourceError("an earlier write was not finished")
        size = _RECORD_SIZE if self.sent_bytes >= _SHORT_UNTIL else _SHORT_PIECE
        try:
            if len(data) <= size:
                if data:
                    self._tls.write(data)
                return
            with memoryview(data) as view:
                for start in range(0, len(view), size):
                    self._tls.write(view[start : start + size])
                    self._sealed.append(self._outgoing.read())
        except ssl.SSLError as exc:
            raise trio.BrokenResourceError("tls connection broken") from exc

    def _take_encrypted(self) -> bytes:
        data = self._outgoing.read()
        if self._sealed:
            self._sealed.append(data)
            data = b"".join(self._sealed)
            self._sealed.clear()
        return data

    async def wait_send_all_might_not_block(self) -> None:
        """Return when a write would not have to wait."""
        await self._transport.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Tell the peer that this is the end (not waiting for its answer), and close the transport."""
        try:
            farewell = self._farewell()
            if farewell or self._left:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._transport.send_all(farewell)
        finally:
            await self._transport.aclose()

    def close_now(self) -> bool:
        if self._prompt is None or self._left:
            return False
        farewell = self._farewell()
        if farewell:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                if not self._prompt.send_now(farewell):
                    self._left = len(farewell)
                    return False
        return self._prompt.close_now()

    def _farewell(self) -> bytes:
        """What TLS says at the end, once; nothing may follow it."""
        if self._broken:
            return b""
        self._broken = True
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        return self._take_encrypted()

    def _read_more(self, first: bytes, limit: int) -> bytes:
        parts, size = [first], len(first)
        # Without the first test every read would end in an exception; an empty part is the peer's farewell.
        while first and size < limit and (self._incoming.pending or self._feed()):
            try:
                part = self._tls.read(_RECORD_SIZE)
            except ssl.SSLWantReadError:
                if not self._feed():
                    break  # The rest of a record is still to come.
                continue
            except ssl.SSLError:
                break  # The next read tells what is wrong.
            if not part:
                break
            parts.append(part)
            size += len(part)
        self._full = len(parts[-1]) == _RECORD_SIZE
        return b"".join(parts) if len(parts) > 1 else first

    async def _send_pending(self) -> None:
        data = self._take_encrypted()
        if data or self._left:
            try:
                await self._transport.send_all(data)
            except BaseException:
                # Nobody knows how much of it went out: no record may follow.
                self._broken = True
                raise
            self.sent_bytes += self._left + len(data)
            self._left = 0

    async def _receive_pending(self) -> None:
        if self._outgoing.pending > _UNSENT_LIMIT:
            self._broken = True
            raise trio.BrokenResourceError("flood of key updates")
        if data := await self._transport.receive_some(_RECEIVE_SIZE):
            self._received += len(data)
            self._arrived = memoryview(data)
            self._feed()
        else:
            self._incoming.write_eof()

    def _feed(self) -> bool:
        """Pass on the next piece of what has arrived; ``False`` if there is none."""
        arrived = self._arrived
        if not arrived:
            return False
        size = _RECORD_SIZE if self._received >= _SHORT_UNTIL else _SHORT_PIECE
        self._incoming.write(arrived[:size])
        self._arrived = arrived[size:] or b""
        return True
