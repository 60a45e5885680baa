"""What a connection sends: one task, and the shortcuts past it.

Everything the handlers queue collects in the streams' outboxes while the writer sends; then it frames all of
it, in turn and as far as the peer's windows allow, and passes it on in one piece: one TLS record and one
system call for many messages. This decides the speed of the whole server. A handler that has collected by
itself can have its bytes written at once while the task sleeps (``push``): a turn of the scheduler less.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from commucat_server.listener.errors import StreamLostError
from commucat_server.listener.h2_lazy import LazyProtocol
from commucat_server.listener.pings import Pings
from commucat_server.listener.settings import ListenerSettings
from commucat_server.listener.tcp_stream import PromptStream
from commucat_server.listener.wakeup import Wakeup

if TYPE_CHECKING:
    from commucat_server.listener.h2_stream import H2Stream


class H2Writer:
    """Sends what the protocol and the streams of one connection have queued.

    Args:
        transport: where bytes go; nobody else sends on it.
        protocol: the connection's protocol state.
        settings: sizes and deadlines.
        lose: called once with a reason when the peer takes no more bytes.
        start: begins the task; called when there is something for it, which for many connections is never.
    """

    __slots__ = (
        "_asleep",
        "_batch",
        "_ending",
        "_lose",
        "_lost",
        "_out",
        "_prompt",
        "_protocol",
        "_running",
        "_sendable",
        "_settings",
        "_start",
        "_transport",
        "_unfinished",
        "_work",
        "data_frames",
        "pings",
    )

    def __init__(
        self,
        transport: trio.abc.SendStream,
        protocol: LazyProtocol,
        settings: ListenerSettings,
        lose: Callable[[str], None],
        start: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self.pings = Pings()
        self.data_frames = 0
        """DATA frames sent so far."""
        self._transport = transport
        self._prompt = transport if isinstance(transport, PromptStream) else None
        # The task waits for work, or there is none yet.
        self._asleep = True
        self._running = False
        # A write that the kernel has not taken, or in part: bytes that the transport does not keep by
        # itself, and the streams to tell.
        self._unfinished: tuple[bytes, list[tuple[H2Stream, int, bool]]] | None = None
        self._protocol = protocol
        self._settings = settings
        self._lose = lose
        self._start = start
        self._lost: str | None = None
        self._ending = False
        self._sendable: dict[int, H2Stream] = {}
        self._batch: list[H2Stream] = []
        self._out: list[bytes] = []
        self._work = Wakeup()

    async def run(self) -> None:
        """Send until ``finish`` was called and everything is out, or the peer takes no more."""
        self._asleep = False
        while True:
            try:
                if self._unfinished is None and not self._write():
                    if self._ending:
                        return
                    self._asleep = True
                    await self._work.wait()
                    self._asleep = False
                elif not await self._finish_write():
                    # Part of a frame may be out: nothing can follow it.
                    self._lose("peer stopped reading")
                    return
            except trio.BrokenResourceError:
                self._lose("connection lost")
                return

    def offer(self, stream: "H2Stream") -> None:
        """The stream has bytes, or its end, to send."""
        if not stream.blocked and self._lost is None:
            self._sendable[stream.stream_id] = stream
            self._wake()

    def push(self, stream: "H2Stream") -> None:
        """``offer``, and write it now if nothing else is on its way."""
        if stream.blocked or self._lost is not None:
            return
        self._sendable[stream.stream_id] = stream
        if self._prompt is None or not self._asleep or self._unfinished is not None:
            self._wake()
            return
        try:
            self._write()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._lose("connection lost")
        if self._unfinished is not None or self._sendable:
            self._wake()

    def pass_on(self, stream: "H2Stream", data: bytes) -> bool:
        """Send bytes of a stream that has nothing queued, if nothing else is on its way.

        It is what ``push`` would do, without the queues. ``False``: nothing has happened.
        """
        if (
            not self._asleep
            or self._prompt is None
            or self._unfinished is not None
            or self._sendable
            or self._out
            or self._batch
            or stream.blocked
            or self._lost is not None
        ):
            return False
        frame = self._protocol.frame_data(stream.stream_id, data)
        if frame is None:
            return False
        self.data_frames += 1
        position = stream.framed + len(data)
        stream.framed_to(position, ended=False, pings=self.pings.sent)
        try:
            if self._prompt.send_now(frame):
                stream.flushed_to(position, ended=False)
                return True
            self._unfinished = b"", [(stream, position, False)]
            self._wake()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._lose("connection lost")
        return True

    def withdraw(self, stream_id: int) -> None:
        """The stream sends no more."""
        self._sendable.pop(stream_id, None)

    def watch(self, stream: "H2Stream") -> None:
        """Tell the stream when what is queued now has been passed to the kernel."""
        self._batch.append(stream)

    def pull(self, *, now: bool = True) -> None:
        """Take what the protocol has queued; wake up if there is any.

        Without ``now`` it waits for whatever is sent next, or for ``hurry``.
        """
        if self._pull() and now:
            self._wake()

    def hurry(self) -> None:
        """Let nothing wait any longer: the peer may be waiting for it."""
        if self._out:
            self._wake()

    async def wait_ping(self, number: int) -> None:
        """Return at the next answer to a PING, or when the connection is lost.

        Args:
            number: the PING somebody needs; it is sent if it is not on its way.

        Raises:
            StreamLostError: the connection is lost already.
        """
        if self._lost is not None:
            raise StreamLostError(self._lost)
        if number > self.pings.sent:
            self.pings.wanted = True
            self._wake()
        with trio.move_on_after(self._settings.ping_timeout) as waiting:
            await self.pings.wait()
        if waiting.cancelled_caught:
            self._lose("no answer to a PING")

    def stop(self, reason: str) -> None:
        """The connection is lost: only what is framed already may still go out."""
        self._lost = reason
        self._sendable.clear()
        self.pings.wake()

    def finish(self) -> None:
        """Return from ``run`` as soon as everything is out."""
        self._ending = True
        if self._running or self._out or self._sendable or self._unfinished is not None:
            self._wake()

    def close(self) -> None:
        """Let go of the connection and its streams, which in turn hold this writer; called last."""
        self._lose = _nobody
        self._start = _never
        self._unfinished = None
        self._batch = []

    def _wake(self) -> None:
        if self._running:
            self._work.set()
        else:
            self._running = True
            self._start(self.run)

    def _write(self) -> bool:
        """Frame what there is and give it to the kernel, as far as it takes it; ``False`` for nothing.

        Raises:
            trio.BrokenResourceError: the peer is gone.
        """
        data = self._next_write()
        if not data:
            return False
        batch = [(stream, stream.framed, stream.end_framed) for stream in self._batch]
        self._batch = []
        if self._prompt is None:
            self._unfinished = data, batch
        elif self._prompt.send_now(data):
            _tell_flushed(batch)
        else:
            self._unfinished = b"", batch
        return True

    async def _finish_write(self) -> bool:
        """Wait until the kernel has taken the write; ``False`` if it did not in time.

        Raises:
            trio.BrokenResourceError: the peer is gone.
        """
        if self._unfinished is None:
            return True
        data, batch = self._unfinished
        timeout = self._settings.close_timeout if self._ending else self._settings.write_timeout
        with trio.move_on_after(timeout):
            await self._transport.send_all(data)
            self._unfinished = None
            _tell_flushed(batch)
            return True
        return False

    def _next_write(self) -> bytes:
        room = self._settings.write_size
        if self._sendable:
            self._pull()
        while self._sendable and room > 0:
            room -= self._frame_from(self._sendable.pop(next(iter(self._sendable))))
        # After the streams' bytes, so that its answer speaks for them.
        if self._lost is None and (payload := self.pings.next_payload()) is not None:
            self._protocol.ping(payload)
        self._pull()
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)

    def _pull(self) -> bool:
        """Take what the protocol has queued; whether there was any."""
        if data := self._protocol.data_to_send():
            self._out.append(data)
            return True
        return False

    def _frame_from(self, stream: "H2Stream") -> int:
        """Frame one DATA frame of a stream; return its payload's size. Streams with more go to the end."""
        protocol = self._protocol
        window = protocol.local_flow_control_window(stream.stream_id)
        # The end alone fits a window of 0, but not one that the peer's settings have made negative.
        if window < 0 or (window == 0 and stream.outbox):
            stream.blocked = True
            return 0
        # A peer may accept frames of 16 MiB; one of these would be one write, and hold up everybody else.
        chunk = stream.take(min(window, protocol.max_outbound_frame_size, self._settings.write_size))
        if stream.outbox:
            self._sendable[stream.stream_id] = stream
        ends = stream.ending and not stream.outbox
        frame = None if ends else protocol.frame_data(stream.stream_id, chunk)
        if frame is None:
            protocol.send_data(stream.stream_id, chunk, end_stream=ends)
            self._pull()
        else:
            self._out.append(frame)
        self.data_frames += 1
        stream.framed_to(stream.framed + len(chunk), ended=ends, pings=self.pings.sent)
        self._batch.append(stream)
        return len(chunk)


def _nobody(reason: str) -> None:
    """Who is told that the peer is lost when the connection has ended."""


def _never(task: Callable[[], Awaitable[None]]) -> None:
    """Nothing begins on a connection that has ended."""


def _tell_flushed(batch: list[tuple["H2Stream", int, bool]]) -> None:
    for stream, position, ended in batch:
        stream.flushed_to(position, ended=ended)
