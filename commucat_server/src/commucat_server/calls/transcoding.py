"""The codecs of the server: each in a task with a short queue, its calls in worker threads.

Nothing is loaded before somebody asks for it: a server whose participants never do needs no codec at all.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import structlog
import trio

from commucat_media.errors import MediaCodecError, MediaError
from commucat_media.threads import CodecLane, CodecThreads
from commucat_proto.calls import CallMediaProfile
from commucat_proto.calls.media_profile import DEFAULT_PROFILE
from commucat_server.calls.forwarding.conversion import MADE, Codec, MediaPacket, stands_alone
from commucat_server.calls.forwarding.stream import Participant, Stream

if TYPE_CHECKING:
    from commucat_server.calls.codecs import Transcoder

log = structlog.get_logger("commucat.calls")

QUEUE_PACKETS: Final = 8
"""Packets that wait for one transcoder: 160 ms of sound. What is later is of no use to a receiver that keeps
400 ms at most."""
IDLE_AFTER: Final = 10.0
"""Seconds without a packet after which a transcoder is given up; the next packet makes another."""
CLOSE_TIMEOUT: Final = 1.0
"""Seconds for a thread to free a codec. After them its memory goes with the object."""


class NoTranscodingError(Exception):
    """This server does not make what a client asks for; the text says why, for people."""


@attrs.frozen(eq=False, kw_only=True)
class Job:
    """A packet on its way through a transcoder, and who is to get it."""

    packet: MediaPacket
    convert: bool
    """False: it only waits for those before it, to stay behind them."""
    key_frame: bool
    """Somebody begins with it."""
    readers: tuple[Participant, ...]
    recipients: frozenset[str]
    arrived: float


Done: TypeAlias = Callable[[Job, MediaPacket | MediaError | None], None]
"""Called in the event loop with what became of a packet; None for a picture that shows nothing new."""


class Conversion:
    """One stream into one codec.

    Args:
        make: makes the transcoder; called in a thread.
        gated: packets build upon each other from one key frame to the next.
    """

    def __init__(self, make: "Callable[[], Transcoder]", lane: CodecLane, done: Done, *, gated: bool) -> None:
        self._make = make
        self._lane = lane
        self._done = done
        self._gated = gated
        self._to, self._jobs = trio.open_memory_channel[Job](QUEUE_PACKETS)
        self._scope = trio.CancelScope()
        self._broken: MediaError | None = None
        self.closed = False
        self.dead = False
        """There can be no such transcoder: nothing helps."""
        self.pending = 0
        """Packets that are in it."""
        self.entered = -1
        """How many had come into the stream at the last packet that was taken; see :class:`Stream`."""
        self.gap = gated
        """What comes before the next key frame cannot be decoded."""

    def put(self, job: Job) -> bool:
        """Take a packet; False if too many wait already."""
        try:
            self._to.send_nowait(job)
        except (trio.WouldBlock, trio.ClosedResourceError):
            return False
        self.pending += 1
        return True

    def close(self) -> None:
        """Drop what waits, and free the codec."""
        self.closed = True
        self._scope.cancel()

    async def run(self) -> None:
        """Work until closed, or until nothing has come for :data:`IDLE_AFTER` seconds."""
        transcoder: Transcoder | None = None
        try:
            with self._scope:
                transcoder = await self._opened()
                while (job := await self._next()) is not None:
                    result = await self._result(transcoder, job)
                    self.pending -= 1
                    self._done(job, result)
        finally:
            self.closed = True
            self._to.close()
            self._jobs.close()
            if transcoder is not None:
                with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                    await self._lane.run(transcoder.close)

    async def _opened(self) -> "Transcoder | None":
        """The transcoder; None if there can be none: then nothing passes."""
        try:
            return await self._lane.run(self._make)
        except MediaError as exc:
            self._broken, self.dead = exc, True
        return None

    async def _next(self) -> Job | None:
        with trio.move_on_after(IDLE_AFTER):
            return await self._jobs.receive()
        return None

    async def _result(self, transcoder: "Transcoder | None", job: Job) -> MediaPacket | MediaError | None:
        if not job.convert:
            return job.packet
        if transcoder is None:
            assert self._broken is not None
            return self._broken
        if self._broken is not None and self._gated and not stands_alone(job.packet):
            return self._broken
        try:
            result = await self._lane.run(_transcode, transcoder, job.packet, key_frame=job.key_frame)
        except MediaError as exc:
            self._broken = exc
            return exc
        except Exception as exc:
            # What a library raises that nobody expects must not end the calls of others.
            log.exception("a codec failed", error=type(exc).__name__)
            self._broken = MediaCodecError("the codec failed")
            return self._broken
        self._broken = None
        return result


class Transcoding:
    """The transcoders of one process.

    Args:
        threads: codecs that work at the same moment; 0: none are made.
        streams: transcoders that there may be at once; one is for one stream and one codec.
    """

    def __init__(self, *, threads: int = 0, streams: int = 16) -> None:
        self._threads = CodecThreads(threads) if threads else None
        self._streams = streams
        self.share = (streams + 1) // 2
        """Transcoders that one call may have: no call leaves nothing to the others."""
        self._nursery: trio.Nursery | None = None
        self._refused: dict[str, str | None] = {}
        self.running = 0
        """Transcoders that there are now."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Holds the tasks of all transcoders; returns when it is cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def check(self, codec: Codec) -> None:
        """Load what a codec needs, the first time that it is asked for.

        Raises:
            NoTranscodingError: transcoding is off, the codec is not made here, or a library is missing.
        """
        if self._threads is None:
            raise NoTranscodingError("this server transcodes nothing (calls.transcoders is 0)")
        name = codec.name
        if name not in MADE:
            raise NoTranscodingError(
                f"{name.lower()} is not made here; {', '.join(sorted(MADE)).lower()} are"
            )
        if name not in self._refused:
            self._refused[name] = await self._threads.lane().run(_missing, codec)
        reason = self._refused[name]
        if reason is not None:
            raise NoTranscodingError(reason)

    def begin(
        self, stream: Stream, codec: Codec, profile: CallMediaProfile | None, done: Done
    ) -> Conversion | None:
        """Start a transcoder; None if there are as many as may be."""
        if self._threads is None or self._nursery is None or self.running >= self._streams:
            return None
        make = partial(_make, codec, profile or DEFAULT_PROFILE)
        conversion = Conversion(make, self._threads.lane(), done, gated=stream.gated)
        self.running += 1
        self._nursery.start_soon(self._run, conversion)
        return conversion

    async def _run(self, conversion: Conversion) -> None:
        try:
            await conversion.run()
        finally:
            self.running -= 1


# In threads; the first of these loads what codecs need.


def _make(codec: Codec, profile: CallMediaProfile) -> "Transcoder":
    from commucat_server.calls import codecs

    return codecs.make(codec, profile)


def _missing(codec: Codec) -> str | None:
    from commucat_server.calls import codecs

    return codecs.missing(codec)


def _transcode(transcoder: "Transcoder", packet: MediaPacket, *, key_frame: bool) -> MediaPacket | None:
    from commucat_server.calls import codecs

    return codecs.transcode(transcoder, packet, key_frame=key_frame)
