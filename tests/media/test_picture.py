import pytest

from commucat_media.errors import MediaFormatError
from commucat_media.picture import Picture, black, check_size, chroma, i420_bytes


@pytest.mark.parametrize(("width", "height", "size"), [(640, 360, 345_600), (1, 1, 3), (3, 5, 27), (2, 2, 6)])
def test_chroma_is_half_and_rounded_up(width: int, height: int, size: int) -> None:
    assert i420_bytes(width, height) == size
    picture = black(width, height)
    luma, blue, red = picture.planes()
    assert len(luma) == width * height
    assert len(blue) == len(red) == chroma(width) * chroma(height)
    assert b"".join((luma, blue, red)) == picture.data


@pytest.mark.parametrize("size", [0, 5, 7])
def test_data_are_exactly_one_picture(size: int) -> None:
    with pytest.raises(MediaFormatError, match=f"{size} bytes of picture; I420 of 2x2 has 6"):
        Picture(width=2, height=2, data=bytes(size))


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (-1, 5), (16_384, 1), (1, 16_384)])
def test_impossible_sizes_are_refused(width: int, height: int) -> None:
    with pytest.raises(MediaFormatError, match="sides have 1 to 16383"):
        check_size(width, height)


def test_large_sizes_are_refused_and_1080p_is_not() -> None:
    check_size(1920, 1080)
    check_size(1080, 1920)
    with pytest.raises(MediaFormatError, match="at most 2088960 pixels"):
        check_size(3840, 2160)


def test_a_picture_does_not_show_in_a_representation() -> None:
    assert "data" not in repr(black(2, 2))
