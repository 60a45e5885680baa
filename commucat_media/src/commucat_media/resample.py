"""Sound of one sample rate made into another, by a windowed sinc filter.

For files and captures at rates that no codec takes, as 44,100 Hz. In Python it takes about a tenth of the
time that the sound lasts, so it belongs into a worker thread.
"""

import math
import operator
from array import array
from typing import Final

from commucat_media.errors import MediaFormatError
from commucat_media.pcm import pcm_of, samples_of, with_channels

SINC_ZEROS: Final = 8
"""Zero crossings of the filter on each side: about 60 dB of attenuation with the window below."""
MAX_PHASES: Final = 2_000
"""Filters that are kept at most. Between the usual rates it is 441; odd pairs of rates would take a table
for every output sample."""
LOWEST_RATE: Final = 1_000
HIGHEST_RATE: Final = 384_000


def resample(pcm: bytes, *, have: int, want: int, channels: int = 1) -> bytes:
    """Return the same sound with ``want`` instead of ``have`` samples per second.

    Raises:
        MediaFormatError: a rate outside 1,000 to 384,000 Hz, two rates with no common measure, or a sample
            that is not whole.
    """
    for rate in (have, want):
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise MediaFormatError(
                f"sample rate {rate} Hz; from {LOWEST_RATE} to {HIGHEST_RATE} can be converted"
            )
    pcm = with_channels(pcm, have=channels, want=channels)
    if have == want or not pcm:
        return pcm
    common = math.gcd(have, want)
    up, down = want // common, have // common
    if up > MAX_PHASES:
        raise MediaFormatError(f"sound of {have} Hz cannot be made into {want} Hz; convert the file before")
    filters = _filters(up, down)
    samples = samples_of(pcm)
    length = -(-len(samples) // channels * up // down)
    out = array("h", bytes(2 * length * channels))
    for channel in range(channels):
        out[channel::channels] = _channel(samples[channel::channels], filters, up, down, length)
    return pcm_of(out)


def _filters(up: int, down: int) -> list[list[float]]:
    """One filter for each position of an output sample between two input samples."""
    # When the rate falls, the filter must also cut off what the new rate cannot carry.
    cutoff = min(1.0, up / down)
    half = math.ceil(SINC_ZEROS / cutoff)
    filters = []
    for phase in range(up):
        shift = phase / up
        taps = [_tap(position - shift, cutoff, half) for position in range(1 - half, half + 1)]
        # Each phase passes a constant as it is, or the phases would be heard as a tone.
        total = sum(taps)
        filters.append([tap / total for tap in taps])
    return filters


def _tap(distance: float, cutoff: float, half: int) -> float:
    if abs(distance) >= half:
        return 0.0
    angle = math.pi * distance * cutoff
    sinc = math.sin(angle) / angle if angle else 1.0
    window = 0.42 + 0.5 * math.cos(math.pi * distance / half) + 0.08 * math.cos(2 * math.pi * distance / half)
    return sinc * window


def _channel(
    samples: "array[int]", filters: list[list[float]], up: int, down: int, length: int
) -> "array[int]":
    taps = len(filters[0])
    before = taps // 2 - 1
    padded = array("h", bytes(2 * before)) + samples + array("h", bytes(2 * (taps + 1)))
    out = array("h", bytes(2 * length))
    for index in range(length):
        start, phase = divmod(index * down, up)
        value = round(sum(map(operator.mul, filters[phase], padded[start : start + taps])))
        out[index] = min(max(value, -32_768), 32_767)
    return out
