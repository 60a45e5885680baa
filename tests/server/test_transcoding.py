"""Transcoders in their tasks and threads: with real codecs, bounded, and freed."""

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from commucat_media import AudioCodec, MediaSource, VideoCodec
from commucat_media.opus import OpusDecoder
from commucat_media.packet import StreamPacket
from commucat_media.video import VideoDecoder, VideoEncoder, VideoFormat
from commucat_proto.calls import AudioCodec as AudioName
from commucat_proto.calls import ReceiveSelection, StreamKind
from commucat_proto.calls import VideoCodec as VideoName
from commucat_proto.calls.media_profile import (
    DEFAULT_AUDIO,
    DEFAULT_PROFILE,
    DEFAULT_VIDEO,
    CallMediaProfile,
    Resolution,
)
from commucat_server.calls import codecs
from commucat_server.calls.conversions import BEHIND, FAILED, FULL, Conversions
from commucat_server.calls.forwarding.limits import ForwardingLimits
from commucat_server.calls.forwarding.room import Room
from commucat_server.calls.forwarding.stream import Participant, Stream
from commucat_server.calls.transcoding import (
    IDLE_AFTER,
    QUEUE_PACKETS,
    Job,
    NoTranscodingError,
    Transcoding,
)
from media.pictures import psnr, scene
from media.sounds import best_match, frames_of, warble
from server.forwarding_builders import picture, sound

ALL = frozenset({"bob", "carol"})
SMALL = CallMediaProfile(
    audio=DEFAULT_AUDIO,
    video=attrs.evolve(DEFAULT_VIDEO, max_resolution=Resolution(width=320, height=180), max_bitrate=600_000),
)


def raw_sound(number: int, data: bytes = bytes(1920)) -> StreamPacket:
    return attrs.evolve(sound(1, number), source=MediaSource.RAW, codec=AudioCodec.RAW_PCM, data=data)


@attrs.define(eq=False)
class Booth:
    """The transcoders of a call in which Alice is heard by Bob and Carol."""

    transcoding: Transcoding
    profile: CallMediaProfile | None = None
    got: list[Any] = attrs.Factory(list)
    dropped: list[tuple[str, bool]] = attrs.Factory(list)
    changed: trio.Event = attrs.Factory(trio.Event)
    room: Room = attrs.field(init=False)
    conversions: Conversions = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.room = Room(ForwardingLimits())
        for name in ("alice", "bob", "carol"):
            self.room.join(name)
            self.room.arrive(name, reads_streams=True, now=0.0)
        self.conversions = Conversions(
            self.transcoding, lambda _: self.profile, self._deliver, lambda _, *what: self._drop(*what)
        )

    def select(self, device_id: str, codec: AudioCodec | VideoCodec) -> None:
        if isinstance(codec, AudioCodec):
            selection = ReceiveSelection(transcode_audio=AudioName[codec.name])
        else:
            selection = ReceiveSelection(transcode_video=VideoName[codec.name])
        self.room.select(device_id, selection, 0.0)

    def send(self, packet: StreamPacket) -> list[bool]:
        """Whether each codec that is asked for took it."""
        kind = StreamKind.AUDIO if isinstance(packet.codec, AudioCodec) else StreamKind.VIDEO
        stream = self.room.receive("alice", kind, packet, 100, 0.0)
        assert isinstance(stream, Stream)
        return [
            self.conversions.put(stream, codec, readers, packet, ALL, 0.0)
            for codec, readers in stream.asking.items()
        ]

    async def until(self, done: Callable[[], bool]) -> None:
        with trio.fail_after(30):
            while not done():
                self.changed = trio.Event()
                await self.changed.wait()

    def _deliver(
        self, stream: Stream, readers: tuple[Participant, ...], job: Job, packet: StreamPacket
    ) -> None:
        self.got.append(({each.device_id for each in readers}, packet))
        self.changed.set()

    def _drop(self, cause: str, broken: bool) -> None:
        self.dropped.append((cause, broken))
        self.changed.set()


@pytest.fixture
async def transcoding(nursery: trio.Nursery) -> Transcoding:
    transcoding = Transcoding(threads=1, streams=2)
    await nursery.start(transcoding.run)
    return transcoding


@pytest.fixture
def booth(transcoding: Transcoding) -> Booth:
    return Booth(transcoding)


