"""Sounds and measures that the tests of media share."""

import math
from array import array
from collections.abc import Sequence

from commucat_media.pcm import AudioFormat, pcm_from_float, samples_of

MONO_48K = AudioFormat()


def tone(hertz: float, seconds: float, *, sample_rate: int = 48_000, loudness: float = 0.5) -> bytes:
    """A steady tone, mono."""
    step = 2 * math.pi * hertz / sample_rate
    return pcm_from_float(loudness * math.sin(step * index) for index in range(round(seconds * sample_rate)))


def warble(seconds: float, *, sample_rate: int = 48_000, loudness: float = 0.5) -> bytes:
    """A tone from 200 to 800 Hz whose pitch and loudness change as speech does; no two frames are alike."""
    phase = 0.0
    samples = []
    for index in range(round(seconds * sample_rate)):
        time = index / sample_rate
        phase += 2 * math.pi * (500 + 300 * math.sin(2 * math.pi * 0.7 * time)) / sample_rate
        swell = 0.6 + 0.4 * math.sin(2 * math.pi * 3.1 * time)
        samples.append(loudness * swell * math.sin(phase))
    return pcm_from_float(samples)


def frames_of(pcm: bytes, audio_format: AudioFormat = MONO_48K) -> list[bytes]:
    size = audio_format.frame_bytes
    return [pcm[at : at + size] for at in range(0, len(pcm) - size + 1, size)]


def correlation(one: Sequence[int], other: Sequence[int]) -> float:
    """Pearson's correlation of two stretches of samples: 1 when they have the same shape."""
    count = min(len(one), len(other))
    one, other = one[:count], other[:count]
    mean_one, mean_other = sum(one) / count, sum(other) / count
    covariance = sum((a - mean_one) * (b - mean_other) for a, b in zip(one, other, strict=True))
    spread_one = sum((a - mean_one) ** 2 for a in one)
    spread_other = sum((b - mean_other) ** 2 for b in other)
    if not spread_one or not spread_other:
        return 0.0
    return covariance / math.sqrt(spread_one * spread_other)


def best_match(
    played: bytes, spoken: bytes, *, longest_delay: int, sample_rate: int = 48_000
) -> tuple[float, int]:
    """Highest correlation over delays of 0 to ``longest_delay`` samples, and the delay that has it."""
    heard, said = samples_of(played), samples_of(spoken)
    # Tones below 1 kHz are told apart at 4,000 samples a second; what is best there is looked at closely.
    step = max(sample_rate // 4_000, 1)
    near = max(step // 2, 1)
    coarse = max(
        range(0, longest_delay, near), key=lambda delay: correlation(heard[delay::step], said[::step])
    )
    around = range(max(coarse - near, 0), coarse + near + 1)
    best = max(around, key=lambda delay: correlation(heard[delay::near], said[::near]))
    return correlation(heard[best:], said), best


def loudest(pcm: bytes) -> int:
    samples: array[int] = samples_of(pcm)
    return max(max(samples), -min(samples))
