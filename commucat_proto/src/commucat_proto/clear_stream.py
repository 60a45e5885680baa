"""The stream after a handshake whose client does not encrypt: plain frames, one after the other.

The terminal client of October 2025 shakes hands by Noise and then forgets the keys. This is for it alone.
"""

from collections.abc import Iterable
from typing import Protocol

from commucat_proto.decoder import FrameDecoder
from commucat_proto.frames import Frame, RefusedFrame


class FrameStream(Protocol):
    """Both directions of one established session, as the session machine uses them."""

    def seal(self, encoded_frames: Iterable[bytes]) -> bytes:
        """The bytes that carry these frames."""

    def open(self, data: bytes | bytearray) -> list[Frame | RefusedFrame]:
        """Take bytes as the network split them; return the frames they completed.

        Raises:
            CipherStreamError: the stream cannot be read any further.
            CodecError: a malformed frame.
        """

    def salvage(self) -> list[Frame | RefusedFrame]:
        """The frames that the last, failed :meth:`open` had completed before the broken part."""

    def rest(self) -> None:
        """Called now and then: gives back memory if nothing was sent or received since the last call."""


class ClearStream:
    """A :class:`FrameStream` without encryption; :class:`SecureStream` is the other one."""

    def __init__(self, *, max_frame_len: int) -> None:
        self._decoder = FrameDecoder(max_frame_len)
        self._frames: list[Frame | RefusedFrame] = []

    def seal(self, encoded_frames: Iterable[bytes]) -> bytes:
        """Join encoded frames."""
        return b"".join(encoded_frames)

    def open(self, data: bytes | bytearray) -> list[Frame | RefusedFrame]:
        """Take bytes as the network split them; return the frames they completed.

        Raises:
            CodecError: a malformed frame; :meth:`salvage` has those before it.
        """
        self._frames = []
        self._decoder.feed(data)
        while (frame := self._decoder.next_whole()) is not None:
            self._frames.append(frame)  # one by one: those before a malformed one are kept
        frames, self._frames = self._frames, []
        return frames

    def salvage(self) -> list[Frame | RefusedFrame]:
        """The frames that the last, failed :meth:`open` had completed before the broken part."""
        return self._frames

    def rest(self) -> None:
        """There is nothing to give back."""