async def ended_until(transcoding: Transcoding, running: int) -> None:
    with trio.fail_after(30):
        while transcoding.running > running:
            await trio.to_thread.run_sync(gc.collect)


async def test_raw_sound_becomes_opus_once_for_all_who_ask(booth: Booth) -> None:
    booth.select("bob", AudioCodec.OPUS)
    booth.select("carol", AudioCodec.OPUS)
    spoken = warble(0.4)
    frames = frames_of(spoken)
    for number, frame in enumerate(frames):
        assert booth.send(raw_sound(number, frame)) == [True]
        await booth.until(lambda wanted=number: len(booth.got) > wanted)  # type: ignore[misc]

    packets = [packet for _, packet in booth.got]
    assert [readers for readers, _ in booth.got] == [{"bob", "carol"}] * len(frames)
    assert [(each.number, each.timestamp, each.stream) for each in packets] == [
        (number, number * 960, 1) for number in range(len(frames))
    ]
    assert {each.codec for each in packets} == {AudioCodec.OPUS}
    decoder = OpusDecoder()
    heard = b"".join(decoder.decode(each.data) for each in packets)
    assert best_match(heard, spoken[:-2_000], longest_delay=960)[0] > 0.9
    assert booth.transcoding.running == 1


async def test_video_is_encoded_in_bits_per_second(booth: Booth) -> None:
    """The profile's bitrate counts bits, not kilobits: the result keeps to it."""
    booth.profile = SMALL
    booth.select("bob", VideoCodec.VP9)
    encoder = VideoEncoder(VideoFormat(width=320, height=180, bitrate=4_000_000))
    decoder, bits, pictures = VideoDecoder(VideoCodec.VP9), 0, 72
    for number in range(pictures):
        encoded = encoder.encode(scene(number))
        packet = attrs.evolve(picture(1, number, key=encoded.key_frame), data=encoded.data)
        assert booth.send(packet) == [True]
        await booth.until(lambda wanted=number: len(booth.got) > wanted)  # type: ignore[misc]
        made = booth.got[-1][1]
        assert (made.codec, made.number, made.key_frame) == (VideoCodec.VP9, number, number == 0)
        bits += 8 * len(made.data)
        shown = decoder.decode(made.data)
        assert shown is not None
        assert psnr(shown, scene(number)) > 24

    assert bits / (pictures / 24) < 1.3 * 600_000


async def test_a_lower_layer_keeps_its_size(booth: Booth) -> None:
    booth.profile = SMALL
    booth.select("bob", VideoCodec.VP9)
    encoder = VideoEncoder(VideoFormat(width=160, height=90))
    encoded = encoder.encode(scene(0, 160, 90))
    booth.send(attrs.evolve(picture(1, 0, key=True), data=encoded.data))

    await booth.until(lambda: len(booth.got) == 1)
    shown = VideoDecoder(VideoCodec.VP9).decode(booth.got[0][1].data)
    assert shown is not None
    assert (shown.width, shown.height) == (160, 90)


async def test_who_comes_in_later_gets_a_key_frame(booth: Booth) -> None:
    booth.profile = SMALL
    booth.select("bob", VideoCodec.VP9)
    encoder = VideoEncoder(VideoFormat(width=320, height=180))
    flags: list[bool] = []
    for number in range(6):
        if number == 3:
            booth.select("carol", VideoCodec.VP9)
            encoder.request_key_frame()
        encoded = encoder.encode(scene(number))
        booth.send(attrs.evolve(picture(1, number, key=encoded.key_frame), data=encoded.data))
        await booth.until(lambda wanted=number: len(booth.got) > wanted)  # type: ignore[misc]
        flags.append(booth.got[-1][1].key_frame)

    assert flags == [True, False, False, True, False, False]
    assert [len(readers) for readers, _ in booth.got] == [1, 1, 1, 2, 2, 2]


async def test_what_is_not_to_be_transcoded_waits_only_behind_what_is(booth: Booth) -> None:
    booth.select("bob", AudioCodec.OPUS)
    assert booth.send(sound(1, 0)) == [False]
    assert booth.send(sound(1, 1, encrypted=True)) == [False]
    assert booth.transcoding.running == 0

    assert booth.send(raw_sound(2)) == [True]
    secret = sound(1, 3, encrypted=True)
    assert booth.send(secret) == [True]
    await booth.until(lambda: len(booth.got) == 2)

    assert [packet.number for _, packet in booth.got] == [2, 3]
    assert booth.got[1][1] is secret
    assert booth.send(sound(1, 4)) == [False]


