"""What this device says: one frame of sound every 20 ms in, a packet out, or none while nobody speaks.

:meth:`Speaking.encode` runs in a worker thread; the rest is quick.
"""

import random
import secrets
from typing import Final

import attrs

from commucat_cli.calls.party_keys import PartyKeys
from commucat_media import (
    AUDIO_TICKS,
    AudioCodec,
    AudioPacket,
    MediaSource,
    StreamPacket,
    encode_packet,
    encode_stream_packet,
    stream_header,
)
from commucat_media.opus import DTX_BYTES, OpusEncoder
from commucat_media.packet import U32_MASK
from commucat_media.pcm import SAMPLE_RATES, AudioFormat, level_of
from commucat_media.wav import Sound

LOWEST_BITRATE: Final = 6_000
HIGHEST_BITRATE: Final = 128_000
"""Bit/s of voice; Opus can do more, and nobody hears it."""
COMPLEXITY: Final = 5
"""Half the work of the highest one; for voice the difference is hardly heard."""
MOST_EXPECTED_LOSS: Final = 30
"""Percent; beyond, error correction would take more than the voice itself."""


@attrs.frozen
class Spoken:
    """An encoded frame, and how loud it is in -dBov."""

    data: bytes = attrs.field(repr=False)
    level: int


def format_for(sound: Sound) -> AudioFormat:
    """What the encoder is fed with: the sound's own rate if Opus has it, so that nothing needs converting."""
    if sound.sample_rate in SAMPLE_RATES:
        return AudioFormat(sample_rate=sound.sample_rate)
    return AudioFormat()


class Speaking:
    """The stream of one device in one call."""

    def __init__(
        self, pcm: bytes, audio: AudioFormat, *, bitrate: int, drop: float, seed: int | None
    ) -> None:
        """``pcm`` in the form of ``audio``, silence when it is over. ``drop``: percent of the packets that
        are not sent, chosen by ``seed``."""
        self.format = audio
        self._pcm = pcm
        self._place = 0
        self._drop = drop / 100
        # For repeatable experiments; it hides nothing.
        self._random = random.Random(seed)  # noqa: S311
        self._encoder: OpusEncoder | None = None
        self._bitrate = bitrate
        self._expected_loss = 10
        self._stream = int.from_bytes(secrets.token_bytes(4), "big")
        self._number = 0
        self._timestamp = int.from_bytes(secrets.token_bytes(4), "big")
        self.frames = 0
        """Of 20 ms so far."""
        self.packets = 0
        """Made of them, those that were dropped on purpose included."""
        self.dropped = 0
        """Dropped on purpose."""

    def open(self) -> None:
        """Make the encoder; for a worker thread, as it looks for libopus.

        Raises:
            MediaLibraryMissingError: libopus is not installed.
        """
        if self._encoder is None:
            self._encoder = OpusEncoder(self.format, bitrate=self._bitrate, complexity=COMPLEXITY)

    @property
    def over(self) -> bool:
        """Everything was said."""
        return self._place >= len(self._pcm)

    @property
    def bitrate(self) -> int:
        """What the encoder aims at, in bit/s."""
        return self._bitrate

    def aim_at(self, bitrate: int, loss: float) -> None:
        """From the next frame on: bit/s, and the part of the packets that receivers miss (0 to 1)."""
        self._bitrate = bitrate
        self._expected_loss = min(max(round(loss * 100), 1), MOST_EXPECTED_LOSS)

    def encode(self) -> Spoken:
        """The next frame; for a worker thread.

        Raises:
            MediaLibraryMissingError: libopus is not installed.
        """
        self.open()
        assert self._encoder is not None
        self._encoder.set_bitrate(self._bitrate)
        self._encoder.set_expected_loss(self._expected_loss)
        size = self.format.frame_bytes
        frame = self._pcm[self._place : self._place + size]
        self._place += size
        frame += bytes(size - len(frame))
        return Spoken(self._encoder.encode(frame), level_of(frame).dbov)

    def pause(self, frames: int) -> None:
        """So many frames long nothing was said, because this process could not run."""
        self._timestamp = (self._timestamp + frames * self._ticks) & U32_MASK
        self.frames += frames

    @property
    def _ticks(self) -> int:
        return AUDIO_TICKS * self.format.frame_ms // 1000

    def packet(self, spoken: Spoken, keys: PartyKeys | None, *, numbered: bool) -> bytes | None:
        """The payload of the next VoiceFrame; None when there is nothing to send."""
        timestamp = self._timestamp
        self._timestamp = (timestamp + self._ticks) & U32_MASK
        self.frames += 1
        if len(spoken.data) <= DTX_BYTES:
            return None
        self.packets += 1
        number = self._number
        self._number += 1
        if self._random.random() < self._drop:
            self.dropped += 1
            return None
        if not numbered:
            return encode_packet(
                AudioPacket(source=MediaSource.ENCODED, codec=AudioCodec.OPUS, data=spoken.data)
            )
        packet = StreamPacket(
            source=MediaSource.ENCODED,
            codec=AudioCodec.OPUS,
            data=spoken.data,
            stream=self._stream,
            number=number & U32_MASK,
            timestamp=timestamp,
            encrypted=keys is not None,
            level=spoken.level,
        )
        if keys is None:
            return encode_stream_packet(packet)
        header = stream_header(packet)
        return header + keys.encrypt(header, spoken.data)
