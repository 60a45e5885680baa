"""What a call's media can be: codecs, their parameters, and what each side is able to do."""

import enum

import attrs

from commucat_proto.calls.wire_struct import (
    BOOL,
    U8,
    U16,
    U32,
    WireStruct,
    array,
    checked,
    choice,
    optional,
    struct,
    wire,
)


class AudioCodec(enum.Enum):
    OPUS = "opus"
    RAW_PCM = "raw_pcm"


class VideoCodec(enum.Enum):
    RAW_I420 = "raw_i420"
    VP8 = "vp8"
    VP9 = "vp9"
    H264_BASELINE = "h264_baseline"
    H264_MAIN = "h264_main"
    H265_MAIN = "h265_main"
    AV1_MAIN = "av1_main"


class SourceMode(enum.Enum):
    """What a side hands over: encoded media, raw samples, or either."""

    ENCODED = "encoded"
    RAW = "raw"
    HYBRID = "hybrid"


class Hardware(enum.Enum):
    """What encodes and decodes video."""

    CPU = "cpu"
    NVIDIA = "nvidia"
    AMD = "amd"
    INTEL = "intel"
    APPLE = "apple"


class CallMode(enum.Enum):
    FULL_DUPLEX = "full_duplex"
    HALF_DUPLEX = "half_duplex"


@attrs.frozen(kw_only=True, field_transformer=checked)
class Resolution(WireStruct):
    """Pixels, 0 to 65,535 each way."""

    width: int = attrs.field(metadata=wire(U16))
    height: int = attrs.field(metadata=wire(U16))


@attrs.frozen(kw_only=True, field_transformer=checked)
class AudioCodecDescriptor(WireStruct):
    """A codec on offer. ``bitrate`` in bit/s, ``sample_rate`` in Hz; more ``priority`` is better."""

    codec: AudioCodec = attrs.field(metadata=wire(choice(AudioCodec)))
    bitrate: int | None = attrs.field(default=None, metadata=wire(optional(U32)))
    sample_rate: int | None = attrs.field(default=None, metadata=wire(optional(U32)))
    channels: int | None = attrs.field(default=None, metadata=wire(optional(U8)))
    priority: int = attrs.field(default=0, metadata=wire(U8))


@attrs.frozen(kw_only=True, field_transformer=checked)
class VideoCodecDescriptor(WireStruct):
    """A codec on offer. ``max_bitrate`` in bit/s, ``frame_rate`` in frames per second."""

    codec: VideoCodec = attrs.field(metadata=wire(choice(VideoCodec)))
    max_bitrate: int | None = attrs.field(default=None, metadata=wire(optional(U32)))
    max_resolution: Resolution | None = attrs.field(default=None, metadata=wire(optional(struct(Resolution))))
    frame_rate: int | None = attrs.field(default=None, metadata=wire(optional(U8)))
    hardware: tuple[Hardware, ...] = attrs.field(default=(), metadata=wire(array(choice(Hardware))))
    priority: int = attrs.field(default=0, metadata=wire(U8))
    supports_scalability: bool = attrs.field(default=False, metadata=wire(BOOL))


@attrs.frozen(kw_only=True, field_transformer=checked)
class MediaCapabilities(WireStruct):
    """Everything a side can do, whether or not it wants it in this call."""

    audio: tuple[AudioCodecDescriptor, ...] = attrs.field(
        default=(), metadata=wire(array(struct(AudioCodecDescriptor)))
    )
    video: tuple[VideoCodecDescriptor, ...] = attrs.field(
        default=(), metadata=wire(array(struct(VideoCodecDescriptor)))
    )
    allow_raw_audio: bool = attrs.field(default=False, metadata=wire(BOOL))
    allow_raw_video: bool = attrs.field(default=False, metadata=wire(BOOL))