async def test_garbage_is_dropped_and_the_next_packet_passes(booth: Booth) -> None:
    booth.select("bob", AudioCodec.OPUS)
    booth.send(raw_sound(0, b"no frame"))
    booth.send(raw_sound(1))

    await booth.until(lambda: len(booth.got) == 1)
    assert booth.dropped == [(FAILED, False)]
    assert booth.got[0][1].number == 1


async def test_damaged_video_asks_for_a_key_frame_and_goes_on_with_it(booth: Booth) -> None:
    booth.profile = SMALL
    booth.select("bob", VideoCodec.VP9)
    encoder = VideoEncoder(VideoFormat(width=320, height=180))
    booth.send(attrs.evolve(picture(1, 0, key=True), data=b"\x00garbage"))
    await booth.until(lambda: booth.dropped == [(FAILED, True)])
    encoder.encode(scene(0))
    booth.send(attrs.evolve(picture(1, 1), data=encoder.encode(scene(1)).data))
    await booth.until(lambda: booth.dropped == [(FAILED, True)] * 2)
    encoder.request_key_frame()
    booth.send(attrs.evolve(picture(1, 2, key=True), data=encoder.encode(scene(2)).data))

    await booth.until(lambda: len(booth.got) == 1)
    assert booth.got[0][1].number == 2
    assert booth.got[0][1].key_frame


async def test_a_bomb_is_refused_before_it_is_decoded(booth: Booth) -> None:
    booth.profile = SMALL
    booth.select("bob", VideoCodec.VP9)
    large = VideoEncoder(VideoFormat(width=1280, height=720)).encode(scene(0, 1280, 720))
    booth.send(attrs.evolve(picture(1, 0, key=True), data=large.data))

    await booth.until(lambda: booth.dropped == [(FAILED, True)])
    assert booth.got == []


async def test_a_profile_that_no_codec_takes_stops_only_that_stream(booth: Booth) -> None:
    booth.profile = attrs.evolve(DEFAULT_PROFILE, audio=attrs.evolve(DEFAULT_AUDIO, sample_rate=44_100))
    booth.select("bob", AudioCodec.OPUS)
    for number in range(3):
        booth.send(raw_sound(number))

    await booth.until(lambda: len(booth.dropped) == 3)
    assert set(booth.dropped) == {(FAILED, False)}


async def test_who_is_behind_drops(booth: Booth, nursery: trio.Nursery) -> None:
    """The only thread is kept busy, as by codecs of other streams."""
    threads = booth.transcoding._threads
    assert threads is not None
    working, go = threading.Event(), threading.Event()

    def work() -> None:
        working.set()
        go.wait(30)

    nursery.start_soon(threads.lane().run, work)
    await trio.to_thread.run_sync(working.wait)
    try:
        booth.select("bob", AudioCodec.OPUS)
        sent = QUEUE_PACKETS + 5
        for number in range(sent):
            booth.send(raw_sound(number))
        await trio.testing.wait_all_tasks_blocked()
        assert booth.dropped == [(BEHIND, False)] * 5
    finally:
        go.set()

    await booth.until(lambda: len(booth.got) == QUEUE_PACKETS)
    booth.send(raw_sound(sent))
    await booth.until(lambda: len(booth.got) == QUEUE_PACKETS + 1)
    assert [packet.number for _, packet in booth.got] == [*range(QUEUE_PACKETS), sent]


async def test_there_are_so_many_transcoders_and_no_more(transcoding: Transcoding) -> None:
    booths = [Booth(transcoding) for _ in range(3)]
    for booth in booths:
        booth.select("bob", AudioCodec.OPUS)
        booth.send(raw_sound(0))

    assert transcoding.running == 2
    assert booths[2].dropped == [(FULL, False)]
    booths[0].conversions.close()
    await ended_until(transcoding, 1)
    booths[2].send(raw_sound(1))
    await booths[2].until(lambda: len(booths[2].got) == 1)


