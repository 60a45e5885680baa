"""The voice pipeline: raw sound into packets, and packets into raw sound that plays without gaps.

Three parts, so that codecs can run in worker threads while packets are handled elsewhere:

- :class:`VoiceSender` encodes; it belongs to one thread at a time.
- :class:`VoiceReceiver` takes packets as they arrive and says, every frame, what to play. It is quick and
  runs no codec, so it stays where packets arrive.
- :class:`VoiceDecoder` makes sound of what the receiver says; it belongs to one thread at a time.

None of them reads a clock.
"""

from typing import Final

import attrs

from commucat_media.errors import MediaCodecError, MediaFormatError
from commucat_media.jitter_buffer import (
    Arrival,
    JitterBuffer,
    Playout,
    PlayoutCounts,
    PlayoutKind,
)
from commucat_media.opus import DTX_BYTES, OpusDecoder, OpusEncoder
from commucat_media.packet import U32_MASK, AudioCodec, AudioPacket, MediaSource, StreamPacket
from commucat_media.pcm import AudioFormat, level_of
from commucat_media.reception import ReceptionReport

FIRST_DELAY: Final = 0.06
LONGEST_DELAY: Final = 0.4


class VoiceSender:
    """Cuts raw sound into frames and makes a packet of each: Opus, or raw where there is no encoder."""

    def __init__(
        self, *, stream: int, encoder: OpusEncoder | None, audio_format: AudioFormat | None = None
    ) -> None:
        """``stream`` is a random 32-bit number, chosen anew for every call.

        Raises:
            MediaFormatError: ``audio_format`` is not the encoder's.
        """
        if audio_format is None:
            audio_format = encoder.format if encoder is not None else AudioFormat()
        if encoder is not None and encoder.format != audio_format:
            raise MediaFormatError(f"the encoder takes {encoder.format}, not {audio_format}")
        self.format = audio_format
        self.encoder = encoder
        self._stream = stream
        self._number = 0
        self._timestamp = 0
        self._rest = b""

    def feed(self, pcm: bytes) -> list[StreamPacket]:
        """Take any amount of raw sound, and return the packets of the frames that it completes.

        In pauses, with DTX, a frame may need no packet: the timestamp goes on, the number does not.

        Raises:
            MediaCodecError: libopus failed, or the encoder is closed.
        """
        sound = self._rest + pcm
        size = self.format.frame_bytes
        whole = len(sound) - len(sound) % size
        self._rest = sound[whole:]
        packets = (self._packet(sound[at : at + size]) for at in range(0, whole, size))
        return [packet for packet in packets if packet is not None]

    def flush(self) -> list[StreamPacket]:
        """Return the packet of the last frame, filled up with silence; none if nothing is left over."""
        if not self._rest:
            return []
        return self.feed(bytes(self.format.frame_bytes - len(self._rest)))

    def _packet(self, frame: bytes) -> StreamPacket | None:
        timestamp = self._timestamp
        self._timestamp = (timestamp + self.format.frame_ticks) & U32_MASK
        data = frame if self.encoder is None else self.encoder.encode(frame)
        if self.encoder is not None and len(data) <= DTX_BYTES:
            return None
        number = self._number
        # Never wraps: it would take years, and a number must not be used twice with one key.
        self._number += 1
        return StreamPacket(
            source=MediaSource.RAW if self.encoder is None else MediaSource.ENCODED,
            codec=AudioCodec.RAW_PCM if self.encoder is None else AudioCodec.OPUS,
            data=data,
            stream=self._stream,
            number=number,
            timestamp=timestamp,
            level=level_of(frame).dbov,
        )


class VoiceReceiver:
    """Packets of one stream on their way to a decoder; see :mod:`commucat_media.jitter_buffer`."""

    def __init__(
        self,
        audio_format: AudioFormat | None = None,
        *,
        first_delay: float = FIRST_DELAY,
        longest_delay: float = LONGEST_DELAY,
    ) -> None:
        self.format = audio_format or AudioFormat()
        self._buffer = JitterBuffer(
            frame_ticks=self.format.frame_ticks, first_delay=first_delay, longest_delay=longest_delay
        )

    @property
    def counts(self) -> PlayoutCounts:
        return self._buffer.counts

    @property
    def target_delay(self) -> float:
        """Seconds that packets wait at present, at best."""
        return self._buffer.target_delay

    def receive(self, packet: StreamPacket | AudioPacket, now: float) -> Arrival:
        """Take in a packet at the time ``now`` (seconds); one of version 1 counts as the one after the last.

        Raises:
            MediaFormatError: it is video, still encrypted, or larger than any sound.
        """
        if not isinstance(packet.codec, AudioCodec):
            raise MediaFormatError(f"a packet of {packet.codec.name} is no sound")
        if isinstance(packet, AudioPacket):
            return self._buffer.put_unnumbered(packet.data, now, codec=packet.codec)
        if packet.encrypted:
            raise MediaFormatError("the packet is encrypted; decrypt its data before")
        return self._buffer.put(
            number=packet.number,
            timestamp=packet.timestamp,
            data=packet.data,
            level=packet.level,
            codec=packet.codec,
            now=now,
        )

    def take(self, now: float) -> Playout:
        """Return what to play next; to be called once for the length of a frame."""
        return self._buffer.take(now)

    def report(self) -> ReceptionReport:
        """Return what arrived since the report before, for CallStats."""
        return self._buffer.report()


@attrs.define
class VoiceDecoder:
    """Makes frames of raw sound of what a receiver says. Never fails for what a packet holds."""

    format: AudioFormat = attrs.field(factory=AudioFormat)
    damaged: int = attrs.field(init=False, default=0)
    """Packets that could not be decoded, and were concealed."""
    # Made by the first Opus packet, so that raw sound needs no library.
    _opus: OpusDecoder | None = attrs.field(init=False, default=None)
    _codec: AudioCodec = attrs.field(init=False, default=AudioCodec.RAW_PCM)

    def decode(self, playout: Playout) -> bytes:
        """Return exactly one frame of raw sound.

        Raises:
            MediaLibraryMissingError: it is Opus, and libopus is not installed.
        """
        if playout.skipped is not None:
            self.decode(playout.skipped)
        match playout.kind:
            case PlayoutKind.SILENCE:
                return self.format.silence
            case PlayoutKind.CONCEAL:
                return self._conceal()
            case PlayoutKind.FRAME:
                self._codec = playout.codec
        try:
            if playout.codec is AudioCodec.RAW_PCM:
                return self._raw(playout)
            if playout.kind is PlayoutKind.RECOVER:
                return self._decoder().recover(playout.data)
            return self._decoder().decode(playout.data)
        except (MediaCodecError, MediaFormatError):
            self.damaged += 1
            return self._conceal()

    def close(self) -> None:
        """Free the native memory at once; otherwise it goes with the object."""
        if self._opus is not None:
            self._opus.close()
            self._opus = None

    def _raw(self, playout: Playout) -> bytes:
        if playout.kind is PlayoutKind.RECOVER or not playout.data:
            return self._conceal()
        self.format.check_frame(playout.data)
        return playout.data

    def _conceal(self) -> bytes:
        # Raw sound has no model of what may come next (as CCP-1 has it).
        return self.format.silence if self._codec is AudioCodec.RAW_PCM else self._decoder().conceal()

    def _decoder(self) -> OpusDecoder:
        if self._opus is None:
            self._opus = OpusDecoder(self.format)
        return self._opus
