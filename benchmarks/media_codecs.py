"""Time that codecs take for a frame of speech and for a picture, and the jitter buffer for a packet.

    .venv/bin/python benchmarks/media_codecs.py [--seconds 10] [--width 640] [--height 360]

Prints one JSON object. ``wall_us`` and ``cpu_us`` are medians of one call (an encoder of large pictures also
uses threads of its own, whose time is in ``cpu_us``); ``bytes`` is the mean size of a packet. The speech is a
tone whose pitch and loudness change; the pictures are stripes and a square that wander over them, with the
grain of a bad camera.
"""

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from commucat_media import VideoCodec, decode_audio_any, encode_stream_packet
from commucat_media.jitter_buffer import JitterBuffer
from commucat_media.opus import OpusDecoder, OpusEncoder
from commucat_media.pcm import AudioFormat, level_of, pcm_from_float
from commucat_media.picture import Picture, chroma
from commucat_media.video import VideoDecoder, VideoEncoder, VideoFormat
from commucat_media.voice import VoiceSender

Result = TypeVar("Result")
Figures = dict[str, float]


def timed(calls: list[Callable[[], Result]]) -> tuple[list[Result], Figures]:
    """Results of the calls, and the medians of the time that one took."""
    results, walls, cpus = [], [], []
    for call in calls:
        cpu, wall = time.process_time(), time.perf_counter()
        results.append(call())
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return results, {
        "wall_us": round(statistics.median(walls) * 1e6, 1),
        "cpu_us": round(statistics.median(cpus) * 1e6, 1),
    }


def speech(seconds: int) -> list[bytes]:
    """Frames of 20 ms, 48 kHz, mono."""
    samples, phase = [], 0.0
    for index in range(48_000 * seconds):
        moment = index / 48_000
        phase += 2 * math.pi * (500 + 300 * math.sin(4.4 * moment)) / 48_000
        samples.append((0.3 + 0.2 * math.sin(19.5 * moment)) * math.sin(phase))
    pcm = pcm_from_float(samples)
    size = AudioFormat().frame_bytes
    return [pcm[at : at + size] for at in range(0, len(pcm), size)]


def pictures(count: int, width: int, height: int) -> list[Picture]:
    chance = random.Random(1)  # noqa: S311  # the same pictures in every run
    # Grain by the row: a picture of it is cut from anywhere.
    grain = [chance.randrange(-8, 9) for _ in range(width * 4)]
    made = []
    for index in range(count):
        rows = []
        left = 5 * index % (width - 20)
        for row in range(height):
            shade = 60 * math.cos((row + index) / 11)
            offset = chance.randrange(width * 3)
            line = bytearray(
                int(100 + shade * WAVE[(column + 3 * index) % len(WAVE)]) + grain[offset + column]
                for column in range(width)
            )
            if height // 3 <= row < height // 3 + 20:
                line[left : left + 20] = b"\xdc" * 20
            rows.append(bytes(line))
        colours = bytes([120]) * (chroma(width) * chroma(height)) * 2
        made.append(Picture(width=width, height=height, data=b"".join(rows) + colours))
    return made


WAVE = [math.sin(2 * math.pi * step / 107) for step in range(107)]


def measure_speech(seconds: int) -> dict[str, Figures]:
    frames = speech(seconds)
    encoder, decoder = OpusEncoder(), OpusDecoder()
    packets, encode = timed([partial(encoder.encode, frame) for frame in frames])
    encode["bytes"] = round(statistics.mean(map(len, packets)), 1)
    _, decode = timed([partial(decoder.decode, packet) for packet in packets])
    _, recover = timed([partial(decoder.recover, packet) for packet in packets])
    _, conceal = timed([decoder.conceal for _ in packets])
    _, level = timed([partial(level_of, frame) for frame in frames])

    voice = VoiceSender(stream=1, encoder=OpusEncoder(dtx=False)).feed(b"".join(frames))
    payloads, encode_packet = timed([partial(encode_stream_packet, one) for one in voice])
    _, decode_packet = timed([partial(decode_audio_any, payload) for payload in payloads])
    buffer = JitterBuffer()

    def through_buffer(number: int, data: bytes) -> None:
        now = number * 0.02
        buffer.put(number=number, timestamp=number * 960, data=data, now=now)
        buffer.take(now)

    _, jitter = timed([partial(through_buffer, one.number, one.data) for one in voice])
    return {
        "opus_encode": encode,
        "opus_decode": decode,
        "opus_recover": recover,
        "opus_conceal": conceal,
        "level": level,
        "packet_encode": encode_packet,
        "packet_decode": decode_packet,
        "jitter_buffer": jitter,
    }


def measure_video(seconds: int, width: int, height: int) -> dict[str, Figures]:
    shown = pictures(24 * seconds, width, height)
    figures = {}
    for codec in (VideoCodec.VP8, VideoCodec.VP9, VideoCodec.H264_BASELINE, VideoCodec.AV1_MAIN):
        encoder = VideoEncoder(VideoFormat(codec=codec, width=width, height=height))
        decoder = VideoDecoder(codec)
        packets, encode = timed([partial(encoder.encode, picture) for picture in shown])
        encode["bytes"] = round(statistics.mean(len(packet.data) for packet in packets), 1)
        _, decode = timed([partial(decoder.decode, packet.data) for packet in packets])
        encoder.close()
        figures |= {f"{codec.name.lower()}_encode": encode, f"{codec.name.lower()}_decode": decode}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Time that the media codecs take.")
    parser.add_argument(
        "--seconds", type=int, default=10, help="of speech; of video a fifth of it, at least 1"
    )
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=360)
    options = parser.parse_args()
    if options.seconds < 1 or options.width < 64 or options.height < 64:
        parser.error("at least 1 second, and pictures of 64x64")
    video = measure_video(max(options.seconds // 5, 1), options.width, options.height)
    print(json.dumps(measure_speech(options.seconds) | video, indent=1))


if __name__ == "__main__":
    main()
