"""Cuts a byte stream, however the network split it, into frames."""

from collections.abc import Iterator

from commucat_proto.errors import CodecError, CodecErrorCode
from commucat_proto.frames import MAX_FRAME_LEN, Frame, RefusedFrame, cut_body
from commucat_proto.varint import Buffer, read_varint

# Consumed bytes are dropped when they are at least this many and half of the buffer, so that
# every byte moves a bounded number of times, whatever the sizes of chunks and frames.
_COMPACT_AT = 64 * 1024


class FrameDecoder:
    """Collects bytes and hands out frames in order.

    "Not complete yet" is None; a broken stream is a :class:`CodecError`, and stays one. A
    body whose whole announced length has arrived is never "incomplete": waiting for more
    would stall the session for ever. Whether JSON that cannot be read breaks the stream too
    is the reader's choice: :meth:`next_frame` or :meth:`next_whole`.
    """

    __slots__ = ("_buffer", "_failure", "_max_frame_len", "_offset")

    def __init__(self, max_frame_len: int = MAX_FRAME_LEN) -> None:
        """``max_frame_len``: bytes of a body that are accepted, at most ``MAX_FRAME_LEN``."""
        self._max_frame_len = min(max_frame_len, MAX_FRAME_LEN)
        self._buffer = bytearray()
        self._offset = 0
        self._failure: tuple[CodecErrorCode, str | None] | None = None

    @property
    def buffered(self) -> int:
        """Bytes that are kept and belong to no frame handed out so far."""
        return len(self._buffer) - self._offset

    def feed(self, data: Buffer) -> None:
        """Append bytes from the peer. After a failure they are dropped."""
        if self._failure is not None:
            return
        offset = self._offset
        if offset and (
            offset == len(self._buffer) or (offset >= _COMPACT_AT and 2 * offset >= len(self._buffer))
        ):
            del self._buffer[:offset]
            self._offset = 0
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next frame, or None while it is incomplete. JSON that cannot be read breaks the stream.

        Raises:
            CodecError: the stream is broken here; every later call raises the same.
        """
        found = self.next_whole()
        if isinstance(found, RefusedFrame):
            error = found.error
            self._break(error)
            raise error
        return found

    def next_whole(self) -> Frame | RefusedFrame | None:
        """As :meth:`next_frame`, but a frame whose JSON cannot be read is handed out as refused.

        Raises:
            CodecError: the borders of the frames are lost; every later call raises the same.
        """
        buffer = self._buffer
        start = self._offset
        end = len(buffer)
        if start < end and (length := buffer[start]) < 0x80 and length <= self._max_frame_len:
            start += 1
        else:
            announced = self._announced(start, end)
            if announced is None:
                if start == end and end:
                    # All of it was handed out, and the next bytes may come in hours.
                    buffer.clear()
                    self._offset = 0
                return None
            length, start = announced
        stop = start + length
        if stop > end:
            return None
        try:
            found = cut_body(buffer, start, stop)
        except CodecError as exc:
            self._break(exc)
            raise
        self._offset = stop
        return found

    def frames(self) -> Iterator[Frame]:
        """Every frame that is complete now.

        Raises:
            CodecError: after the frames before the broken one.
        """
        while (frame := self.next_frame()) is not None:
            yield frame

    def take_rest(self) -> bytes:
        """Hand over the bytes that belong to no frame yet, and forget them.

        For the moment when the stream changes its meaning, as it does when encryption begins
        in the middle of what was read.
        """
        rest = bytes(self._buffer[self._offset :])
        self._buffer.clear()
        self._offset = 0
        return rest

    def _announced(self, start: int, end: int) -> tuple[int, int] | None:
        """(announced body length, where the body begins), None while that is incomplete."""
        if self._failure is not None:
            raise CodecError(*self._failure)
        try:
            found = read_varint(self._buffer, start, end)
            # Before the bytes are there: a peer must not make us keep what we will refuse.
            if found is not None and found[0] > self._max_frame_len:
                raise CodecError(CodecErrorCode.FRAME_TOO_LARGE)
        except CodecError as exc:
            self._break(exc)
            raise
        return found

    def _break(self, error: CodecError) -> None:
        self._failure = (error.code, error.detail)
        self._buffer.clear()
        self._offset = 0
