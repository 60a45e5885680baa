"""The client's side of one HTTP/2 request, as little of it as a load needs. Bytes in, bytes out, no I/O.

The ``h2`` library takes more time for a small message than the server under load does for all of it,
and would be what a benchmark of many sessions measures. RFC 9113 is followed for one stream: flow
control both ways, SETTINGS and PING answered. Headers of the answer are not decoded; only "200" is known.
"""

from collections.abc import Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STREAM = 1
_HEADER_LEN = 9
_MAX_FRAME_LEN = 65_536
"""Announced to the peer; a frame beyond it ends the connection."""
_INITIAL_WINDOW = 65_535  # RFC 9113, section 6.9.2
_OWN_WINDOW = 4 * 1024 * 1024
_CREDIT_AT = 1024 * 1024
"""Bytes taken before the peer is told that it may send more."""

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 0x1
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_SETTING_PUSH, _SETTING_WINDOW, _SETTING_FRAME_LEN = 2, 4, 5
_STATUS_200 = 0x88  # RFC 7541, appendix A: index 8


class WireError(Exception):
    """The peer ended the stream or broke the rules; the text says which."""


class Http2Wire:
    """One POST whose body and answer go on until somebody ends them."""

    def __init__(self, path: str, authority: str) -> None:
        self._incoming = bytearray()
        self._outgoing: list[bytes] = []
        self._body = bytearray()
        self._window = _INITIAL_WINDOW
        self._stream_window = _INITIAL_WINDOW
        self._peer_initial = _INITIAL_WINDOW
        self._peer_frame_len = 16_384
        self._taken = 0
        self._end_wanted = False
        self._end_sent = False
        self.accepted = False
        """The answer began, with status 200."""
        self.ended = False
        """The peer has ended its side."""
        settings = b"".join(
            code.to_bytes(2, "big") + value.to_bytes(4, "big")
            for code, value in (
                (_SETTING_PUSH, 0),
                (_SETTING_WINDOW, _OWN_WINDOW),
                (_SETTING_FRAME_LEN, _MAX_FRAME_LEN),
            )
        )
        headers = _literals(
            (
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", authority),
                (":path", path),
                ("user-agent", "commucat-cli"),
                ("content-type", "application/octet-stream"),
            )
        )
        self._outgoing += (
            PREFACE,
            _frame(_SETTINGS, 0, 0, settings),
            _frame(_WINDOW_UPDATE, 0, 0, (_OWN_WINDOW - _INITIAL_WINDOW).to_bytes(4, "big")),
            _frame(_HEADERS, _END_HEADERS, STREAM, headers),
        )

    # -- out --------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Queue bytes of the request's body."""
        self._body += data

    def end(self) -> None:
        """End the request's body after what is queued."""
        self._end_wanted = True

    @property
    def open(self) -> bool:
        """Whether a byte of the body that is queued now may go at once."""
        return not self._body and self._window > 0 and self._stream_window > 0

    def take_outgoing(self) -> bytes:
        """Everything that may go to the peer now."""
        self._fill()
        if not self._outgoing:
            return b""
        data = self._outgoing[0] if len(self._outgoing) == 1 else b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    def _fill(self) -> None:
        body = self._body
        while body:
            length = min(len(body), self._peer_frame_len, self._window, self._stream_window)
            if length <= 0:
                return
            self._outgoing += (_head(length, _DATA, 0, STREAM), bytes(body[:length]))
            del body[:length]
            self._window -= length
            self._stream_window -= length
        if self._end_wanted and not self._end_sent:
            self._end_sent = True
            self._outgoing.append(_head(0, _DATA, _END_STREAM, STREAM))

    # -- in ---------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> bytes:
        """Take bytes as the network split them; return what they bring of the answer's body.

        Raises:
            WireError: the stream is over, or was refused.
        """
        incoming = self._incoming
        incoming += data
        found: list[bytes] = []
        offset, end = 0, len(incoming)
        while end - offset >= _HEADER_LEN:
            length = int.from_bytes(incoming[offset : offset + 3], "big")
            if length > _MAX_FRAME_LEN:
                raise WireError(f"the server sent an HTTP/2 frame of {length} bytes")
            start = offset + _HEADER_LEN
            if end - start < length:
                break
            kind, flags = incoming[offset + 3], incoming[offset + 4]
            offset = start + length
            payload = bytes(incoming[start:offset])
            if kind == _DATA:
                found.append(self._take_data(flags, payload))
            elif kind == _WINDOW_UPDATE:
                self._take_credit(incoming[start - 1] == STREAM, payload)
            else:
                self._take_other(kind, flags, payload)
        del incoming[:offset]
        return found[0] if len(found) == 1 else b"".join(found)

    def _take_data(self, flags: int, payload: bytes) -> bytes:
        self._taken += len(payload)
        if self._taken >= _CREDIT_AT:
            credit = self._taken.to_bytes(4, "big")
            self._outgoing += (
                _frame(_WINDOW_UPDATE, 0, 0, credit),
                _frame(_WINDOW_UPDATE, 0, STREAM, credit),
            )
            self._taken = 0
        if flags & _END_STREAM:
            self.ended = True
        return _unpadded(flags, payload)

    def _take_credit(self, for_stream: bool, payload: bytes) -> None:
        credit = int.from_bytes(payload, "big")
        if for_stream:
            self._stream_window += credit
        else:
            self._window += credit

    def _take_other(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _HEADERS:
            self._take_headers(flags, payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._outgoing.append(_frame(_PING, _ACK, 0, payload))
        elif kind == _RST_STREAM:
            raise WireError(f"the server aborted the request (code {int.from_bytes(payload, 'big')})")
        elif kind == _GOAWAY:
            raise WireError("the server is closing the connection")

    def _take_headers(self, flags: int, payload: bytes) -> None:
        if flags & _END_STREAM:
            self.ended = True
        if self.accepted:
            return  # trailers
        block = _unpadded(flags, payload)
        if flags & _PRIORITY:
            block = block[5:]
        # Before the first field only the table's size may change (RFC 7541, section 4.2).
        first = next((byte for byte in block if byte & 0xE0 != 0x20), None)
        if first != _STATUS_200:
            raise WireError("the server refuses /connect")
        self.accepted = True

    def _take_settings(self, payload: bytes) -> None:
        for start in range(0, len(payload) - 5, 6):
            code = int.from_bytes(payload[start : start + 2], "big")
            value = int.from_bytes(payload[start + 2 : start + 6], "big")
            if code == _SETTING_WINDOW:
                self._stream_window += value - self._peer_initial
                self._peer_initial = value
            elif code == _SETTING_FRAME_LEN:
                self._peer_frame_len = min(value, _MAX_FRAME_LEN)
        self._outgoing.append(_frame(_SETTINGS, _ACK, 0, b""))


def _head(length: int, kind: int, flags: int, stream: int) -> bytes:
    return length.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _head(len(payload), kind, flags, stream) + payload


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED or not payload:
        return payload
    return payload[1 : len(payload) - payload[0]]


def _literals(fields: Sequence[tuple[str, str]]) -> bytes:
    """A header block of literals without indexing or Huffman code (RFC 7541, section 6.2.2)."""
    block = bytearray()
    for field in fields:
        block.append(0)
        for text in field:
            encoded = text.encode()
            if len(encoded) >= 127:  # longer ones need a second length byte; no address of ours is
                raise WireError(f"the server's name {text!r} is too long")
            block += bytes((len(encoded),)) + encoded
    return bytes(block)
