"""Makes packets of one codec into packets of another, for a receiver that asks for it.

One transcoder serves one stream and one target. It has no queue: a packet goes in and at most one comes out,
with stream, number and timestamp as they were. What is end-to-end encrypted cannot be transcoded, and is
refused. As all codecs it blocks and belongs to one thread at a time; :mod:`commucat_media.threads` runs it.

What a packet holds follows from its source, as CCP-1 has it: raw is encoded, whatever its codec byte says;
encoded in the target's codec passes unchanged, as does hybrid, which holds both.
"""

from collections.abc import Iterable
from typing import TypeVar

import attrs

from commucat_media.errors import MediaCodecError, MediaFormatError
from commucat_media.opus import DEFAULT_BITRATE, OpusDecoder, OpusEncoder
from commucat_media.packet import (
    AudioCodec,
    AudioPacket,
    MediaSource,
    StreamPacket,
    VideoCodec,
    VideoPacket,
)
from commucat_media.pcm import AudioFormat
from commucat_media.picture import Picture
from commucat_media.video import EncodedPicture, VideoDecoder, VideoEncoder, VideoFormat

_TARGETS = (VideoCodec.VP8, VideoCodec.VP9)

AnyAudio = TypeVar("AnyAudio", AudioPacket, StreamPacket)
AnyVideo = TypeVar("AnyVideo", VideoPacket, StreamPacket)


def video_target(preferred: Iterable[VideoCodec], codec: VideoCodec) -> VideoCodec:
    """Return what a call's raw pictures become: the first of its codecs that everybody's server makes.

    VP8 where the profile names neither VP8 nor VP9 (as CCP-1 has it).
    """
    return next((one for one in (*preferred, codec) if one in _TARGETS), VideoCodec.VP8)


class AudioTranscoder:
    """Makes sound into Opus, or Opus into raw sound.

    Raises:
        MediaFormatError: the bitrate is out of range.
        MediaLibraryMissingError: libopus is not installed.
    """

    def __init__(
        self,
        target: AudioCodec = AudioCodec.OPUS,
        *,
        audio_format: AudioFormat | None = None,
        bitrate: int = DEFAULT_BITRATE,
        fec: bool = True,
        dtx: bool = True,
    ) -> None:
        """``audio_format``, ``bitrate`` (bit/s), ``fec`` and ``dtx`` are those of the call's profile."""
        self.target = target
        self.format = audio_format or AudioFormat()
        self._encoder: OpusEncoder | None = None
        self._decoder: OpusDecoder | None = None
        if target is AudioCodec.OPUS:
            self._encoder = OpusEncoder(self.format, bitrate=bitrate, fec=fec, dtx=dtx)
        else:
            self._decoder = OpusDecoder(self.format)

    def transcode(self, packet: AnyAudio) -> AnyAudio:
        """Return the packet in the target's codec.

        Raises:
            MediaFormatError: encrypted, no sound, or raw and not exactly one frame.
            MediaCodecError: the data are damaged.
        """
        _check_readable(packet)
        if not isinstance(packet.codec, AudioCodec):
            raise MediaFormatError(f"{packet.codec.name} is no sound")
        if packet.source is MediaSource.HYBRID:
            return packet
        if packet.source is MediaSource.RAW:
            self.format.check_frame(packet.data)
            if self._encoder is None:
                return packet
            data = self._encoder.encode(packet.data)
            return attrs.evolve(packet, source=MediaSource.ENCODED, codec=AudioCodec.OPUS, data=data)
        if self._decoder is None or packet.codec is AudioCodec.RAW_PCM:
            return packet
        data = self._decoder.decode(packet.data)
        return attrs.evolve(packet, source=MediaSource.RAW, codec=AudioCodec.RAW_PCM, data=data)

    def close(self) -> None:
        """Free the native memory at once; otherwise it goes with the object."""
        for codec in (self._encoder, self._decoder):
            if codec is not None:
                codec.close()


