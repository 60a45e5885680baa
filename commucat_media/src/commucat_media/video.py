"""VP8, VP9, H.264 and AV1 through PyAV (FFmpeg): pictures into packets' data, and back.

Both classes are plain and block for some milliseconds a picture; one object must not be used by two threads
at once. :mod:`commucat_media.threads` runs them beside an event loop. Needs the extra ``video``.
"""

from fractions import Fraction
from typing import TYPE_CHECKING, Final

import attrs

from commucat_media.errors import MediaCodecError, MediaFormatError
from commucat_media.packet import VideoCodec
from commucat_media.picture import MAX_PIXELS, Picture, check_size, chroma
from commucat_media.video_library import DECODERS, context_of, encoding_of, video_library
from commucat_media.vp8_header import vp8_size

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.plane import VideoPlane

HIGHEST_BITRATE: Final = 2**31 - 1
HIGHEST_FRAME_RATE: Final = 120
ENCODER_THREADS: Final = 2
LONGEST_DATA: Final = 4 * 1024 * 1024
"""Bytes that one encoded picture may have: far more than a raw one of the largest size compresses to."""
REBUILD_BELOW: Final = 0.8
"""A bitrate below this share of the present one is worth a key frame at once."""
_I420: Final = ("yuv420p", "yuvj420p")


@attrs.frozen(kw_only=True)
class VideoFormat:
    """What an encoder makes.

    Raises:
        MediaFormatError: a size, bitrate or frame rate out of range.
    """

    codec: VideoCodec = VideoCodec.VP8
    width: int = 640
    height: int = 360
    bitrate: int = 750_000
    """Bits per second."""
    frame_rate: int = 24
    """Pictures per second."""

    def __attrs_post_init__(self) -> None:
        check_size(self.width, self.height)
        if not 0 < self.bitrate <= HIGHEST_BITRATE:
            raise MediaFormatError(f"bitrate {self.bitrate}; from 1 to {HIGHEST_BITRATE} bit/s")
        if not 0 < self.frame_rate <= HIGHEST_FRAME_RATE:
            raise MediaFormatError(f"{self.frame_rate} pictures per second; from 1 to {HIGHEST_FRAME_RATE}")


@attrs.frozen(kw_only=True)
class EncodedPicture:
    """Data of one packet."""

    data: bytes = attrs.field(repr=False)
    key_frame: bool
    """Whether it can be decoded without those before it."""


class VideoEncoder:
    """Encodes pictures of one size; the first becomes a key frame.

    Raises:
        MediaCodecError: the codec is not offered, or this build of PyAV cannot encode it so.
        MediaLibraryMissingError: PyAV is not installed.
    """

    def __init__(self, video_format: VideoFormat | None = None) -> None:
        self.format = video_format or VideoFormat()
        self._encoding = encoding_of(self.format.codec)
        self._context: VideoCodecContext | None = self._opened()
        self._running = self.format.bitrate
        self._pictures = 0
        self._key_frame_wanted = True

    @property
    def bitrate(self) -> int:
        """Bits per second that are aimed at, now or from the next key frame on."""
        return self.format.bitrate

    def set_bitrate(self, bitrate: int) -> None:
        """Aim at another bitrate: with the next key frame, or at once if it is below 80 % of the present one.

        PyAV cannot change it in a running encoder, so that another one is made, and begins with a key frame.

        Raises:
            MediaFormatError: 0, negative, or above 2^31 - 1.
        """
        self.format = attrs.evolve(self.format, bitrate=bitrate)
        if bitrate < self._running * REBUILD_BELOW:
            self._key_frame_wanted = True

    def request_key_frame(self) -> None:
        """Make the next picture a key frame."""
        self._key_frame_wanted = True

    def encode(self, picture: Picture) -> EncodedPicture:
        """Encode the next picture.

        Raises:
            MediaFormatError: not of the encoder's size.
            MediaCodecError: the encoder failed, or is closed.
        """
        if (picture.width, picture.height) != (self.format.width, self.format.height):
            raise MediaFormatError(
                f"a picture of {picture.width}x{picture.height}; "
                f"the encoder takes {self.format.width}x{self.format.height}"
            )
        if self._context is None:
            raise MediaCodecError("the video encoder is closed")
        av = video_library()
        if self._key_frame_wanted and self._running != self.format.bitrate:
            self._rebuild()
        frame = _frame_of(picture)
        frame.pts = self._pictures
        if self._key_frame_wanted:
            frame.pict_type = av.video.frame.PictureType.I
        try:
            packets = self._context.encode(frame)
        except av.error.FFmpegError as exc:
            raise MediaCodecError(f"{self.format.codec.name} encoder: {exc.strerror}") from exc
        self._pictures += 1
        self._key_frame_wanted = False
        if not packets:
            raise MediaCodecError(f"{self.format.codec.name} encoder gave nothing for a picture")
        return EncodedPicture(
            data=b"".join(bytes(packet) for packet in packets),
            key_frame=any(packet.is_keyframe for packet in packets),
        )

    def close(self) -> None:
        """Free the native memory at once; otherwise it goes with the object. May be called twice."""
        context, self._context = self._context, None
        if context is not None and self._pictures:
            # SVT-AV1 complains on standard error when it is freed before it was told the end.
            context.encode(None)

    def _rebuild(self) -> None:
        self.close()
        self._context = self._opened()
        self._running = self.format.bitrate
        self._pictures = 0

    def _opened(self) -> "VideoCodecContext":
        av = video_library()
        wanted = self.format
        context = context_of(self._encoding.encoder, "w", wanted.codec)
        context.width, context.height = wanted.width, wanted.height
        context.pix_fmt = "yuv420p"
        context.time_base = Fraction(1, wanted.frame_rate)
        context.framerate = Fraction(wanted.frame_rate)
        # FFmpeg counts bits per second everywhere and converts for libvpx, which counts kilobits.
        context.bit_rate = wanted.bitrate
        context.thread_count = ENCODER_THREADS
        ceiling = dict.fromkeys(self._encoding.ceiling, str(wanted.bitrate))
        context.options = self._encoding.options | ceiling
        try:
            context.open()
        except av.error.FFmpegError as exc:
            raise MediaCodecError(
                f"{wanted.codec.name} encoder does not take {wanted.width}x{wanted.height} "
                f"at {wanted.bitrate} bit/s: {exc.strerror}"
            ) from exc
        return context