async def test_no_call_has_more_than_half_of_them(booth: Booth) -> None:
    booth.select("bob", AudioCodec.OPUS)
    booth.select("carol", AudioCodec.OPUS)
    booth.send(raw_sound(0))
    booth.send(attrs.evolve(raw_sound(0), stream=2))

    assert booth.transcoding.running == 1
    assert booth.dropped == [(FULL, False)]
    await booth.until(lambda: len(booth.got) == 1)
    other = Booth(booth.transcoding)
    other.select("bob", AudioCodec.OPUS)
    other.send(raw_sound(0))
    await other.until(lambda: len(other.got) == 1)


async def test_a_transcoder_is_freed_when_nobody_asks(booth: Booth, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[codecs.Transcoder]] = []
    before = codecs.make

    def make(*args: Any) -> codecs.Transcoder:
        transcoder = before(*args)
        made.append(weakref.ref(transcoder))
        return transcoder

    monkeypatch.setattr(codecs, "make", make)
    booth.select("bob", AudioCodec.OPUS)
    booth.send(raw_sound(0))
    await booth.until(lambda: len(booth.got) == 1)
    booth.conversions.release(booth.room)
    assert booth.transcoding.running == 1

    booth.room.select("bob", ReceiveSelection(), 0.0)
    booth.conversions.release(booth.room)

    await ended_until(booth.transcoding, 0)
    gc.collect()
    assert [each() for each in made] == [None]


async def test_a_silent_stream_gives_its_transcoder_up(mock_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        transcoding = Transcoding(threads=1)
        await nursery.start(transcoding.run)
        booth = Booth(transcoding)
        booth.select("bob", AudioCodec.OPUS)
        booth.send(raw_sound(0))
        await booth.until(lambda: len(booth.got) == 1)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(IDLE_AFTER - 0.1)
        await trio.testing.wait_all_tasks_blocked()
        assert transcoding.running == 1
        mock_clock.jump(0.2)
        await ended_until(transcoding, 0)
        booth.send(raw_sound(1))
        await booth.until(lambda: len(booth.got) == 2)
        nursery.cancel_scope.cancel()
    assert transcoding.running == 0


async def test_an_unexpected_failure_of_a_codec_is_survived(
    booth: Booth, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = codecs.transcode

    def transcode(transcoder: codecs.Transcoder, packet: StreamPacket, **more: Any) -> Any:
        if packet.number == 0:
            raise MemoryError
        return before(transcoder, packet, **more)

    monkeypatch.setattr(codecs, "transcode", transcode)
    booth.select("bob", AudioCodec.OPUS)
    booth.send(raw_sound(0))
    booth.send(raw_sound(1))

    await booth.until(lambda: len(booth.got) == 1)
    assert booth.dropped == [(FAILED, False)]


async def test_what_is_not_made_here_is_refused_by_name(transcoding: Transcoding) -> None:
    await transcoding.check(AudioCodec.OPUS)
    await transcoding.check(VideoCodec.VP8)
    for codec in (VideoCodec.RAW_I420, VideoCodec.AV1_MAIN, VideoCodec.H265_MAIN):
        with pytest.raises(NoTranscodingError, match=f"{codec.name.lower()} is not made here"):
            await transcoding.check(codec)
    with pytest.raises(NoTranscodingError, match=r"calls\.transcoders is 0"):
        await Transcoding(threads=0).check(AudioCodec.OPUS)


@pytest.mark.parametrize(
    ("codec", "broken", "told"),
    [
        ("AudioCodec.OPUS", "libopus.so.0", "apt-get install libopus0 libogg0 libopusfile0"),
        ("VideoCodec.VP8", "av.py", "it comes with the extra: commucat-media[video]"),
    ],
)
def test_a_missing_library_is_named(tmp_path: Path, codec: str, broken: str, told: str) -> None:
    (tmp_path / broken).write_text("raise ImportError\n" if broken == "av.py" else "")
    program = (
        "import trio\n"
        "from commucat_media import AudioCodec, VideoCodec\n"
        "from commucat_server.calls.transcoding import NoTranscodingError, Transcoding\n"
        "async def main():\n"
        "    try:\n"
        f"        await Transcoding(threads=1).check({codec})\n"
        "    except NoTranscodingError as error:\n"
        "        print(error)\n"
        "trio.run(main)\n"
    )
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.rstrip("\n").endswith(told)


def test_a_server_loads_no_codec_before_it_is_asked() -> None:
    program = (
        "import sys\n"
        "import commucat_server.app\n"
        "codecs = {'av', 'pyogg', 'commucat_media.opus', 'commucat_media.video'}\n"
        "print(sorted(codecs & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
