"""The established session of an admitted device, from the answer to its Hello to its end.

Two tasks: a reader (bytes -> machine -> frames -> journal) and a writer (everything queued ->
as few Noise messages as fit -> one send, or frame by frame if the mode packs each alone).
For clients that do not confirm what they receive a confirmer asks the transport, and modes
that need signs of life have a task that gives them.
"""

from collections.abc import Sequence
from functools import partial

import structlog
import trio

from commucat_proto import (
    CALL_MEDIA,
    FrameRefused,
    FramesReceived,
    PeerClosed,
    ServerEvent,
    ServerSession,
    SessionFailed,
)
from commucat_server.connect.clear import is_clear, is_client_of_2025, linger, watch_window
from commucat_server.connect.confirmation import TransportConfirmation
from commucat_server.connect.context import ConnectContext
from commucat_server.connect.dispatch import FrameDispatcher
from commucat_server.connect.handshake import Welcome, ack_json
from commucat_server.connect.modes import FramedStream
from commucat_server.connect.writer import SessionWriter
from commucat_server.identity.admissions import user_json
from commucat_server.listener import ConnectStream, Step, StreamLostError
from commucat_server.listener.wakeup import Progress
from commucat_server.routing.clear_reception import CLEAR
from commucat_server.routing.live import LiveSession
from commucat_server.routing.reception import FULL
from commucat_storage import Confirm, StorageError

log = structlog.get_logger("commucat.connect")


