"""What runs in the worker threads of :mod:`commucat_server.calls.transcoding`, and is loaded there."""

from typing import TypeAlias

from commucat_media import AudioCodec
from commucat_media.errors import MediaError
from commucat_media.pcm import AudioFormat
from commucat_media.transcode import AudioTranscoder, VideoTranscoder
from commucat_media.video import VideoFormat
from commucat_proto.calls import AudioCodec as AudioCodecName
from commucat_proto.calls import CallMediaProfile
from commucat_proto.calls.media_profile import DEFAULT_AUDIO, DEFAULT_VIDEO
from commucat_server.calls.forwarding.conversion import Codec, MediaPacket

Transcoder: TypeAlias = AudioTranscoder | VideoTranscoder


def make(codec: Codec, profile: CallMediaProfile) -> Transcoder:
    """A transcoder of media as its sender has announced it; profile and codecs both count in bit/s.

    Raises:
        MediaError: the profile names what no codec takes, or a library is missing.
    """
    if isinstance(codec, AudioCodec):
        audio = profile.audio
        return AudioTranscoder(
            codec,
            audio_format=AudioFormat(sample_rate=audio.sample_rate, channels=audio.channels),
            # The rate of raw samples says nothing of what Opus needs.
            bitrate=audio.bitrate if audio.codec is AudioCodecName.OPUS else DEFAULT_AUDIO.bitrate,
            fec=audio.fec,
            dtx=audio.dtx,
        )
    video = profile.video or DEFAULT_VIDEO
    video_format = VideoFormat(
        codec=codec,
        width=video.max_resolution.width,
        height=video.max_resolution.height,
        bitrate=video.max_bitrate,
        frame_rate=video.frame_rate,
    )
    return VideoTranscoder(video_format, follow_size=True)


def missing(codec: Codec) -> str | None:
    """Why no such transcoder can be made on this host; None if it can."""
    try:
        if isinstance(codec, AudioCodec):
            AudioTranscoder(codec).close()
        else:
            VideoTranscoder(VideoFormat(codec=codec)).close()
    except MediaError as exc:
        return str(exc)
    return None


def transcode(transcoder: Transcoder, packet: MediaPacket, *, key_frame: bool) -> MediaPacket | None:
    """The packet in the transcoder's codec; ``key_frame``: a picture that can be decoded by itself.

    Raises:
        MediaError: the packet cannot be transcoded; the next one may be.
    """
    # The type of the frame has decided which transcoder a packet comes to.
    if isinstance(transcoder, AudioTranscoder):
        return transcoder.transcode(packet)  # type: ignore[type-var]
    if key_frame:
        transcoder.request_key_frame()
    return transcoder.transcode(packet)  # type: ignore[type-var]
