"""HTTP/2 as nearly every connection speaks it: one request of a known kind, its body and its answer.

The protocol library needs some 900 calls and 3 KiB for that. Here such a connection is a few numbers,
changed as the library would change them; whatever else comes calls the library in. It is then told what has
been said so far and has the connection from there on, so a peer cannot see which of the two it talks to.
"""

import functools
from collections.abc import Iterable
from typing import ClassVar

import attrs
import h2.events
import h2.exceptions
from h2.windows import WindowManager

from commucat_server.listener.h2_frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEAD_SIZE,
    HEADERS,
    INITIAL_WINDOW,
    LARGEST_FRAME,
    LARGEST_WINDOW,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    data_frame,
    frame,
    read_head,
)
from commucat_server.listener.h2_parts import header_block
from commucat_server.listener.h2_protocol import ServerProtocol
from commucat_server.listener.settings import ListenerSettings
from commucat_server.listener.stream import CONNECT_PATH

Field = tuple[bytes, bytes]

_ANY_ANSWER = [(b":status", b"200")]
"""No head of ours leaves anything behind in the library, see ``HeadEncoder``."""
_SETTINGS_ACK = frame(SETTINGS, ACK, 0)
_LARGEST_SETTINGS = 16 * 6
"""Bytes of an opening that is understood: sixteen settings, of which there are not half as many."""
_KEPT_REQUESTS = 64
_KEPT_SIZE = 512
"""A request for ``/connect`` is one of a few kinds, each some hundred bytes."""
# The last has tokens of clients that can name no other header.
_SECRET = frozenset({b"authorization", b"cookie", b"proxy-authorization", b"sec-websocket-protocol"})


@attrs.frozen
class _Peer:
    """What a peer's settings mean for us."""

    settings: bytes
    """The frame."""
    window: int
    """Bytes that a stream may carry at its beginning."""
    largest_frame: int


@attrs.frozen
class _Request:
    """A request that the library has found good, as the first of a connection."""

    flags: int
    block: bytes
    fields: tuple[Field, ...]

    def on(self, stream_id: int) -> bytes:
        """The frame."""
        return frame(HEADERS, self.flags, stream_id, self.block)


@functools.lru_cache(maxsize=64)
def _understood(settings: bytes) -> _Peer | None:
    """What the library makes of a peer's first SETTINGS frame; ``None`` if only it can deal with that."""
    library = ServerProtocol()
    try:
        library.open(ListenerSettings())
        library.take_frames(PREFACE + settings)
    except h2.exceptions.ProtocolError:
        return None
    if library.encoder.header_table.resized:
        return None  # our next head must say so
    return _Peer(settings, library.remote_settings.initial_window_size, library.max_outbound_frame_size)


@functools.lru_cache(maxsize=8)
def _opening(settings: ListenerSettings) -> bytes:
    library = ServerProtocol()
    library.open(settings)
    return library.data_to_send()


class _Stream:
    """The one stream, as long as the library does not have it."""

    __slots__ = ("answered", "ended", "inbound", "peer_ended", "request", "stream_id", "window")

    def __init__(self, stream_id: int, request: _Request, inbound: int, window: int) -> None:
        self.stream_id = stream_id
        self.request = request
        self.answered = False
        """The head of the response was sent."""
        self.inbound = WindowManager(inbound)
        self.window = window
        """Bytes that we may send."""
        self.peer_ended = bool(request.flags & END_STREAM)
        self.ended = False


