"""One `/connect` stream from its request to its end.

Two tasks: a reader (bytes -> machine -> frames -> journal) and a writer (everything queued ->
as few Noise messages as fit -> one send, or frame by frame if the mode packs each alone).
For clients that do not confirm what they receive a confirmer asks the transport, and modes
that need signs of life have a task that gives them.
"""

import math
from collections.abc import Mapping
from typing import Any

import structlog
import trio

from commucat_crypto import StaticKeyPair
from commucat_proto import (
    FramesReceived,
    FrameType,
    PeerClosed,
    ServerEvent,
    ServerSession,
    SessionFailed,
    json_text,
)
from commucat_server.connect.context import ConnectContext
from commucat_server.connect.dispatch import FrameDispatcher
from commucat_server.connect.handshake import Handshake, Welcome, ack_json, keepalive_interval
from commucat_server.connect.modes import (
    GONE,
    NEW,
    FramedStream,
    Refusal,
    Upstream,
    Upstreams,
    feed_upstream,
    open_mode,
    upstream_of,
)
from commucat_server.identity.admissions import user_json
from commucat_server.identity.tokens import token_hash
from commucat_server.listener import ConnectStream, StreamLostError
from commucat_server.routing.live import LiveSession
from commucat_server.security.rate import identity_of
from commucat_storage import CommitFailedError, Confirm, ConfirmOutcome, Outcome, StorageError

log = structlog.get_logger("commucat.connect")

PAGE_ROWS = 512
PAGE_BYTES = 512 * 1024
"""One read of the store while a session catches up; several fit in a connection's outbox."""


class ConnectHandler:
    """Serves `/connect` streams; the listener calls it once for each."""

    def __init__(self, context: ConnectContext) -> None:
        self._context = context
        self._handshakes = 0
        self._upstreams = Upstreams()

    async def __call__(self, stream: ConnectStream) -> None:
        asked = upstream_of(stream.query)
        name = asked.get("upstream")
        if name is not None and (known := self._upstreams.find(name)) is not None:
            patience = self._context.settings.write_stall
            refusal = await feed_upstream(known, asked.get("offset", ""), stream, patience)
            await _answer(stream, refusal)
            return
        identity = identity_of(stream.remote_host)
        wait = self._context.connect_limit.take(identity)
        if wait > 0.0 or self._handshakes >= self._context.settings.max_handshakes:
            self._context.counters.rate_limited += 1
            await _problem(stream, 429, "Too Many Requests", retry_after=max(1, math.ceil(wait)))
            return
        if name not in (None, NEW):
            await _answer(stream, GONE)
            return
        upstream = self._upstreams.open() if name == NEW else None
        try:
            await self._serve(stream, upstream, identity)
        except StreamLostError:
            pass  # the peer went away first: an ordinary end
        finally:
            if upstream is not None:
                self._upstreams.close(upstream)

    async def _serve(self, stream: ConnectStream, upstream: Upstream | None, identity: str) -> None:
        self._handshakes += 1
        try:
            opened = await open_mode(stream, keepalive_interval(self._context.settings.keepalive), upstream)
            if isinstance(opened, Refusal):
                await _answer(stream, opened)
                return
            session = ServerSession(self._context.parameters, ephemeral=StaticKeyPair.generate())
            welcome = await Handshake(self._context, opened, session).run()
        finally:
            self._handshakes -= 1
        if welcome is not None:
            self._context.connect_limit.give_back(identity)
            self._context.counters.handshakes += 1
            await EstablishedSession(self._context, opened, session, welcome).run()


