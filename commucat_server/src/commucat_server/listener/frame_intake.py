"""Looks at HTTP/2 frames before the protocol does: joins small ones, refuses floods.

A chat client sends one small DATA frame per message, and the library spends more time per frame than the
rest of the server per message. DATA frames of one stream with no other kind of frame between them mean the
same as one frame with their bytes (RFC 9113, section 6.1: frame borders carry no meaning, and flow control
counts bytes; section 5.1: streams are independent), so they are joined here, at a fraction of the cost. The
same pass sees every frame header, which makes it the place for limits that must hold before memory is spent.
"""

from commucat_server.listener.errors import PeerViolationError
from commucat_server.listener.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_STREAM,
    GOAWAY,
    HEAD_SIZE,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    WINDOW_UPDATE,
    read_head,
)
from commucat_server.listener.settings import ListenerSettings

# RFC 9113, section 7.
_FRAME_SIZE_ERROR = 6
_ENHANCE_YOUR_CALM = 11

JOINED_SIZE = 2**20
"""Largest frame that joining makes; the library must accept it."""
_SMALL = 64
"""DATA frames below so many bytes that cannot be joined cost us far more than their sender."""
_UPDATES_PER_DATA, _UPDATES_PER_REQUEST = 10, 2
"""WINDOW_UPDATEs that a DATA frame of ours, and a request of the peer, may cause before they are a flood."""


class FrameIntake:
    """Bytes of the peer in, frames for the protocol out. Never blocks, never reads a clock.

    Args:
        settings: the limits.
    """

    __slots__ = (
        "_block_size",
        "_control",
        "_held",
        "_interval_end",
        "_preface_left",
        "_resets",
        "_settings",
        "_updates",
        "peer_going_away",
    )

    def __init__(self, settings: ListenerSettings) -> None:
        self._settings = settings
        self._held = b""
        self._preface_left = len(PREFACE)
        self._block_size = 0
        self._interval_end = 0.0
        self._control = 0
        self._resets = 0
        # WINDOW_UPDATEs beyond those that the peer's requests may cause.
        self._updates = 0
        self.peer_going_away = False
        """The peer sent GOAWAY: it opens no more streams, and those that are open go on."""

    def feed(self, data: bytes | bytearray, now: float, data_sent: int = 0) -> list[tuple[int, bytes]]:
        """Take what arrived; return the complete frames in it, joined.

        Each piece is either the payload of plain DATA (neither padded nor the last) of a stream, or frames as
        they came, with 0 for the stream.

        Args:
            data: bytes as the network split them.
            now: seconds on any monotonic clock, for the flood guards.
            data_sent: DATA frames that this side has sent on the connection.

        Raises:
            PeerViolationError: a frame is too large, or a limit is exceeded.
        """
        out: list[tuple[int, bytes]] = []
        others: list[bytes | bytearray] = []
        if self._preface_left:
            # The library compares the preface, byte by byte as it comes.
            preface = data[: self._preface_left]
            self._preface_left -= len(preface)
            data = data[len(preface) :]
            others.append(preface)
        if self._held:
            data = self._held + data
        position, end = 0, len(data)
        # The payloads of plain DATA frames by stream, since the last frame of another kind.
        runs: dict[int, list[bytes | bytearray]] = {}
        runs_size = 0
        largest = self._settings.max_frame_size
        while end - position >= HEAD_SIZE:
            high, low, kind, flags, stream = read_head(data, position)
            length = high << 16 | low
            if length > largest:
                raise PeerViolationError(_FRAME_SIZE_ERROR, f"frame of {length} bytes")
            payload = position + HEAD_SIZE
            following = payload + length
            if following > end:
                break
            # On stream 0 it would look like frames that came, to those behind, and they have not been judged.
            if kind == DATA and length and not flags and stream:
                if others:
                    out.append((0, b"".join(others)))
                    others = []
                if runs_size + length > JOINED_SIZE:
                    _join(runs, out)
                    runs, runs_size = {}, 0
                run = runs.get(stream)
                if run is None:
                    run = runs[stream] = []
                run.append(data[payload:following])
                runs_size += length
            else:
                if runs:
                    _join(runs, out)
                    runs, runs_size = {}, 0
                self._judge(kind, flags, length, now, data_sent)
                if kind == GOAWAY:
                    # The library would stop sending at once; streams that are open may finish
                    # (RFC 9113, section 6.8).
                    self.peer_going_away = True
                else:
                    others.append(data[position:following])
            position = following
        if runs:
            _join(runs, out)
        if others:
            out.append((0, b"".join(others)))
        self._held = bytes(data[position:]) if position < end else b""
        return out

    def count_reset(self, now: float) -> None:
        """Count a stream that was reset by this side because of something the peer did.

        Raises:
            PeerViolationError: too many.
        """
        self._new_interval(now)
        self._resets += 1
        if self._resets > self._settings.max_resets:
            raise PeerViolationError(_ENHANCE_YOUR_CALM, "too many stream resets")

    def count_control(self, now: float) -> None:
        """Count a frame that costs its sender nothing.

        Raises:
            PeerViolationError: too many.
        """
        self._new_interval(now)
        self._control += 1
        if self._control > self._settings.max_control_frames:
            raise PeerViolationError(_ENHANCE_YOUR_CALM, "too many control frames")

    def _judge(self, kind: int, flags: int, length: int, now: float, data_sent: int) -> None:
        if kind in (HEADERS, CONTINUATION):
            self._block_size = length if kind == HEADERS else self._block_size + length
            if self._block_size > self._settings.max_header_size:
                raise PeerViolationError(_ENHANCE_YOUR_CALM, "header block too large")
            if kind == HEADERS:
                self._updates -= _UPDATES_PER_REQUEST
            elif not length:
                self.count_control(now)
        elif kind == RST_STREAM:
            self.count_reset(now)
        elif kind == DATA:
            if length < _SMALL and not flags & END_STREAM:
                self.count_control(now)
        elif kind == WINDOW_UPDATE:
            self._updates += 1
            if self._updates > data_sent * _UPDATES_PER_DATA:
                self.count_control(now)
        elif kind == PING and flags & ACK:
            return  # An answer is judged by who knows the question.
        else:
            self.count_control(now)

    def _new_interval(self, now: float) -> None:
        if now >= self._interval_end:
            self._interval_end = now + self._settings.flood_interval
            self._control = self._resets = 0


def _join(runs: dict[int, list[bytes | bytearray]], out: list[tuple[int, bytes]]) -> None:
    for stream, run in runs.items():
        out.append((stream, bytes(run[0]) if len(run) == 1 else b"".join(run)))