class VideoTranscoder:
    """Makes pictures, raw or of another codec, into pictures of one codec and size; the first is a key frame.

    Raises:
        MediaCodecError: the target is not offered, or this build of PyAV cannot encode it so.
        MediaLibraryMissingError: PyAV is not installed.
    """

    def __init__(self, video_format: VideoFormat, *, follow_size: bool = False) -> None:
        """``video_format`` is the target; its size is the largest resolution of the call's profile.

        ``follow_size``: encoded pictures of any size with no more pixels keep theirs, as those of lower
        layers do; a change of it begins with a key frame. Otherwise only that one size is taken.
        """
        self.format = video_format
        self._follow_size = follow_size
        self._bound = video_format
        self._encoder = VideoEncoder(video_format)
        self._decoder: VideoDecoder | None = None

    def request_key_frame(self) -> None:
        """Make the next picture a key frame: somebody begins to watch."""
        self._encoder.request_key_frame()

    def set_bitrate(self, bitrate: int) -> None:
        """Aim at another bitrate (bit/s); see :meth:`commucat_media.video.VideoEncoder.set_bitrate`."""
        self._encoder.set_bitrate(bitrate)

    def transcode(self, packet: AnyVideo) -> AnyVideo | None:
        """Return the packet in the target's codec; None where it shows nothing new.

        Raises:
            MediaFormatError: encrypted, no picture, or raw and not exactly one of the target's size.
            MediaCodecError: damaged, of a codec that is not decoded here, or of another size than the target.
        """
        _check_readable(packet)
        if not isinstance(packet.codec, VideoCodec):
            raise MediaFormatError(f"{packet.codec.name} is no picture")
        if packet.source is MediaSource.HYBRID:
            return packet
        if packet.source is MediaSource.RAW:
            picture = Picture(width=self._bound.width, height=self._bound.height, data=packet.data)
            return _with_picture(packet, self._encode(picture), self.format.codec)
        if packet.codec is self.format.codec:
            return packet
        shown = self._decoder_of(packet.codec).decode(packet.data)
        if shown is None:
            return None
        return _with_picture(packet, self._encode(shown), self.format.codec)

    def _encode(self, picture: Picture) -> EncodedPicture:
        if (picture.width, picture.height) != (self.format.width, self.format.height):
            self._follow(picture)
        return self._encoder.encode(picture)

    def _follow(self, picture: Picture) -> None:
        """Encode pictures of this size from now on."""
        fits = picture.width * picture.height <= self._bound.width * self._bound.height
        if not (self._follow_size and fits):
            raise MediaCodecError(
                f"a picture of {picture.width}x{picture.height}; "
                f"only {self.format.width}x{self.format.height} is transcoded"
            )
        # As it was set meanwhile: the bitrate is the encoder's.
        wanted = attrs.evolve(self._encoder.format, width=picture.width, height=picture.height)
        encoder = VideoEncoder(wanted)
        self._encoder.close()
        self._encoder, self.format = encoder, wanted

    def close(self) -> None:
        """Free the native memory at once; otherwise it goes with the object."""
        self._encoder.close()
        if self._decoder is not None:
            self._decoder.close()

    def _decoder_of(self, codec: VideoCodec) -> VideoDecoder:
        if self._decoder is None or self._decoder.codec is not codec:
            # Larger ones could not be transcoded anyway. Codecs count in blocks of up to 64 pixels.
            width, height = -(-self._bound.width // 64) * 64, -(-self._bound.height // 64) * 64
            self._decoder = VideoDecoder(codec, max_pixels=width * height)
        return self._decoder


def _check_readable(packet: AudioPacket | VideoPacket | StreamPacket) -> None:
    if isinstance(packet, StreamPacket) and packet.encrypted:
        raise MediaFormatError("the packet is end-to-end encrypted and cannot be transcoded")


def _with_picture(packet: AnyVideo, encoded: EncodedPicture, codec: VideoCodec) -> AnyVideo:
    if isinstance(packet, StreamPacket):
        return attrs.evolve(
            packet,
            source=MediaSource.ENCODED,
            codec=codec,
            data=encoded.data,
            key_frame=encoded.key_frame,  # type: ignore[call-arg]  # mypy still thinks of VideoPacket here
        )
    return attrs.evolve(packet, source=MediaSource.ENCODED, codec=codec, data=encoded.data)
