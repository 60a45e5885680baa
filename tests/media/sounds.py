"""Sounds and measures that the tests of media share."""

import math
from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from commucat_media.pcm import AudioFormat, pcm_from_float, samples_of

Samples = npt.NDArray[np.float32]
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
    return _correlation(np.array(one[:count], dtype=np.float32), np.array(other[:count], dtype=np.float32))


def _correlation(one: Samples, other: Samples) -> float:
    one, other = one - one.mean(), other - other.mean()
    spread = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / spread if spread else 0.0


def best_match(
    played: bytes, spoken: bytes, *, longest_delay: int, sample_rate: int = 48_000
) -> tuple[float, int]:
    """Highest correlation over delays of 0 to ``longest_delay`` samples, and the delay that has it."""
    heard = np.array(samples_of(played), dtype=np.float32)
    said = np.array(samples_of(spoken), dtype=np.float32)
    # Tones below 1 kHz are told apart at 4,000 samples a second; what is best there is looked at closely.
    step = max(sample_rate // 4_000, 1)
    near = max(step // 2, 1)

    def match(delay: int, every: int) -> float:
        count = min(len(heard) - delay, len(said))
        return _correlation(heard[delay : delay + count : every], said[:count:every])

    coarse = max(range(0, longest_delay, near), key=lambda delay: match(delay, step))
    best = max(range(max(coarse - near, 0), coarse + near + 1), key=lambda delay: match(delay, near))
    return match(best, 1), best


def loudest(pcm: bytes) -> int:
    samples: array[int] = samples_of(pcm)
    return max(max(samples), -min(samples))