class EstablishedSession:
    """An admitted device's connection."""

    __slots__ = (
        "_clear",
        "_confirmation",
        "_context",
        "_dispatcher",
        "_framed",
        "_heard",
        "_live",
        "_read_all",
        "_session",
        "_stream",
        "_unread",
        "_welcome",
        "_writer",
    )

    def __init__(
        self, context: ConnectContext, stream: ConnectStream, session: ServerSession, welcome: Welcome
    ) -> None:
        self._context = context
        self._stream = stream
        self._framed = stream if isinstance(stream, FramedStream) else None
        self._session = session
        self._welcome = welcome
        hello, headers = welcome.hello, stream.headers
        self._clear = is_clear(context.settings.clear_frames, headers, hello)
        # Of a client that may not encrypt: set by the first frame that decrypts.
        doubtful = not self._clear and is_client_of_2025(headers, hello)
        self._heard = trio.Event() if doubtful else None
        # Events that ask for something that may have to wait.
        self._unread: Sequence[ServerEvent] = ()
        self._read_all = False
        inbox = welcome.entrance.admitted.inbox
        device = welcome.entrance.admitted.device
        self._live = LiveSession(
            device_id=device.device_id,
            user_id=device.user_id,
            token_hash=welcome.token_hash,
            epoch=inbox.epoch,
            confirmed=inbox.confirmed,
            receives=welcome.receives,
            delivery_ack=welcome.delivery_ack,
            wake=self._wake,
            next_sequence=session.next_sequence,
            rest=session.rest,
            reception=CLEAR if self._clear else FULL,
            claim=welcome.entrance.admitted.claim,
            call_media=CALL_MEDIA in hello.capabilities,
        )
        progress = Progress()
        self._dispatcher = FrameDispatcher(context, self._live, progress, hello.capabilities)
        self._confirmation: TransportConfirmation | None = None
        if self._live.receives and not self._live.delivery_ack:
            self._confirmation = TransportConfirmation(stream, self._live, context.inbox)
        self._writer = SessionWriter(
            context,
            stream,
            session,
            self._live,
            clear=self._clear,
            progress=progress,
            dispatcher=self._dispatcher,
            confirmation=self._confirmation,
        )

    @property
    def device_id(self) -> str:
        return self._live.device_id

    @property
    def token_hash(self) -> str:
        return self._live.token_hash

    def _wake(self) -> None:
        self._writer.wake()

    async def run(self) -> None:
        """Serve until either side ends it; whatever happens, the registry forgets the session."""
        await self._enter()
        try:
            await self._greet()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._writer.run, partial(self._end_tasks, nursery))
                if self._confirmation is not None:
                    nursery.start_soon(self._confirm_by_transport, self._confirmation)
                if self._clear:
                    nursery.start_soon(watch_window, self._stream, self._context.settings.write_stall)
                if self._framed is not None:
                    nursery.start_soon(self._framed.keep_alive)
                try:
                    await self._read_until_end()
                    self._read_all = True
                except StreamLostError:
                    # Ended here and not beyond the nursery: its group and the frames that it passes refer to
                    # each other, and would keep the whole connection until the collector comes.
                    nursery.cancel_scope.cancel()
        except* StreamLostError:
            pass  # the peer went away first: what it missed waits in its inbox
        except* trio.TooSlowError:
            log.info("client takes no data", device=self._live.device_id)
            if self._clear:
                self._stream.cut_off()
            else:
                self._stream.reset()
        finally:
            gone = self._context.registry.detach(self._live)
            self._context.bus.forget_session(self._live.device_id, self._live.token_hash)
            if gone and self._live.displaced:
                self._context.presence.move(self._live.device_id)
            elif gone and self._live.receives:
                self._context.cluster.ended(self._live)
                with trio.move_on_after(self._context.settings.drain_timeout, shield=True):
                    await self._context.presence.leave(self._live.device_id)
                    # Meanwhile the device may have come back.
                    if self._context.registry.receiver(self._live.device_id) is None:
                        await self._context.calls.disconnected(self._live.device_id)
        if self._clear:
            await linger(self._stream)

    def _end_tasks(self, nursery: trio.Nursery) -> None:
        """The writer ends: so does everybody else. Mostly nobody is left, and to cancel a scope with nobody
        in it would cost as much as ever."""
        if not self._read_all or len(nursery.child_tasks) > 1:
            nursery.cancel_scope.cancel()

    async def _enter(self) -> None:
        """From here on the registry knows the session."""
        arrival = self._welcome.arrival
        try:
            await self._resume()
            self._live.know_head(max(arrival.head, self._welcome.entrance.admitted.inbox.next_number - 1))
            self._context.registry.attach(self._live, arrival)
            self._context.cluster.claimed(self._live, self._welcome.entrance.admitted.displaced)
        finally:
            arrival.end()
        if self._live.receives:
            self._context.bus.note_session(self._live.device_id, self._live.token_hash)
            self._context.calls.connected(self._live.device_id)

    async def _greet(self) -> None:
        """Tell the client what it needs to begin, and the others that it is here."""
        if self._context.ledger.head is None:
            # It would warn its user: a worker's ledger is empty until somebody has come to this worker.
            await self._context.ledger.spoken()
        ack = ack_json(self._context, self._session, self._welcome, self._live.cursor, brief=self._clear)
        user = user_json(self._welcome.entrance.admitted.user)
        del self._welcome
        await self._writer.send(self._session.establish(ack, clear=self._clear))
        if self._clear:
            self._context.counters.clear_sessions += 1
            log.info("session without encryption", device=self._live.device_id)
        if self._context.registry.receiver(self._live.device_id) is self._live:
            await self._context.presence.arrive(self._live.device_id, user)

    async def _resume(self) -> None:
        """Apply the cursor that the Hello brought; only now is it known whose it is."""
        resume = self._welcome.resume
        if resume is None or not self._live.receives or resume.epoch != self._live.epoch:
            return
        confirm = Confirm(self._live.device_id, resume.epoch, resume.ack)
        try:
            outcome = await self._context.inbox.confirm(confirm)
        except StorageError as exc:
            log.warning("resume not stored", device=self._live.device_id, reason=str(exc))
            return  # costs a redelivery, nothing else
        if outcome.applied:
            self._live.start_at(outcome.watermark)

    async def _confirm_by_transport(self, confirmation: TransportConfirmation) -> None:
        if self._heard is not None:
            # Its transport answers for frames that such a client cannot decrypt: first it has to encrypt.
            await self._heard.wait()
        await confirmation.run()

    # -- reader ---------------------------------------------------------------------------------------

    async def _read_until_end(self) -> None:
        """Returns when the client ended its side and everything it sent is answered."""
        self._unread = self._session.pending_events()
        while True:
            await self._dispatcher.submit()
            events, self._unread = list(reversed(self._unread)), ()
            # Nothing of what was read stays here while the client is silent.
            while events:
                if not await self._receive(events.pop()):
                    return
            # A client that sends without reading what it is answered waits for itself.
            await self._dispatcher.heard()
            goes_on = await self._stream.receive_by(self._take)
            if not goes_on:
                await self._context.turnstile.turn(Step.END)
            if self._live.farewell is not None:
                return  # no longer taken: the client sends it again elsewhere
            if not goes_on:
                self._unread = self._session.receive_data(b"")

    def _take(self, data: bytes) -> bool:
        """Take what arrived as far as nothing has to wait; the rest is ``_unread``, and ``False``."""
        if self._live.farewell is not None:
            return False
        events = self._session.receive_data(data)
        for index, event in enumerate(events):
            if not (isinstance(event, FramesReceived) and self._dispatcher.handle_now(event.frames)):
                self._unread = events[index:]
                return False
            if self._heard is not None:
                self._heard.set()
        return not (self._dispatcher.unsubmitted or self._live.answers_full)

    async def _receive(self, event: ServerEvent) -> bool:
        """False when this was the last event."""
        match event:
            case FramesReceived(frames):
                if self._heard is not None:
                    self._heard.set()
                await self._dispatcher.handle(frames)
                return True
            case FrameRefused(frame):
                await self._dispatcher.refuse(frame)
                return True
            case SessionFailed(code, reason):
                self._log_broken(code, reason)
                # A stream that cannot be decrypted cannot be answered sensibly either.
                self._live.end({"error": "decode", "detail": reason} if code == "decode" else {})
                return False
            case PeerClosed():
                self._live.end({})
                return False
        raise AssertionError(f"{type(event).__name__} after the handshake")

    def _log_broken(self, code: str, reason: str) -> None:
        if self._heard is not None and code == "decrypt" and not self._heard.is_set():
            log.warning(
                "a client of 2025 speaks in clear, which transport.clear_frames forbids",
                device=self._live.device_id,
            )
        else:
            log.info("session broken", device=self._live.device_id, code=code, reason=reason)
