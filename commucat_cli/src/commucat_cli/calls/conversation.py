"""The sound of one call: a clock of 20 ms that reads, encodes and sends, and takes, decodes, mixes and
writes."""

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from commucat_cli.calls.hearing import FORMAT, Due, HeardFigures, Hearing
from commucat_cli.calls.party_keys import PartyKeys
from commucat_cli.calls.speaking import Speaking, format_for
from commucat_cli.calls.wav_writer import WavWriter
from commucat_cli.errors import CliError
from commucat_media import MediaError, StreamPacket
from commucat_media.bitrate import BitrateController
from commucat_media.pcm import AudioFormat
from commucat_media.wav import Sound, read_wav
from commucat_proto import FrameType
from commucat_proto.calls import (
    ActiveSpeakers,
    CallStats,
    CallTransportUpdate,
    CongestionReport,
    DeviceStreams,
    MediaStreamStats,
    StreamDirection,
    StreamKind,
)

TICK: Final = 0.02
MOST_BEHIND: Final = 0.3
"""Seconds by which the clock may be behind because this process could not run; then there is a pause."""
TAIL: Final = 0.5
"""Seconds after the last word, for what is on its way, before a call that has no other end is over."""
ENOUGH_BITRATE: Final = 14_000
"""Bit/s below which losses do not push the voice: it would have no room for error correction any more."""
MOST_REPORTS: Final = 64
"""Reports of others that are kept until the next second."""
WRITE_EVERY: Final = 50
"""Frames between two writes to the recording."""

Send = Callable[[FrameType, bytes], bool]


@attrs.frozen(kw_only=True)
class SoundPlan:
    """What is played and recorded, and how. Bitrates in bit/s; ``drop`` in percent."""

    play: Path | None = None
    record: Path | None = None
    bitrate: int = 24_000
    drop: float = 0.0
    seed: int | None = None
    duration: float | None = None
    """Seconds from when the call runs to its end; None: to the end of ``play``, if there is one."""
    ends_with_sound: bool = True