class LazyProtocol:
    """The server side of HTTP/2, bytes in and events out: what :class:`ServerProtocol` does, with less.

    The methods have the names of the library's, and raise what it raises.
    """

    __slots__ = (
        "_acknowledged",
        "_inbound",
        "_largest_frame",
        "_library",
        "_out",
        "_peer",
        "_settings",
        "_stream",
        "_window",
    )

    _known: ClassVar[dict[tuple[int, int, bytes], _Request]] = {}
    """By the limit for a head, flags and block."""

    def __init__(self, settings: ListenerSettings) -> None:
        self._settings = settings
        self._library: ServerProtocol | None = None
        self._out = b""
        self._peer: _Peer | None = None
        # Of our settings.
        self._acknowledged = False
        self._inbound = WindowManager(max(INITIAL_WINDOW, settings.connection_window))
        self._window = INITIAL_WINDOW
        self._largest_frame = LARGEST_FRAME
        self._stream: _Stream | None = None

    def open(self) -> None:
        """Queue our side's opening."""
        self._out += _opening(self._settings)

    # -- what the peer sends -------------------------------------------------------------------------

    def take_data(self, stream_id: int, data: bytes) -> bool:
        """As :meth:`ServerProtocol.take_data`."""
        if self._library is not None:
            return self._library.take_data(stream_id, data)
        return self._consume(stream_id, len(data)) is not None

    def take_frames(self, frames: bytes) -> list[h2.events.Event]:
        """Take complete frames, or a part of the preface.

        Raises:
            h2.exceptions.ProtocolError: the peer broke the protocol; a GOAWAY is queued.
        """
        events: list[h2.events.Event] = []
        position, end = 0, len(frames)
        if self._peer is None and self._library is None and frames.startswith(PREFACE):
            position = self._take_opening(frames)
        while position < end:
            if self._library is not None or self._peer is None:
                return events + self.library().take_frames(frames[position:])
            high, low, kind, flags, stream_id = read_head(frames, position)
            payload = position + HEAD_SIZE
            following = payload + (high << 16 | low)
            if not self._take(kind, flags, stream_id, frames[payload:following], events):
                events += self._ask_library(kind, flags, frames[position:following])
            position = following
        return events

    def _take_opening(self, frames: bytes) -> int:
        """Take the preface and the settings behind it, if they are understood; where they end."""
        begin = len(PREFACE)
        if len(frames) < begin + HEAD_SIZE:
            return 0
        high, low, kind, flags, stream_id = read_head(frames, begin)
        size: int = high << 16 | low
        if kind != SETTINGS or flags or stream_id or size > _LARGEST_SETTINGS:
            return 0
        end = begin + HEAD_SIZE + size
        self._peer = _understood(frames[begin:end])
        if self._peer is None:
            return 0
        self._largest_frame = self._peer.largest_frame
        self._out += _SETTINGS_ACK
        return end

    def _take(
        self, kind: int, flags: int, stream_id: int, payload: bytes, events: list[h2.events.Event]
    ) -> bool:
        """Take one frame and note what it means; ``False``: nothing has changed, it is for the library."""
        if kind == DATA:
            return flags in (0, END_STREAM) and self._take_data(stream_id, payload, flags, events)
        if kind == WINDOW_UPDATE:
            return not flags and len(payload) == 4 and self._take_update(stream_id, payload, events)
        if kind == HEADERS:
            return self._take_request(flags, stream_id, payload, events)
        if kind == PING and not stream_id and len(payload) == 8 and flags in (0, ACK):
            if flags:
                events.append(h2.events.PingAckReceived(ping_data=payload))
            else:
                self._out += frame(PING, ACK, 0, payload)
            return True
        if kind == SETTINGS and flags == ACK and not stream_id and not payload and not self._acknowledged:
            self._acknowledged = True
            if self._stream is not None:
                self._resize(self._stream.inbound)
            return True
        return False

    def _resize(self, inbound: WindowManager) -> None:
        """The peer knows what window its streams have (RFC 9113, section 6.9.2)."""
        more = self._settings.stream_window - INITIAL_WINDOW
        largest = inbound.max_window_size + more
        inbound.window_opened(more)
        inbound.max_window_size = largest

    def _take_data(self, stream_id: int, data: bytes, flags: int, events: list[h2.events.Event]) -> bool:
        stream = self._consume(stream_id, len(data))
        if stream is None:
            return False
        events.append(
            h2.events.DataReceived(stream_id=stream_id, data=data, flow_controlled_length=len(data))
        )
        if flags:
            stream.peer_ended = True
            events.append(h2.events.StreamEnded(stream_id=stream_id))
        return True

    def _take_update(self, stream_id: int, payload: bytes, events: list[h2.events.Event]) -> bool:
        increment = int.from_bytes(payload, "big")
        stream = self._stream
        if not stream_id:
            if not 0 < increment <= LARGEST_WINDOW - self._window:
                return False
            self._window += increment
        else:
            if stream is None or stream.stream_id != stream_id or stream.ended:
                return False
            if not 0 < increment <= LARGEST_WINDOW - stream.window:
                return False
            stream.window += increment
        events.append(h2.events.WindowUpdated(stream_id=stream_id, delta=increment))
        return True

    def _take_request(
        self, flags: int, stream_id: int, payload: bytes, events: list[h2.events.Event]
    ) -> bool:
        # What a peer may open is an odd number (RFC 9113, section 5.1.1).
        if self._stream is not None or not stream_id % 2 or stream_id > LARGEST_WINDOW:
            return False
        request = self._known.get((self._settings.max_header_size, flags, payload))
        if request is None:
            return False
        assert self._peer is not None
        inbound = self._settings.stream_window if self._acknowledged else INITIAL_WINDOW
        self._stream = stream = _Stream(stream_id, request, inbound, self._peer.window)
        events.append(h2.events.RequestReceived(stream_id=stream_id, headers=list(request.fields)))
        if stream.peer_ended:
            events.append(h2.events.StreamEnded(stream_id=stream_id))
        return True

    def _consume(self, stream_id: int, size: int) -> _Stream | None:
        """Take so many bytes of the peer into account; the stream, or ``None`` if it may not send them."""
        stream = self._stream
        if (
            stream is None
            or stream.stream_id != stream_id
            or stream.peer_ended
            or size > stream.inbound.current_window_size
            or size > self._inbound.current_window_size
        ):
            return None
        stream.inbound.current_window_size -= size
        self._inbound.current_window_size -= size
        return stream

    # -- what we send --------------------------------------------------------------------------------

    def send_headers(self, stream_id: int, fields: list[Field], end_stream: bool = False) -> None:
        """Queue the head of a response."""
        stream = self._sending(stream_id)
        # A second head, such as one behind an informational one, is for the library.
        if stream is not None and not stream.answered and not fields[0][1].startswith(b"1"):
            block = header_block(tuple(fields))
            if len(block) <= self._largest_frame:
                flags = END_HEADERS | END_STREAM if end_stream else END_HEADERS
                self._out += frame(HEADERS, flags, stream_id, block)
                stream.answered = True
                stream.ended = end_stream
                return
        self.library().send_headers(stream_id, fields, end_stream=end_stream)

    def send_data(self, stream_id: int, chunk: bytes, end_stream: bool = False) -> None:
        """Queue a DATA frame."""
        stream = self._stream
        if stream is None or not stream.answered or not self._spend(stream_id, len(chunk)):
            self.library().send_data(stream_id, chunk, end_stream=end_stream)
            return
        self._out += frame(DATA, END_STREAM if end_stream else 0, stream_id, chunk)
        stream.ended = end_stream

    def frame_data(self, stream_id: int, chunk: bytes) -> bytes | None:
        """As :meth:`ServerProtocol.frame_data`."""
        if self._library is not None:
            return self._library.frame_data(stream_id, chunk)
        return data_frame(stream_id, chunk) if self._spend(stream_id, len(chunk)) else None

    def acknowledge_received_data(self, amount: int, stream_id: int) -> None:
        """So many bytes of the peer were taken; its windows open when that is worth a frame."""
        stream = self._stream
        if self._library is not None or stream is None or stream.stream_id != stream_id:
            self.library().acknowledge_received_data(amount, stream_id)
            return
        if increment := self._inbound.process_bytes(amount):
            self._out += frame(WINDOW_UPDATE, 0, 0, increment.to_bytes(4, "big"))
        if not (stream.ended and stream.peer_ended) and (increment := stream.inbound.process_bytes(amount)):
            self._out += frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))

    def ping(self, payload: bytes) -> None:
        """Queue a PING with eight bytes."""
        if self._library is not None:
            self._library.ping(payload)
        else:
            self._out += frame(PING, 0, 0, payload)

    def local_flow_control_window(self, stream_id: int) -> int:
        """Bytes that may be sent on a stream."""
        stream = self._sending(stream_id)
        if stream is None:
            return self.library().local_flow_control_window(stream_id)
        return min(self._window, stream.window)

    @property
    def max_outbound_frame_size(self) -> int:
        """Bytes of payload that the peer takes in a frame."""
        return self._largest_frame if self._library is None else self._library.max_outbound_frame_size

    def reset_stream(self, stream_id: int, code: int) -> None:
        """Queue a RST_STREAM."""
        self.library().reset_stream(stream_id, code)

    def close_connection(self, code: int) -> None:
        """Queue a GOAWAY."""
        self.library().close_connection(code)

    def data_to_send(self) -> bytes:
        """Remove everything that is queued."""
        out, self._out = self._out, b""
        return out if self._library is None else out + self._library.data_to_send()

    def _sending(self, stream_id: int) -> _Stream | None:
        """The stream, if it is one to send on; ``None`` if the library knows."""
        stream = self._stream
        return None if stream is None or stream.stream_id != stream_id or stream.ended else stream

    def _spend(self, stream_id: int, size: int) -> bool:
        """Take so many bytes of ours into account; ``False``, and nothing has changed: the library knows."""
        stream = self._stream
        if (
            stream is None
            or stream.stream_id != stream_id
            or stream.ended
            or size > stream.window
            or size > self._window
            or size > self._largest_frame
        ):
            return False
        stream.window -= size
        self._window -= size
        return True

    # -- the library ---------------------------------------------------------------------------------

    def library(self) -> ServerProtocol:
        """The library's connection, in the state of this one, which it has from now on."""
        library = self._library
        if library is None:
            self._library = library = self._told()
            self._stream = None
        return library

    def _told(self) -> ServerProtocol:
        library = ServerProtocol()
        library.open(self._settings)
        if self._peer is not None:
            library.take_frames(PREFACE + self._peer.settings)
        if self._acknowledged:
            library.take_frames(_SETTINGS_ACK)
        stream = self._stream
        if stream is not None:
            library.take_frames(stream.request.on(stream.stream_id))
            if stream.answered:
                library.send_headers(stream.stream_id, _ANY_ANSWER)
            if stream.peer_ended and not stream.request.flags & END_STREAM:
                library.take_frames(frame(DATA, END_STREAM, stream.stream_id))
            if stream.ended:
                library.end_stream(stream.stream_id)
            library.adopt(stream.stream_id, stream.inbound, stream.window)
        library.adopt(0, self._inbound, self._window)
        # All of it has been sent, or waits here in front of what the library will send.
        library.clear_outbound_data_buffer()
        return library

    def _ask_library(self, kind: int, flags: int, a_frame: bytes) -> list[h2.events.Event]:
        """Let it take a frame, and remember what it found good if others are likely to send the same."""
        first = self._stream is None
        events = self.library().take_frames(a_frame)
        block = a_frame[HEAD_SIZE:]
        if first and kind == HEADERS and flags & ~END_STREAM == END_HEADERS and len(block) <= _KEPT_SIZE:
            requests = [event for event in events if isinstance(event, h2.events.RequestReceived)]
            if len(requests) == 1 and _is_plain_connect(requests[0].headers):
                if len(self._known) >= _KEPT_REQUESTS:
                    self._known.clear()
                fields = tuple(requests[0].headers)
                self._known[self._settings.max_header_size, flags, block] = _Request(flags, block, fields)
        return events


def _is_plain_connect(fields: Iterable[Field]) -> bool:
    """Whether others are likely to ask the same, and nothing in it is secret or counts bytes."""
    names = dict(fields)
    return (
        names.get(b":path") == CONNECT_PATH and _SECRET.isdisjoint(names) and b"content-length" not in names
    )
