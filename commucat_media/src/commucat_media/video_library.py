"""PyAV, loaded when the first video codec is made, and what of it serves which codec."""

import os
from types import ModuleType
from typing import TYPE_CHECKING, Final

import attrs

from commucat_media.errors import MediaCodecError, MediaLibraryMissingError
from commucat_media.packet import VideoCodec

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext


@attrs.frozen(kw_only=True)
class Encoding:
    """How a codec is encoded: FFmpeg's name of the encoder and its options."""

    encoder: str
    options: dict[str, str]
    ceiling: tuple[str, ...] = ("maxrate", "bufsize")
    """Options that get the bitrate as their value, so that it holds over every second of a stream."""


# libvpx keeps a constant bitrate where the lowest and the highest are the same.
_CONSTANT: Final = ("minrate", "maxrate", "bufsize")
# Quantizers as WebRTC has them: with a lower maximum than 56 the encoder could not follow a falling bitrate.
_LIBVPX: Final = {
    "deadline": "realtime",
    "cpu-used": "8",
    "lag-in-frames": "0",
    "error-resilient": "1",
    "qmin": "2",
    "qmax": "56",
}
_X264: Final = {"preset": "veryfast", "tune": "zerolatency", "forced-idr": "1"}

ENCODINGS: Final = {
    VideoCodec.VP8: Encoding(encoder="libvpx", options=_LIBVPX, ceiling=_CONSTANT),
    VideoCodec.VP9: Encoding(encoder="libvpx-vp9", options=_LIBVPX | {"row-mt": "1"}, ceiling=_CONSTANT),
    VideoCodec.H264_BASELINE: Encoding(encoder="libx264", options=_X264 | {"profile": "baseline"}),
    VideoCodec.H264_MAIN: Encoding(encoder="libx264", options=_X264 | {"profile": "main"}),
    # Low delay (pred-struct 1) allows constant bitrate (rc 2) only.
    VideoCodec.AV1_MAIN: Encoding(
        encoder="libsvtav1",
        options={"preset": "12", "svtav1-params": "pred-struct=1:lookahead=0:rc=2:lp=2"},
        ceiling=(),
    ),
}
"""H.265 is not offered: whoever encodes or decodes it needs licences of several pools."""

# Those that refuse a picture above ``max_pixels`` before they make room for it.
DECODERS: Final = {
    VideoCodec.VP8: "vp8",
    VideoCodec.VP9: "vp9",
    VideoCodec.H264_BASELINE: "h264",
    VideoCodec.H264_MAIN: "h264",
    VideoCodec.AV1_MAIN: "libdav1d",
}


def video_library() -> ModuleType:
    """Return PyAV.

    Raises:
        MediaLibraryMissingError: it is not installed.
    """
    # SVT-AV1 would print its version and settings; the first codec that is made reads this.
    os.environ.setdefault("SVT_LOG", "1")
    try:
        import av
    except ImportError as exc:
        raise MediaLibraryMissingError(
            "video needs PyAV, which is not installed; it comes with the extra: commucat-media[video]"
        ) from exc
    return av


def encoding_of(codec: VideoCodec) -> Encoding:
    """Raises :class:`MediaCodecError` for what is never encoded."""
    encoding = ENCODINGS.get(codec)
    if encoding is None:
        raise MediaCodecError(f"{codec.name} is not encoded here")
    return encoding


def context_of(name: str, mode: str, codec: VideoCodec) -> "VideoCodecContext":
    """Return a new codec context of FFmpeg, not open yet.

    Raises:
        MediaCodecError: this build of PyAV has no such codec.
        MediaLibraryMissingError: PyAV is not installed.
    """
    av = video_library()
    try:
        context: VideoCodecContext = av.CodecContext.create(name, mode)
    except av.codec.codec.UnknownCodecError as exc:
        what = "encoder" if mode == "w" else "decoder"
        raise MediaCodecError(f"this build of PyAV has no {what} for {codec.name} ({name})") from exc
    return context
