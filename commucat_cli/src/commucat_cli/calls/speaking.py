"""What this device says: one frame of sound every 20 ms in, a packet out, or none while nobody speaks.

:meth:`Speaking.open` and :meth:`Speaking.encode` are for worker threads; the rest is quick.
"""

import random
import secrets
from typing import Final

import attrs

from commucat_cli.calls.party_keys import PartyKeys
from commucat_media import (
    AudioCodec,
    AudioPacket,
    StreamPacket,
    encode_packet,
    encode_stream_packet,
    stream_header,
)
from commucat_media.opus import OpusEncoder
from commucat_media.pcm import SAMPLE_RATES, AudioFormat
from commucat_media.voice import VoiceSender
from commucat_media.wav import Sound

LOWEST_BITRATE: Final = 6_000
HIGHEST_BITRATE: Final = 128_000
"""Bit/s of voice; Opus can do more, and nobody hears it."""
COMPLEXITY: Final = 5
"""Half the work of the highest one; for voice the difference is hardly heard."""
MOST_EXPECTED_LOSS: Final = 30
"""Percent; beyond, error correction would take more than the voice itself."""


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
        are not sent, chosen by ``seed``. ``bitrate`` in bit/s."""
        self.format = audio
        self._pcm = pcm
        self._place = 0
        self._drop = drop / 100
        # For repeatable experiments; it hides nothing.
        self._random = random.Random(seed)  # noqa: S311
        self._sender: VoiceSender | None = None
        self._bitrate = bitrate
        self._expected_loss = 10
        self.packets = 0
        """Made so far, those that were dropped on purpose included."""
        self.dropped = 0
        """Dropped on purpose."""

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

    def open(self) -> None:
        """Make the encoder.

        Raises:
            MediaLibraryMissingError: libopus is not installed.
        """
        encoder = OpusEncoder(self.format, bitrate=self._bitrate, complexity=COMPLEXITY)
        # At random, so that nobody takes the stream of an earlier call for this one.
        self._sender = VoiceSender(stream=int.from_bytes(secrets.token_bytes(4), "big"), encoder=encoder)

    def encode(self, *, missed: int = 0) -> list[StreamPacket]:
        """The next frame, after ``missed`` ones in which nothing was said; as packets, mostly one.

        Raises:
            MediaError: the encoder failed.
        """
        assert self._sender is not None
        encoder = self._sender.encoder
        assert encoder is not None
        encoder.set_bitrate(self._bitrate)
        encoder.set_expected_loss(self._expected_loss)
        size = self.format.frame_bytes
        frame = self._pcm[self._place : self._place + size]
        self._place += size
        return self._sender.feed(self.format.silence * missed + frame + bytes(size - len(frame)))

    def payload(self, packet: StreamPacket, keys: PartyKeys | None, *, numbered: bool) -> bytes | None:
        """The payload of a packet's VoiceFrame, encrypted with ``keys``; None when it is dropped on
        purpose."""
        self.packets += 1
        if self._random.random() < self._drop:
            self.dropped += 1
            return None
        if not numbered:
            return encode_packet(AudioPacket(source=packet.source, codec=AudioCodec.OPUS, data=packet.data))
        if keys is None:
            return encode_stream_packet(packet)
        header = stream_header(attrs.evolve(packet, encrypted=True))
        return header + keys.encrypt(header, packet.data)
