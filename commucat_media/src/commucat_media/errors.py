"""What can be wrong with a media packet."""


class MediaError(Exception):
    """Base of every error of this package."""


class MediaPacketError(MediaError):
    """The bytes of a VoiceFrame or VideoFrame are not a media packet (CCP-1 specification, "Media packet").

    The text says what is wrong and never repeats the bytes: they are somebody's voice or picture.
    """
