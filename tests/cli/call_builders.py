"""Sound for calls: something with the rhythm and the pitch of speech, the same every time."""

import math
import random
import wave
from array import array
from pathlib import Path

from commucat_media.pcm import pcm_of


def speech_like(seconds: float, rate: int = 48_000, seed: int = 1) -> "array[int]":
    """Syllables of an eighth of a second: harmonics of a voice that rises, falls, swells and pauses."""
    chance = random.Random(seed)
    samples = array("h")
    phase, pitch, loudness = 0.0, 120.0, 0.0
    pitch_to, loudness_to = pitch, 1.0
    for number in range(round(seconds * rate)):
        if number % (rate // 8) == 0:
            pitch_to, loudness_to = chance.uniform(90, 220), chance.choice((0.0, 0.3, 0.8, 1.0))
        loudness += (loudness_to - loudness) * 20 / rate
        pitch += (pitch_to - pitch) * 30 / rate
        phase += 2 * math.pi * pitch / rate
        voice = sum(math.sin(harmonic * phase) / harmonic for harmonic in range(1, 6))
        samples.append(int(6000 * loudness * voice))
    return samples


def write_speech(path: Path, seconds: float, rate: int = 48_000, seed: int = 1, channels: int = 1) -> Path:
    """A WAV file of it; of two channels, the right one is silent."""
    samples = speech_like(seconds, rate, seed)
    if channels == 2:
        both = array("h", bytes(4 * len(samples)))
        both[0::2] = samples
        samples = both
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm_of(samples))
    return path
