"""Pictures that the tests of video share."""

import math

import numpy as np

from commucat_media.picture import Picture, chroma


def scene(index: int, width: int = 320, height: int = 180) -> Picture:
    """The picture number ``index`` of a moving scene: soft stripes that wander, and a bright square."""
    columns, rows = np.arange(width), np.arange(height)[:, None]
    luma = 100 + 60 * np.sin((columns + 3 * index) / 17) * np.cos((rows + index) / 11)
    left, top = 5 * index % max(width - 20, 1), height // 3
    luma[top : top + 20, left : left + 20] = 220
    colours = [
        np.full((chroma(height), chroma(width)), 128 + 40 * math.sin(index / 9 + shift)) for shift in (0, 2)
    ]
    data = b"".join(plane.astype(np.uint8).tobytes() for plane in (luma, *colours))
    return Picture(width=width, height=height, data=data)


def grain(index: int, width: int = 320, height: int = 180) -> Picture:
    """A picture of the scene as a bad camera sees it in the dark: hard to compress, at any bitrate."""
    smooth = np.frombuffer(scene(index, width, height).data, dtype=np.uint8).astype(np.int16)
    chance = np.random.default_rng(index)
    rough = smooth + chance.integers(-12, 13, len(smooth), dtype=np.int16)
    return Picture(width=width, height=height, data=rough.clip(0, 255).astype(np.uint8).tobytes())


def psnr(one: Picture, other: Picture) -> float:
    """Likeness of two pictures in decibels; above 30 one hardly sees a difference."""
    assert (one.width, one.height) == (other.width, other.height)
    first = np.frombuffer(one.data, dtype=np.uint8).astype(np.float64)
    second = np.frombuffer(other.data, dtype=np.uint8).astype(np.float64)
    error = float(np.mean((first - second) ** 2))
    return math.inf if not error else 10 * math.log10(255**2 / error)