class Conversation:
    """Implements :class:`~commucat_cli.calls.talk.Talk`. :meth:`prepare` it, then :meth:`run` it beside a
    line."""

    def __init__(self, plan: SoundPlan) -> None:
        self._plan = plan
        self._send: Send | None = None
        self._own = ""
        self._speaking: Speaking | None = None
        self._hearing: Hearing | None = None
        self._keys: PartyKeys | None = None
        self._numbered = False
        self._writer: WavWriter | None = None
        self._unwritten = array("h")
        self._begun = trio.Event()
        self._sent_bytes = self._reported_bytes = self._sent_packets = 0
        self._losses: list[float] = []
        self._control = BitrateController(lowest=min(plan.bitrate, ENOUGH_BITRATE), highest=plan.bitrate)
        self._said_at: float | None = None
        self.speakers: tuple[str, ...] = ()
        """Who speaks, the loudest first, as the server says."""
        self.congestion = 0
        """Packets of this device that the server dropped for others that were too slow."""

    async def prepare(self) -> None:
        """Read what is to be played, make the recording, and see whether there is Opus at all.

        Raises:
            CliError: a file cannot be read or written, or a library is missing; says what to do.
        """
        pcm, audio = b"", AudioFormat()
        if self._plan.play is not None:
            _keep_apart(self._plan.play, self._plan.record)
            # Somebody may press Ctrl-C while a pipe has nothing to read, or nobody who reads it.
            pcm, audio = await trio.to_thread.run_sync(_read_to_say, self._plan.play, abandon_on_cancel=True)
        self._speaking = Speaking(
            pcm, audio, bitrate=self._plan.bitrate, drop=self._plan.drop, seed=self._plan.seed
        )
        try:
            await trio.to_thread.run_sync(self._speaking.open)
        except MediaError as exc:
            raise CliError(str(exc)) from exc
        if self._plan.record is not None:
            self._writer = await trio.to_thread.run_sync(
                WavWriter, self._plan.record, FORMAT.sample_rate, abandon_on_cancel=True
            )

    def connect(self, own: str, send: Send) -> None:
        """Say whose sound it is, and how packets leave."""
        self._own, self._send = own, send

    async def run(self) -> None:
        """Talk from when the call runs until its time is over.

        Raises:
            CliError: the recording cannot be written any more.
        """
        await self._begun.wait()
        assert self._speaking is not None
        start = trio.current_time()
        frames = 0
        while not self._time_is_over(frames * TICK):
            await trio.sleep_until(start + frames * TICK)
            behind = trio.current_time() - start - frames * TICK
            missed = int(behind / TICK) if behind > MOST_BEHIND else 0
            if self._writer is not None:
                self._unwritten.extend(array("h", bytes(FORMAT.frame_bytes * missed)))
            await self._frame(missed)
            frames += missed + 1

    def _time_is_over(self, seconds: float) -> bool:
        if self._plan.duration is not None:
            return seconds >= self._plan.duration
        assert self._speaking is not None
        if self._plan.play is None or not self._plan.ends_with_sound or not self._speaking.over:
            return False
        self._said_at = seconds if self._said_at is None else self._said_at
        return seconds >= self._said_at + TAIL

    async def _frame(self, missed: int) -> None:
        assert self._speaking is not None
        assert self._hearing is not None
        due = self._hearing.due(trio.current_time())
        packets, heard = await trio.to_thread.run_sync(self._work, due, missed)
        for packet in packets:
            payload = self._speaking.payload(packet, self._keys, numbered=self._numbered)
            if payload is not None and self._send is not None:
                if self._send(FrameType.VOICE_FRAME, payload):
                    self._sent_bytes += len(payload)
                    self._sent_packets += 1
                else:
                    self._control.congested(trio.current_time())
                    self._adapt()
        if self._writer is not None:
            self._unwritten.extend(heard)
            if len(self._unwritten) >= WRITE_EVERY * FORMAT.frame_samples:
                await self._write()

    def _work(self, due: Due, missed: int) -> "tuple[list[StreamPacket], array[int]]":
        """In a worker thread: all codecs of one frame."""
        assert self._speaking is not None
        return self._speaking.encode(missed=missed), Hearing.decode(due)

    async def _write(self) -> None:
        assert self._writer is not None
        samples, self._unwritten = self._unwritten, array("h")
        await trio.to_thread.run_sync(self._writer.write, samples)

    async def close(self) -> None:
        """Write the rest of the recording; in any case.

        Raises:
            CliError: it cannot be written.
        """
        if self._writer is not None:
            with trio.CancelScope(shield=True):
                try:
                    await self._write()
                finally:
                    await trio.to_thread.run_sync(self._writer.close)

    # -- from the line ---------------------------------------------------------------------------------

    def begin(self, keys: PartyKeys | None, *, numbered: bool, sole: str | None) -> None:
        self._keys, self._numbered = keys, numbered
        self._hearing = Hearing(keys, sole=sole)
        self._begun.set()

    def left(self, device: str) -> None:
        if self._hearing is not None:
            self._hearing.forget(device)

    def take_media(self, frame_type: FrameType, payload: bytes) -> None:
        if frame_type is FrameType.VOICE_FRAME and self._hearing is not None:
            self._hearing.take(payload, trio.current_time())

    def take_stats(self, stats: CallStats) -> None:
        if stats.direction is StreamDirection.RECEIVE and stats.audio is not None:
            # A peer may report as often as it likes; nothing is kept for long.
            self._losses = [*self._losses[-MOST_REPORTS:], stats.audio.packet_loss]

    def take_update(self, update: CallTransportUpdate) -> None:
        match update.update:
            case DeviceStreams(device=device, streams=streams):
                if self._hearing is not None and device != self._own:
                    audio = [each.stream for each in streams if each.kind is StreamKind.AUDIO]
                    self._hearing.own(device, audio)
            case ActiveSpeakers(devices=devices):
                self.speakers = devices
            case CongestionReport(dropped=dropped, bitrate=bitrate):
                self.congestion += dropped
                self._control.congested(trio.current_time(), bitrate)
                self._adapt()

    def stats(self, call_id: str) -> Sequence[CallStats]:
        if self._speaking is None or self._hearing is None:
            return ()
        self._hear_reports()
        heard = self._hearing.interval()
        sent, self._reported_bytes = self._sent_bytes - self._reported_bytes, self._sent_bytes
        now = int(time.time())
        return (
            CallStats(
                call_id=call_id,
                direction=StreamDirection.SEND,
                audio=MediaStreamStats(bitrate=8 * sent, codec="opus"),
                timestamp=now,
            ),
            CallStats(
                call_id=call_id,
                direction=StreamDirection.RECEIVE,
                audio=MediaStreamStats(
                    bitrate=8 * heard.bytes,
                    packet_loss=heard.loss,
                    jitter_ms=round(heard.jitter_ms),
                    codec="opus",
                ),
                timestamp=now,
            ),
        )

    def _hear_reports(self) -> None:
        """Of what others reported in the last second, the worst counts: their reports do not tell who they
        are."""
        if self._losses:
            self._control.report("others", max(self._losses), trio.current_time())
            self._losses = []
            self._adapt()

    def _adapt(self) -> None:
        assert self._speaking is not None
        self._speaking.aim_at(self._control.bitrate, self._control.loss(trio.current_time()))

    # -- how it went -----------------------------------------------------------------------------------

    def figures(self, seconds: float | None) -> Mapping[str, str | int | float | None]:
        """Of the whole call; ``seconds`` it lasted."""
        if self._speaking is None or self._hearing is None or not seconds:
            return {}
        heard = self._hearing.figures()
        return {
            "packets_sent": self._sent_packets,
            "packets_dropped": self._speaking.dropped,
            "bitrate_aimed": self._speaking.bitrate,
            "bitrate_sent": round(8 * self._sent_bytes / seconds),
            "congestion": self.congestion,
            **_heard(heard, seconds),
        }


def _heard(heard: HeardFigures, seconds: float) -> dict[str, str | int | float | None]:
    mean = heard.delays.mean
    return {
        "packets_received": heard.packets,
        "packets_lost": heard.lost,
        "packets_late": heard.late,
        "packets_repeated": heard.repeated,
        "packets_unreadable": heard.unreadable,
        "frames_recovered": heard.recovered,
        "frames_concealed": heard.concealed,
        "bitrate_received": round(8 * heard.bytes / seconds),
        "jitter_mean_ms": None if mean is None else round(mean, 2),
        "jitter_p99_ms": heard.delays.percentile(99),
    }


def read_sound(path: Path) -> Sound:
    """A WAV file as it is.

    Raises:
        CliError: it cannot be read, or is none.
    """
    try:
        return read_wav(path)
    except OSError as exc:
        raise CliError(f"{path} cannot be read: {exc.strerror}") from exc
    except MediaError as exc:
        raise CliError(str(exc)) from exc


def _keep_apart(play: Path, record: Path | None) -> None:
    try:
        same = record is not None and play.samefile(record) and record.is_file()
    except OSError:
        return  # One of them is not there; who opens it says so.
    if same:
        raise CliError(f"{record} is what is to be said: --record would overwrite it; name another file")


def _read_to_say(path: Path) -> tuple[bytes, AudioFormat]:
    sound = read_sound(path)
    audio = format_for(sound)
    try:
        return sound.converted(audio), audio
    except MediaError as exc:
        raise CliError(f"{path}: {exc}") from exc