class VideoDecoder:
    """Decodes the packets of one stream, in their order.

    Raises:
        MediaCodecError: the codec is not offered, or this build of PyAV cannot decode it.
        MediaLibraryMissingError: PyAV is not installed.
    """

    def __init__(self, codec: VideoCodec, *, max_pixels: int = MAX_PIXELS) -> None:
        """Pictures of more than ``max_pixels`` are refused before memory is taken for them."""
        name = DECODERS.get(codec)
        if name is None:
            raise MediaCodecError(f"{codec.name} is not decoded here")
        self.codec = codec
        self._max_pixels = max_pixels
        context = context_of(name, "r", codec)
        # One thread: several would give each picture later, by as many pictures.
        context.thread_count = 1
        context.options = {"max_pixels": str(max_pixels)}
        self._context: VideoCodecContext | None = context

    def decode(self, data: bytes) -> Picture | None:
        """Decode the data of one packet; None where they show nothing new.

        After an error the pictures that follow may be damaged, until a key frame comes: ask for one.

        Raises:
            MediaCodecError: damaged, too large, pictures before it are missing, or the decoder is closed.
        """
        if self._context is None:
            raise MediaCodecError("the video decoder is closed")
        if not 0 < len(data) <= LONGEST_DATA:
            raise MediaCodecError(
                f"{len(data)} bytes of {self.codec.name}; a picture has 1 to {LONGEST_DATA}"
            )
        if self.codec is VideoCodec.VP8:
            self._check_vp8(data)
        av = video_library()
        try:
            frames = self._context.decode(av.Packet(data))
        except av.error.FFmpegError as exc:
            raise MediaCodecError(
                f"{self.codec.name} packet cannot be decoded: damaged, without the pictures that it needs, "
                f"or of more than {self._max_pixels} pixels ({exc.strerror})"
            ) from exc
        # Of several pictures in one packet only the newest is worth showing.
        return self._picture(frames[-1]) if frames else None

    def close(self) -> None:
        """Free the native memory at once; otherwise it goes with the object. May be called twice."""
        self._context = None

    def _check_vp8(self, data: bytes) -> None:
        size = vp8_size(data)
        if size is not None:
            try:
                check_size(*size, self._max_pixels)
            except MediaFormatError as exc:
                raise MediaCodecError(f"VP8 key frame: {exc}") from exc

    def _picture(self, frame: "VideoFrame") -> Picture:
        if frame.format.name not in _I420:
            raise MediaCodecError(
                f"{self.codec.name} of the pixel format {frame.format.name}; only I420 is taken"
            )
        width, height = frame.width, frame.height
        if width * height > self._max_pixels:
            raise MediaCodecError(f"{self.codec.name} of {width}x{height}; at most {self._max_pixels} pixels")
        luma, *colours = frame.planes
        data = _without_padding(luma, width, height)
        for plane in colours:
            data += _without_padding(plane, chroma(width), chroma(height))
        return Picture(width=width, height=height, data=data)


def _frame_of(picture: Picture) -> "VideoFrame":
    av = video_library()
    frame: VideoFrame = av.VideoFrame(picture.width, picture.height, "yuv420p")
    for plane, data in zip(frame.planes, picture.planes(), strict=True):
        width = plane.width
        stride = plane.line_size
        if stride != width:
            padding = bytes(stride - width)
            rows = (bytes(data[at : at + width]) + padding for at in range(0, len(data), width))
            plane.update(b"".join(rows))
        else:
            plane.update(bytes(data))
    return frame


def _without_padding(plane: "VideoPlane", width: int, height: int) -> bytes:
    raw = memoryview(plane)
    stride = plane.line_size
    if stride == width:
        return bytes(raw[: width * height])
    return b"".join(raw[row * stride : row * stride + width] for row in range(height))