@attrs.frozen(kw_only=True, field_transformer=checked)
class AudioParameters(WireStruct):
    """``bitrate`` in bit/s, ``sample_rate`` in Hz.

    ``fec`` is Opus in-band error correction, ``dtx`` silence suppression. The defaults here
    are those of a missing member; a call without any profile takes ``DEFAULT_AUDIO``.
    """

    codec: AudioCodec = attrs.field(metadata=wire(choice(AudioCodec)))
    bitrate: int = attrs.field(metadata=wire(U32))
    sample_rate: int = attrs.field(metadata=wire(U32))
    channels: int = attrs.field(metadata=wire(U8))
    fec: bool = attrs.field(default=False, metadata=wire(BOOL))
    dtx: bool = attrs.field(default=False, metadata=wire(BOOL))
    source: SourceMode = attrs.field(default=SourceMode.ENCODED, metadata=wire(choice(SourceMode)))
    preferred_codecs: tuple[AudioCodec, ...] = attrs.field(
        default=(), metadata=wire(array(choice(AudioCodec)))
    )
    available_codecs: tuple[AudioCodecDescriptor, ...] = attrs.field(
        default=(), metadata=wire(array(struct(AudioCodecDescriptor)))
    )
    allow_passthrough: bool = attrs.field(default=False, metadata=wire(BOOL))


@attrs.frozen(kw_only=True, field_transformer=checked)
class VideoParameters(WireStruct):
    """``max_bitrate`` in bit/s, ``frame_rate`` in frames per second.

    The defaults here are those of a missing member, see also ``DEFAULT_VIDEO``.
    """

    codec: VideoCodec = attrs.field(metadata=wire(choice(VideoCodec)))
    max_bitrate: int = attrs.field(metadata=wire(U32))
    max_resolution: Resolution = attrs.field(metadata=wire(struct(Resolution)))
    frame_rate: int = attrs.field(metadata=wire(U8))
    adaptive: bool = attrs.field(default=False, metadata=wire(BOOL))
    source: SourceMode = attrs.field(default=SourceMode.ENCODED, metadata=wire(choice(SourceMode)))
    preferred_codecs: tuple[VideoCodec, ...] = attrs.field(
        default=(), metadata=wire(array(choice(VideoCodec)))
    )
    available_codecs: tuple[VideoCodecDescriptor, ...] = attrs.field(
        default=(), metadata=wire(array(struct(VideoCodecDescriptor)))
    )
    hardware: tuple[Hardware, ...] = attrs.field(default=(), metadata=wire(array(choice(Hardware))))
    allow_passthrough: bool = attrs.field(default=False, metadata=wire(BOOL))
    capabilities: MediaCapabilities | None = attrs.field(
        default=None, metadata=wire(optional(struct(MediaCapabilities)))
    )


@attrs.frozen(kw_only=True, field_transformer=checked)
class CallMediaProfile(WireStruct):
    """The media of one call; without ``video`` a voice call."""

    audio: AudioParameters = attrs.field(metadata=wire(struct(AudioParameters)))
    video: VideoParameters | None = attrs.field(
        default=None, metadata=wire(optional(struct(VideoParameters)))
    )
    mode: CallMode = attrs.field(default=CallMode.FULL_DUPLEX, metadata=wire(choice(CallMode)))
    capabilities: MediaCapabilities | None = attrs.field(
        default=None, metadata=wire(optional(struct(MediaCapabilities)))
    )


DEFAULT_AUDIO = AudioParameters(
    codec=AudioCodec.OPUS,
    bitrate=16_000,
    sample_rate=48_000,
    channels=1,
    fec=True,
    dtx=True,
    source=SourceMode.RAW,
    preferred_codecs=(AudioCodec.OPUS,),
    available_codecs=(
        AudioCodecDescriptor(
            codec=AudioCodec.OPUS, bitrate=16_000, sample_rate=48_000, channels=1, priority=100
        ),
    ),
)
"""Voice as every peer can do it."""

DEFAULT_VIDEO = VideoParameters(
    codec=VideoCodec.VP8,
    max_bitrate=750_000,
    max_resolution=Resolution(width=640, height=360),
    frame_rate=24,
    adaptive=True,
    source=SourceMode.RAW,
    preferred_codecs=(VideoCodec.VP8,),
    available_codecs=(
        VideoCodecDescriptor(
            codec=VideoCodec.VP8,
            max_bitrate=750_000,
            max_resolution=Resolution(width=640, height=360),
            frame_rate=24,
            hardware=(Hardware.CPU,),
            priority=100,
            supports_scalability=True,
        ),
    ),
    hardware=(Hardware.CPU,),
    allow_passthrough=True,
)
"""Video as every peer that has any can do it."""

DEFAULT_PROFILE = CallMediaProfile(audio=DEFAULT_AUDIO)
"""What an offer without ``media`` means: a voice call, both directions at once."""
