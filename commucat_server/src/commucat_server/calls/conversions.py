"""The transcoders of one call: one for each stream and codec that somebody asks for."""

from collections.abc import Callable
from functools import partial
from typing import Final

from commucat_media.errors import MediaError
from commucat_proto.calls import CallMediaProfile
from commucat_server.calls.forwarding.conversion import Codec, MediaPacket, needs, stands_alone
from commucat_server.calls.forwarding.room import Room
from commucat_server.calls.forwarding.stream import Participant, Stream
from commucat_server.calls.transcoding import Conversion, Job, Transcoding

BEHIND: Final = "transcoder_behind"
FAILED: Final = "transcoder_failed"
FULL: Final = "no_transcoder"

Deliver = Callable[[Stream, tuple[Participant, ...], Job, MediaPacket], None]
"""Sends a packet of a stream to these receivers."""
Drop = Callable[[Stream, str, bool], None]
"""Told that a packet of a stream is dropped, and why; and whether the stream needs a key frame."""


class Conversions:
    """Of one call.

    Args:
        profile_of: what a device has announced of its media.
    """

    def __init__(
        self,
        transcoding: Transcoding,
        profile_of: Callable[[str], CallMediaProfile | None],
        deliver: Deliver,
        drop: Drop,
    ) -> None:
        self._transcoding = transcoding
        self._profile_of = profile_of
        self._deliver = deliver
        self._drop = drop
        self._running: dict[tuple[Stream, Codec], Conversion] = {}

    def put(
        self,
        stream: Stream,
        codec: Codec,
        readers: tuple[Participant, ...],
        packet: MediaPacket,
        recipients: frozenset[str],
        now: float,
    ) -> bool:
        """Take a packet for those who ask for this codec; False: it is for them as it is, at once."""
        convert = needs(packet, codec)
        conversion = self._running.get((stream, codec))
        if conversion is None or conversion.closed:
            if not convert:
                return False
            conversion = self._begin(stream, codec)
            if conversion is None:
                self._drop(stream, FULL, False)
                return True
        if not convert:
            # What was encoded here and what was not do not build upon each other.
            conversion.entered = -1
            if not conversion.pending:
                return False
        elif conversion.gap and not stands_alone(packet):
            self._drop(stream, FAILED, True)
            return True
        job = Job(
            packet=packet,
            convert=convert,
            key_frame=conversion.entered != stream.entered,
            readers=readers,
            recipients=recipients,
            arrived=now,
        )
        if not conversion.put(job):
            conversion.gap = stream.gated
            self._drop(stream, BEHIND, stream.gated)
        elif convert:
            conversion.gap = False
            conversion.entered = stream.entered
        return True

    def release(self, room: Room) -> None:
        """Free the transcoders that nobody asks for any more, and those of streams that are gone."""
        if self._running:
            asked = room.asked()
            for key in [key for key in self._running if key not in asked or self._running[key].closed]:
                self._running.pop(key).close()

    def close(self) -> None:
        """The call is over."""
        for conversion in self._running.values():
            conversion.close()
        self._running.clear()

    def _begin(self, stream: Stream, codec: Codec) -> Conversion | None:
        running = sum(not each.closed for each in self._running.values())
        if running >= self._transcoding.share:
            return None
        profile = self._profile_of(stream.owner.device_id)
        conversion = self._transcoding.begin(stream, codec, profile, partial(self._done, stream, codec))
        if conversion is not None:
            self._running[stream, codec] = conversion
        return conversion

    def _done(self, stream: Stream, codec: Codec, job: Job, result: MediaPacket | MediaError | None) -> None:
        if isinstance(result, MediaError):
            conversion = self._running.get((stream, codec))
            self._drop(stream, FAILED, stream.gated and conversion is not None and not conversion.dead)
        elif result is not None:
            # Whoever came meanwhile begins with a later packet, whoever left gets none.
            readers = tuple(each for each in stream.asking.get(codec, ()) if each in job.readers)
            self._deliver(stream, readers, job, result)
