"""What can be wrong with media."""


class MediaError(Exception):
    """Base of every error of this package."""


class MediaPacketError(MediaError):
    """The bytes of a VoiceFrame or VideoFrame are not a media packet (CCP-1 specification, "Media packet").

    The text says what is wrong and never repeats the bytes: they are somebody's voice or picture.
    """


class MediaFormatError(MediaError):
    """Samples, pictures or parameters have not the form that is needed: a wrong size, rate, or range."""


class MediaCodecError(MediaError):
    """A codec refuses or fails: its data are damaged, too large, or of a codec that is not offered."""


class MediaLibraryMissingError(MediaError):
    """A library that a codec needs is not installed. The text says how to install it."""
