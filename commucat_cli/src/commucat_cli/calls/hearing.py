"""What the others say: packets in as they come, one frame of sound out for all of them every 20 ms.

Packets are put in on the event loop, between frames; :meth:`Hearing.decode` runs in a worker thread.
"""

from array import array
from collections.abc import Iterable, Sequence
from operator import add
from typing import Final, TypeAlias

import attrs

from commucat_cli.calls.party_keys import PartyKeys
from commucat_cli.calls.quality import Delays, StreamQuality
from commucat_crypto import MediaDecryptionError, MediaReplayError
from commucat_media import AudioPacket, MediaError, StreamPacket, decode_audio_any
from commucat_media.errors import MediaFormatError
from commucat_media.jitter_buffer import Arrival, Playout, PlayoutKind
from commucat_media.pcm import AudioFormat, samples_of
from commucat_media.voice import VoiceDecoder, VoiceReceiver

FORMAT: Final = AudioFormat()
"""Of what is heard: 48 kHz, one channel, 20 ms."""
MAX_STREAMS: Final = 64
"""Streams heard at once: more than any call has devices. Each costs a decoder."""
_LOUDEST: Final = 32_767


@attrs.define(eq=False)
class _Heard:
    """One stream."""

    device: str | None
    """Who sends it; None when nothing tells."""
    receiver: VoiceReceiver = attrs.field(factory=lambda: VoiceReceiver(FORMAT))
    decoder: VoiceDecoder = attrs.field(factory=lambda: VoiceDecoder(FORMAT))
    quality: StreamQuality = attrs.field(factory=StreamQuality)


Due: TypeAlias = Sequence[tuple[_Heard, Playout]]
"""What is to be played of each stream."""


@attrs.frozen(kw_only=True)
class HeardFigures:
    """Everything that was heard in a call, all streams together."""

    packets: int
    bytes: int
    lost: int
    late: int
    repeated: int
    recovered: int
    concealed: int
    unreadable: int
    delays: Delays


@attrs.frozen(kw_only=True)
class Interval:
    """What came since the interval before."""

    expected: int
    lost: int
    jitter_ms: float
    bytes: int

    @property
    def loss(self) -> float:
        """0 to 1."""
        return self.lost / self.expected if self.expected else 0.0


