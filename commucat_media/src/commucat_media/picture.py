"""A raw picture: I420, the planes Y, U and V one after another without padding.

The form is that of the codec ``raw_i420`` (as CCP-1 has it).
"""

from typing import Final

import attrs

from commucat_media.errors import MediaFormatError

LONGEST_SIDE: Final = 16_383
"""Pixels that a side of a VP8 picture may have at most (RFC 6386, section 9.1)."""
MAX_PIXELS: Final = 1920 * 1088
"""Pixels that a picture has at most unless somebody says otherwise: 1080p, whose height codecs round up."""


def chroma(side: int) -> int:
    """Pixels that a side of ``side`` pixels has in the planes U and V."""
    return (side + 1) // 2


def i420_bytes(width: int, height: int) -> int:
    """Bytes of a picture of this size."""
    return width * height + 2 * chroma(width) * chroma(height)


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raise :class:`MediaFormatError` unless a picture may have this size."""
    if not (0 < width <= LONGEST_SIDE and 0 < height <= LONGEST_SIDE):
        raise MediaFormatError(f"a picture of {width}x{height}; sides have 1 to {LONGEST_SIDE} pixels")
    if width * height > max_pixels:
        raise MediaFormatError(f"a picture of {width}x{height}; at most {max_pixels} pixels are taken")


@attrs.frozen(kw_only=True)
class Picture:
    """One raw picture.

    Raises:
        MediaFormatError: no possible size, or the data are not exactly a picture of it.
    """

    width: int
    height: int
    data: bytes = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        check_size(self.width, self.height, LONGEST_SIDE**2)
        expected = i420_bytes(self.width, self.height)
        if len(self.data) != expected:
            raise MediaFormatError(
                f"{len(self.data)} bytes of picture; I420 of {self.width}x{self.height} has {expected}"
            )

    def planes(self) -> tuple[memoryview, memoryview, memoryview]:
        """Y, U and V, each row after row."""
        view = memoryview(self.data)
        luma = self.width * self.height
        colour = chroma(self.width) * chroma(self.height)
        return view[:luma], view[luma : luma + colour], view[luma + colour :]


def black(width: int, height: int) -> Picture:
    """A black picture (16 and 128: video levels of ITU-R BT.601)."""
    colour = chroma(width) * chroma(height)
    return Picture(width=width, height=height, data=b"\x10" * (width * height) + b"\x80" * (2 * colour))
