"""What a session sends: everything queued, in as few Noise messages as fit, and its farewell."""

from collections.abc import Callable, Mapping
from typing import Any

import structlog
import trio

from commucat_proto import FrameType, ServerSession
from commucat_server.connect.confirmation import TransportConfirmation
from commucat_server.connect.context import ConnectContext
from commucat_server.connect.dispatch import FrameDispatcher
from commucat_server.connect.modes import FramedStream
from commucat_server.listener import ConnectStream, StreamLostError
from commucat_server.listener.wakeup import Progress, Wakeup
from commucat_server.routing.live import LiveSession
from commucat_server.routing.media_queue import TURN_BYTES
from commucat_server.routing.reception import PAGE_ROWS
from commucat_storage import StorageError

log = structlog.get_logger("commucat.connect")

MEDIA_WAIT = 0.02
"""Seconds until media that found no room looks again: one packet of sound."""


class SessionWriter:
    """All that sends on an established stream: one task, and its shortcut while that task waits.

    Args:
        context: the services.
        stream: where to; a :class:`FramedStream` gets every frame alone.
        session: seals what is sent.
        live: where it is queued.
        clear: the session is not encrypted.
        progress: told whenever what was queued has been sent.
        dispatcher: answers what the client sent; the farewell comes behind all of it.
        confirmation: told of every write, for clients that do not confirm themselves.
    """

    __slots__ = (
        "_clear",
        "_confirmation",
        "_context",
        "_dispatcher",
        "_framed",
        "_live",
        "_progress",
        "_resting",
        "_session",
        "_stream",
        "_unsent",
        "_work",
    )

    def __init__(
        self,
        context: ConnectContext,
        stream: ConnectStream,
        session: ServerSession,
        live: LiveSession,
        *,
        clear: bool,
        progress: Progress,
        dispatcher: FrameDispatcher,
        confirmation: TransportConfirmation | None,
    ) -> None:
        self._context = context
        self._stream = stream
        self._framed = stream if isinstance(stream, FramedStream) else None
        self._session = session
        self._live = live
        self._clear = clear
        self._progress = progress
        self._dispatcher = dispatcher
        self._confirmation = confirmation
        self._work = Wakeup()
        # The task waits for work: what is queued may be sent from where it was queued.
        self._resting = False
        # What was sealed so but found no room.
        self._unsent: bytes | None = None

    def wake(self) -> None:
        """Something was queued, or the session is to end."""
        if not (self._resting and self._context.inbox.wake(self._flush_now)):
            self._work.set()

    async def send(self, data: bytes, frame: bytes = b"") -> None:
        """Send, waiting for as long as the client takes something of what was sent before.

        ``frame`` is what ``data`` is in clear, for a mode that packs frames.

        Raises:
            StreamLostError: the client is gone.
            TooSlowError: it took no byte for ``write_stall`` seconds.
        """
        if self._framed is None and self._stream.send_now(data):
            return
        while True:
            waiting = self._stream.outbox_bytes
            with trio.move_on_after(self._context.settings.write_stall):
                if self._framed is not None and frame:
                    await self._framed.send_frame(frame, data)
                else:
                    await self._stream.send(data)
                return
            if self._stream.outbox_bytes >= waiting:
                raise trio.TooSlowError

    async def run(self, end: Callable[[], None]) -> None:
        """Send until there is a farewell, and ``end`` the whole session with it.

        Raises:
            StreamLostError: the client is gone.
            TooSlowError: it took no byte for ``write_stall`` seconds, or not the farewell in time.
        """
        live = self._live
        try:
            while live.farewell is None:
                await self._send_unsent()
                if live.idle:
                    self._resting = True
                    await self._work.wait()
                    self._resting = False
                    continue
                if live.only_media and not self._room_for_media():
                    # What comes meanwhile for the client goes first, and does not wait for it.
                    with trio.move_on_after(MEDIA_WAIT):
                        await self._work.wait()
                    continue
                await self._fetch_if_behind()
                await self._flush()
            await self._say_farewell(live.farewell)
        finally:
            end()

    async def _fetch_if_behind(self) -> None:
        live = self._live
        if not (live.behind and live.drained):
            return
        try:
            page = await self._context.storage.read_after(
                live.device_id,
                live.cursor,
                limit_rows=PAGE_ROWS,
                limit_bytes=live.reception.page_bytes,
                now=int(self._context.clock()),
            )
        except StorageError as exc:
            log.error("inbox cannot be read", device=live.device_id, reason=str(exc))
            live.end({"error": "storage", "title": "Storage failure", "retry": True})
            return
        live.take_page(page)

    def _flush_now(self) -> None:
        """Send what is queued without a turn of the scheduler, or leave it to the writer."""
        live = self._live
        quick = self._resting and self._unsent is None and self._framed is None and not self._clear
        if not quick or live.behind or live.farewell is not None:
            self._work.set()
            return
        frames = self._take()
        if live.has_media:
            self._work.set()
        if not frames:
            return
        data = b""
        try:
            data = self._session.seal(frames)
            sent = self._stream.send_now(data)
        except StreamLostError:
            sent = False  # The writer meets it too, and ends the session.
        except Exception as exc:
            log.error("session cannot be written", device=live.device_id, exc_info=exc)
            self._stream.reset()  # Nothing may follow what was taken and not sent: it comes again.
            live.end({})  # The reader may wait for this session's writes, where no reset is heard.
            return
        if sent:
            self._note_written()
        else:
            self._unsent = data
            self._work.set()

    async def _send_unsent(self) -> None:
        """What is sealed goes out first: without it the client could decrypt nothing after it."""
        if self._unsent is not None:
            data, self._unsent = self._unsent, None
            await self.send(data)
            self._note_written()

    def _take(self) -> list[bytes]:
        frames = self._live.take()
        if self._live.has_media and self._room_for_media():
            frames.extend(self._live.take_media())
        self._context.counters.frames_egress += len(frames)
        return frames

    def _room_for_media(self) -> bool:
        """Whether media may follow what is on its way: a message that comes next waits behind it."""
        return self._stream.outbox_bytes <= TURN_BYTES

    def _note_written(self) -> None:
        if self._confirmation is not None:
            self._confirmation.sent()
        self._progress.made()

    async def _flush(self) -> None:
        """Send what is queued."""
        frames = self._take()
        if not frames:
            return
        if self._framed is None:
            await self.send(self._session.seal(frames))
        else:
            for frame in frames:
                await self.send(self._session.seal((frame,)), frame)
        self._note_written()
        if self._clear:
            await self._stream.flushed()

    @property
    def _has_said_all(self) -> bool:
        """Nothing is left that would have to wait: the stream has passed on all that it was given, and waits
        for its end by itself."""
        return (
            self._dispatcher.has_answered
            and self._live.idle
            and self._unsent is None
            and not self._stream.outbox_bytes
            and self._framed is None
            and not self._clear
        )

    async def _say_farewell(self, error: Mapping[str, Any]) -> None:
        """Answer what is in the journal already, tell the reason, end the stream properly."""
        if self._has_said_all and not error:
            await self._stream.end()
            return
        with trio.fail_after(self._context.settings.drain_timeout):
            await self._dispatcher.answered()
            await self._send_unsent()
            await self._flush()
            if error:
                self._live.answer_last(FrameType.ERROR, error)
                await self._flush()
            await self._stream.end()
            await self._stream.flushed()