class Hearing:
    """All streams of the others in one call."""

    def __init__(self, keys: PartyKeys | None, *, sole: str | None) -> None:
        """``keys`` None: nothing is encrypted. ``sole``: the only other device, of which then everything
        is."""
        self._keys = keys
        self._sole = sole
        self._streams: dict[int | None, _Heard] = {}
        self._gone: list[_Heard] = []
        self._owners: dict[int, str] = {}
        self._unreadable = 0
        self._repeated = 0
        self._reported_bytes = 0

    def own(self, device: str, streams: Iterable[int]) -> None:
        """The server says whose streams these are. With keys only what decrypts is believed."""
        for stream in streams:
            if len(self._owners) < MAX_STREAMS:
                self._owners[stream] = device

    def forget(self, device: str) -> None:
        """Nothing of this device is to be heard any more."""
        for stream, heard in list(self._streams.items()):
            if heard.device == device:
                self._gone.append(self._streams.pop(stream))

    def take(self, payload: bytes, now: float) -> None:
        """A VoiceFrame has come; what cannot be read is counted and left out."""
        try:
            self._take(payload, now)
        except MediaReplayError:
            self._repeated += 1
        except (MediaError, MediaDecryptionError):
            self._unreadable += 1

    def _take(self, payload: bytes, now: float) -> None:
        packet = decode_audio_any(payload)
        if isinstance(packet, AudioPacket):
            self._take_unnumbered(packet, len(payload), now)
            return
        device, data = self._opened(packet, payload)
        heard = self._stream(packet.stream, device)
        arrival = heard.receiver.receive(attrs.evolve(packet, data=data, encrypted=False), now)
        if arrival is not Arrival.REPEATED:
            heard.quality.note(packet.number, packet.timestamp, len(payload), now)

    def _opened(self, packet: StreamPacket, payload: bytes) -> tuple[str | None, bytes]:
        if self._keys is None:
            if packet.encrypted:
                raise MediaDecryptionError("an encrypted packet in a call that is not")
            return self._owners.get(packet.stream, self._sole), packet.data
        if not packet.encrypted:
            # Whoever sits in between could have made it.
            raise MediaDecryptionError("a packet in clear in a call that is encrypted")
        return self._keys.decrypt(payload, packet.stream)

    def _take_unnumbered(self, packet: AudioPacket, size: int, now: float) -> None:
        """One of version 1. Without numbers nothing tells several senders apart, or what was lost."""
        if self._keys is not None or self._sole is None:
            raise MediaDecryptionError("a packet of nobody in particular")
        heard = self._stream(None, self._sole)
        heard.receiver.receive(packet, now)
        heard.quality.received += 1
        heard.quality.bytes += size

    def _stream(self, stream: int | None, device: str | None) -> _Heard:
        heard = self._streams.get(stream)
        if heard is None:
            if len(self._streams) >= MAX_STREAMS:
                raise MediaFormatError("too many streams")
            heard = self._streams[stream] = _Heard(device)
        return heard

    # -- every 20 ms -----------------------------------------------------------------------------------

    def due(self, now: float) -> Due:
        """What is to be played now, for :meth:`decode`. To be called once for each frame."""
        return [(heard, heard.receiver.take(now)) for heard in self._streams.values()]

    @staticmethod
    def decode(due: Due) -> "array[int]":
        """One frame of everything together; for a worker thread."""
        return mixed(
            [
                samples_of(heard.decoder.decode(playout))
                for heard, playout in due
                if playout.kind is not PlayoutKind.SILENCE
            ]
        )

    # -- how it went -----------------------------------------------------------------------------------

    @property
    def _all(self) -> list[_Heard]:
        return [*self._streams.values(), *self._gone]

    def interval(self) -> Interval:
        """What came since the last call of this method; for CallStats."""
        reports = [heard.receiver.report() for heard in self._streams.values()]
        total = sum(heard.quality.bytes for heard in self._all)
        since, self._reported_bytes = total - self._reported_bytes, total
        return Interval(
            expected=sum(report.expected for report in reports),
            lost=sum(report.lost for report in reports),
            jitter_ms=max((report.jitter * 1000 for report in reports), default=0.0),
            bytes=since,
        )

    def figures(self) -> HeardFigures:
        """Of the whole call so far."""
        delays = Delays()
        for heard in self._all:
            delays.add(heard.quality.delays)
        counts = [heard.receiver.counts for heard in self._all]
        return HeardFigures(
            packets=sum(heard.quality.received for heard in self._all),
            bytes=sum(heard.quality.bytes for heard in self._all),
            lost=sum(heard.quality.lost for heard in self._all),
            late=sum(count.late for count in counts),
            repeated=self._repeated + sum(count.repeated for count in counts),
            recovered=sum(count.recovered for count in counts),
            concealed=sum(count.concealed for count in counts),
            unreadable=self._unreadable + sum(heard.decoder.damaged for heard in self._all),
            delays=delays,
        )


def mixed(frames: Sequence["array[int]"]) -> "array[int]":
    """The sum of several frames, cut off where it does not fit 16 bits; silence of none."""
    if not frames:
        return samples_of(FORMAT.silence)
    if len(frames) == 1:
        return frames[0]
    total: list[int] = list(frames[0])
    for frame in frames[1:]:
        total = list(map(add, total, frame))
    if max(total) > _LOUDEST or min(total) < -_LOUDEST - 1:
        total = [min(max(sample, -_LOUDEST - 1), _LOUDEST) for sample in total]
    return array("h", total)
