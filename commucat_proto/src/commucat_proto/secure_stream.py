"""The encrypted stream after the handshake: Noise messages with a varint length before each.

The decrypted plaintexts form one byte stream per direction, from which frames are cut: a
frame may span several Noise messages, and one message may hold several frames.
"""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from commucat_crypto import MAX_NOISE_MESSAGE, MAX_NOISE_PLAINTEXT, TAG_LEN, NoiseError, NoiseTransport
from commucat_proto.decoder import FrameDecoder
from commucat_proto.errors import RemoteProtocolError
from commucat_proto.varint import encode_varint

# 65 535 needs three varint bytes; a fourth could only announce more than a Noise message holds.
_MAX_LENGTH_BYTES = 3


class CipherStreamError(RemoteProtocolError):
    """The peer's encrypted stream cannot be read any further; nothing can be answered."""


_Cut = TypeVar("_Cut")


class SecureStream(Generic[_Cut]):
    """Both directions of one established session."""

    __slots__ = ("_cipher", "_cut", "_decoder", "_frames", "_transport")

    def __init__(
        self,
        transport: NoiseTransport,
        *,
        max_frame_len: int,
        cut: Callable[[FrameDecoder], _Cut | None],
    ) -> None:
        """``cut`` takes the next frame out of a decoder; it decides what breaks the stream."""
        self._transport = transport
        self._cipher = bytearray()
        self._decoder = FrameDecoder(max_frame_len)
        self._cut = cut
        self._frames: list[_Cut] = []

    def seal(self, encoded_frames: Iterable[bytes]) -> bytes:
        """Encrypt encoded frames into as few Noise messages as they fit in."""
        plaintext = b"".join(encoded_frames)
        encrypt = self._transport.encrypt
        if len(plaintext) <= MAX_NOISE_PLAINTEXT:
            message = encrypt(plaintext)
            return encode_varint(len(message)) + message
        parts: list[bytes] = []
        for start in range(0, len(plaintext), MAX_NOISE_PLAINTEXT):
            message = encrypt(plaintext[start : start + MAX_NOISE_PLAINTEXT])
            parts += (encode_varint(len(message)), message)
        return b"".join(parts)

    def open(self, data: bytes | bytearray) -> list[_Cut]:
        """Take bytes as the network split them; return the frames they completed.

        Raises:
            CipherStreamError: a length out of range or a failed decryption.
            CodecError: inside intact encryption, what ``cut`` gives up at.

        Frames before the broken part are not lost with it: :meth:`salvage` has them.
        """
        self._frames = []
        cipher = self._cipher
        cipher += data
        end = len(cipher)
        offset = 0
        decrypt = self._transport.decrypt
        feed = self._decoder.feed
        failure: CipherStreamError | None = None
        try:
            while offset < end:
                length, body = self._length(offset, end)
                if body < 0 or end - body < length:
                    break
                feed(decrypt(bytes(cipher[body : body + length])))
                offset = body + length
        except NoiseError as exc:
            failure = CipherStreamError(str(exc))
        except CipherStreamError as exc:
            failure = exc
        del cipher[:offset]
        # A malformed frame in here came before the unreadable part, so its error wins.
        self._collect()
        if failure is not None:
            raise failure
        # Not kept: the session may now be silent for hours.
        frames, self._frames = self._frames, []
        return frames

    def salvage(self) -> list[_Cut]:
        """The frames that the last, failed :meth:`open` had completed before the broken part."""
        return self._frames

    def rest(self) -> None:
        """Called now and then: gives back memory if nothing was sent or received since the last call."""
        self._transport.rest()

    def _collect(self) -> None:
        append = self._frames.append
        cut, decoder = self._cut, self._decoder
        while (frame := cut(decoder)) is not None:
            append(frame)

    def _length(self, offset: int, end: int) -> tuple[int, int]:
        """(announced length, where the ciphertext begins); begin < 0 when more bytes are needed.

        Refused before anything is kept: a peer must not make us buffer what cannot be a
        Noise message.
        """
        value = 0
        for index in range(_MAX_LENGTH_BYTES):
            if offset + index >= end:
                return 0, -1
            byte = self._cipher[offset + index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if not TAG_LEN <= value <= MAX_NOISE_MESSAGE:
                    raise CipherStreamError(f"a Noise message of {value} bytes is announced")
                return value, offset + index + 1
        raise CipherStreamError("the length of a Noise message is too long")