class EstablishedSession:
    """An admitted device's connection."""

    def __init__(
        self, context: ConnectContext, stream: ConnectStream, session: ServerSession, welcome: Welcome
    ) -> None:
        self._context = context
        self._stream = stream
        self._framed = stream if isinstance(stream, FramedStream) else None
        self._session = session
        self._welcome = welcome
        self._work = trio.lowlevel.ParkingLot()
        self._writes = trio.lowlevel.ParkingLot()
        inbox = welcome.entrance.admitted.inbox
        device = welcome.entrance.admitted.device
        self._user = user_json(welcome.entrance.admitted.user)
        self._live = LiveSession(
            device_id=device.device_id,
            user_id=device.user_id,
            token_hash=token_hash(welcome.token),
            epoch=inbox.epoch,
            confirmed=inbox.confirmed,
            receives=welcome.receives,
            delivery_ack=welcome.delivery_ack,
            wake=self._wake,
            next_sequence=session.next_sequence,
        )
        self._dispatcher = FrameDispatcher(context, self._live)

    def _wake(self) -> None:
        self._work.unpark_all()

    async def run(self) -> None:
        """Serve until either side ends it; whatever happens, the registry forgets the session."""
        await self._resume()
        self._context.registry.attach(self._live)
        try:
            ack = ack_json(self._context, self._session, self._welcome, self._live.cursor)
            await self._send(self._session.establish(ack))
            if self._live.receives:
                await self._context.presence.arrive(self._live.device_id, self._user)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_until_end, nursery.cancel_scope)
                if self._live.receives and not self._live.delivery_ack:
                    nursery.start_soon(self._confirm_by_transport)
                if self._framed is not None:
                    nursery.start_soon(self._framed.keep_alive)
                await self._read_until_end()
        except* StreamLostError:
            pass  # the peer went away first: what it missed waits in its inbox
        except* trio.TooSlowError:
            log.info("client takes no data", device=self._live.device_id)
            self._stream.reset()
        finally:
            gone = self._context.registry.detach(self._live)
            if gone and self._live.receives:
                with trio.move_on_after(self._context.settings.drain_timeout, shield=True):
                    await self._context.presence.leave(self._live.device_id)
                    await self._context.calls.disconnected(self._live.device_id)

    async def _resume(self) -> None:
        """Apply the cursor that the Hello brought; only now is it known whose it is."""
        resume = self._welcome.resume
        if resume is None or not self._live.receives or resume.epoch != self._live.epoch:
            return
        confirm = Confirm(self._live.device_id, resume.epoch, resume.ack)
        try:
            [outcome] = await self._context.storage.commit([confirm])
        except StorageError as exc:
            log.warning("resume not stored", device=self._live.device_id, reason=str(exc))
            return  # costs a redelivery, nothing else
        if isinstance(outcome, ConfirmOutcome) and outcome.applied:
            self._live.start_at(outcome.watermark)

    # -- reader ---------------------------------------------------------------------------------------

    async def _read_until_end(self) -> None:
        """Returns when the client ended its side and everything it sent is answered."""
        events = self._session.pending_events()
        while True:
            for event in events:
                if not await self._receive(event):
                    return
            while self._live.answers_full:
                # The client sends without reading what it is answered: it waits for itself.
                await self._writes.park()
            data = await self._stream.receive()
            if self._live.farewell is not None:
                return  # no longer taken: the client sends it again elsewhere
            events = self._session.receive_data(data)

    async def _receive(self, event: ServerEvent) -> bool:
        """False when this was the last event."""
        match event:
            case FramesReceived(frames):
                await self._dispatcher.handle(frames)
                return True
            case SessionFailed(code, reason):
                log.info("session broken", device=self._live.device_id, code=code, reason=reason)
                # A stream that cannot be decrypted cannot be answered sensibly either.
                self._live.end({"error": "decode", "detail": reason} if code == "decode" else {})
                return False
            case PeerClosed():
                self._live.end({})
                return False
        raise AssertionError(f"{type(event).__name__} after the handshake")

    # -- writer ---------------------------------------------------------------------------------------

    async def _write_until_end(self, scope: trio.CancelScope) -> None:
        """The only task that sends. Ends the whole session when there is a farewell."""
        live = self._live
        try:
            while live.farewell is None:
                if live.idle:
                    await self._work.park()
                    continue
                await self._fetch_if_behind()
                await self._flush()
            await self._say_farewell(live.farewell)
        finally:
            scope.cancel()

    async def _fetch_if_behind(self) -> None:
        live = self._live
        if not (live.behind and live.drained):
            return
        try:
            page = await self._context.storage.read_after(
                live.device_id,
                live.cursor,
                limit_rows=PAGE_ROWS,
                limit_bytes=PAGE_BYTES,
                now=int(self._context.clock()),
            )
        except StorageError as exc:
            log.error("inbox cannot be read", device=live.device_id, reason=str(exc))
            live.end({"error": "storage", "title": "Storage failure", "retry": True})
            return
        live.take_page(page)

    async def _flush(self) -> None:
        """Send what is queued."""
        frames = self._live.take()
        if not frames:
            return
        self._context.counters.frames_egress += len(frames)
        taken = self._live.taken
        if self._framed is None:
            await self._send(self._session.seal(frames))
        else:
            for frame in frames:
                await self._send(self._session.seal((frame,)), frame)
        self._live.written = taken
        self._writes.unpark_all()

    async def _send(self, data: bytes, frame: bytes = b"") -> None:
        """Send, waiting for as long as the client takes something of what was sent before.

        ``frame`` is what ``data`` is in clear, for a mode that packs frames.

        Raises:
            TooSlowError: it took no byte for ``write_stall`` seconds.
        """
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

    async def _say_farewell(self, error: Mapping[str, Any]) -> None:
        """Answer what is in the journal already, tell the reason, end the stream properly."""
        with trio.fail_after(self._context.settings.drain_timeout):
            await self._dispatcher.answered()
            await self._flush()
            if error:
                self._live.answer_last(FrameType.ERROR, error)
                await self._flush()
            await self._stream.end()
            await self._stream.flushed()

    # -- confirmation by the transport ------------------------------------------------------------

    async def _confirm_by_transport(self) -> None:
        """For clients that send no Acks: what the peer's transport has answered for is delivered."""
        live = self._live
        confirmed = live.written
        while True:
            while live.written == confirmed:
                await self._writes.park()
            upto = live.written
            await self._stream.confirm()
            await self._context.inbox.submit(
                [Confirm(live.device_id, live.epoch, upto)], self._confirmation_done
            )
            confirmed = upto

    def _confirmation_done(self, result: tuple[Outcome, ...] | CommitFailedError) -> None:
        match result:
            case (ConfirmOutcome(applied, _),):
                self._context.counters.relay_confirmed += applied
            case _:
                pass  # A failed commit: the rows stay and are delivered again.


async def _answer(stream: ConnectStream, refusal: Refusal | None) -> None:
    """Answer a request that begins no stream: 204 if nothing is wrong with it."""
    if refusal is None:
        await stream.start(204, [("cache-control", "no-store")])
        await stream.end()
        return
    await _problem(
        stream,
        refusal.status,
        refusal.title,
        detail=refusal.detail,
        expected=refusal.expected,
        allow=refusal.allow,
    )


async def _problem(
    stream: ConnectStream,
    status: int,
    title: str,
    *,
    detail: str | None = None,
    retry_after: int | None = None,
    expected: int | None = None,
    allow: str = "",
) -> None:
    document: dict[str, Any] = {"type": "about:blank", "title": title, "status": status}
    if detail is not None:
        document["detail"] = detail
    if expected is not None:
        document["expected"] = expected
    headers = [("content-type", "application/problem+json"), ("cache-control", "no-store")]
    if retry_after is not None:
        headers.append(("retry-after", str(retry_after)))
    if allow:
        headers.append(("allow", allow))
    await stream.start(status, headers)
    if stream.method != "HEAD":
        await stream.send(json_text.dumps(document))
    await stream.end()
