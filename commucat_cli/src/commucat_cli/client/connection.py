"""One established session with a server: frames out, answers and deliveries in.

Lean on purpose, so that load tests can use it: frames are encoded when they are queued, and
everything queued is encrypted into as few Noise messages as it fits when the writer wakes.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import attrs
import trio

from commucat_cli.client.answers import (
    Answer,
    handshake_refusal,
    read_acknowledgement,
    read_refusal,
    session_end,
)
from commucat_cli.client.rest import answer_within, read_json, read_problem
from commucat_cli.errors import CliError, ConnectionLostError, NotCommuCatError
from commucat_cli.transport import Headers, HttpClient, Response, SessionStream, Timeouts
from commucat_proto import (
    AuthReceived,
    ClientEvent,
    ClientSession,
    ClientState,
    Established,
    Frame,
    FramesReceived,
    FrameType,
    HandshakeFailed,
    PeerClosed,
    Refused,
    SessionFailed,
    json_text,
)

MAX_QUEUED = 256 * 1024
"""Bytes of frames that may wait for the network before :meth:`Connection.room` waits."""
CONFIRM_INTERVAL = 0.01
"""Seconds between two confirmations that are sent alone. Each costs a radio and the server as much as a
message does, and the next one says what it says."""
MAX_DELIVERED = 1024
"""Frames that may wait for their reader; beyond, the server is left to wait."""
MAX_DELIVERED_BYTES = 4 * 1024 * 1024
"""The same for the bytes of their payloads."""

OnAnswer = Callable[[Answer], None]


@attrs.frozen(kw_only=True)
class SessionInfo:
    """What the server said when it admitted the device."""

    token: str = attrs.field(repr=False)
    """Bearer token for REST requests."""
    user_id: str
    ack: Mapping[str, Any] = attrs.field(repr=False)
    """The final Ack, as it came."""
    epoch: str
    """Inbox epoch; numbers of another epoch mean nothing here."""


class Connection:
    """A session. Made by ``connect`` or ``attach``; use it within that block only."""

    def __init__(
        self, client: HttpClient, stream: SessionStream, session: ClientSession, timeouts: Timeouts
    ) -> None:
        self._client = client
        self._stream = stream
        self._session = session
        self._timeouts = timeouts
        self._info: SessionInfo | None = None
        self._queued: list[bytes] = []
        self._queued_bytes = 0
        self._confirm_to = 0
        self._confirmed = 0
        self._confirming = trio.Event()
        self._confirmation_due = False
        self._answers: dict[int, OnAnswer] = {}
        self._delivered: list[Frame] = []
        self._delivered_bytes = 0
        self._farewell: Mapping[str, Any] | None = None
        self._failure: CliError | None = None
        self._lot = trio.lowlevel.ParkingLot()
        self._ended = trio.Event()
        self._closing = False
        self.on_complaint: OnAnswer | None = None
        """Called with refusals of frames that were sent without a callback."""

    @property
    def info(self) -> SessionInfo:
        assert self._info is not None, "only connections with a finished handshake leave this module"
        return self._info

    # -- sending ----------------------------------------------------------------------------------

    def send_frame(
        self, frame_type: FrameType, channel: int, payload: bytes, on_answer: OnAnswer | None = None
    ) -> int:
        """Queue a frame; returns its sequence. ``on_answer`` is called in the reading task.

        Never waits: a caller that sends much awaits :meth:`room` between frames. After the end
        of the session frames are dropped, and their callbacks are never called.
        """
        sequence, encoded = self._session.frame(frame_type, channel, payload)
        if on_answer is not None:
            self._answers[sequence] = on_answer
        self._queued.append(encoded)
        self._queued_bytes += len(encoded)
        self._stream.wake()
        return sequence

    @property
    def queued(self) -> int:
        """Bytes of frames that wait for the network: what is only good at once is better not added to
        many."""
        return self._queued_bytes

    async def room(self) -> None:
        """Wait until the network has taken enough of what is queued.

        Raises:
            CliError: the session has ended.
        """
        while self._queued_bytes >= MAX_QUEUED and self._failure is None:
            await self._lot.park()
        self._raise_failure()

    async def request(self, frame_type: FrameType, channel: int, payload: bytes) -> Answer:
        """Send a frame and wait for its answer.

        Raises:
            CliError: the session ended before.
        """
        answers: list[Answer] = []

        def take(answer: Answer) -> None:
            answers.append(answer)
            self._lot.unpark_all()

        self.send_frame(frame_type, channel, payload, take)
        while not answers:
            self._raise_failure()
            await self._lot.park()
        return answers[0]

    async def join(self, channel: int, members: Sequence[str]) -> Answer:
        """Say where this device's frames on ``channel`` go."""
        return await self.request(FrameType.JOIN, channel, json_text.dumps({"members": list(members)}))

    def confirm(self, number: int) -> None:
        """Tell the server that everything up to inbox number ``number`` is safe here.

        Cumulative; it goes out with whatever is sent next, or alone if none did within ``CONFIRM_INTERVAL``.
        """
        if number > self._confirm_to:
            self._confirm_to = number
            self._confirming.set()

    # -- receiving --------------------------------------------------------------------------------

    async def deliveries(self) -> list[Frame]:
        """All frames that have come since, at least one; neither answers nor session errors.

        Raises:
            CliError: the session ended, and everything that came before was handed out.
        """
        while not self._delivered:
            self._raise_failure()
            await self._lot.park()
        frames, self._delivered = self._delivered, []
        self._delivered_bytes = 0
        self._lot.unpark_all()
        return frames

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while True:
            for frame in await self.deliveries():
                yield frame

    async def wait_ended(self) -> None:
        """Wait for the end of the session and raise its reason (a :class:`CliError`)."""
        await self._ended.wait()
        self._raise_failure()

    async def get(self, path: str) -> dict[str, Any]:
        """A REST GET of this device, over the same connection; ``path`` is percent-encoded already.

        Raises:
            RestError: a problem document.
            CliError: the connection was lost, or the answer is no JSON object.
        """
        headers = [("authorization", f"Bearer {self.info.token}"), ("accept", "application/json")]
        with answer_within(self._timeouts.request, f"the server does not answer {path}"):
            response = await self._client.get(path, headers)
        return read_json(response, path)

    async def exchange(
        self,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes = b"",
        *,
        patience: float | None = None,
    ) -> Response:
        """A REST request of this device, whatever its answer; ``patience`` in seconds.

        Raises:
            CliError: the connection was lost, or there is no answer in time.
        """
        fields = [("authorization", f"Bearer {self.info.token}"), *headers]
        with answer_within(patience or self._timeouts.request, f"the server does not answer {method}"):
            return await self._client.request(method, path, fields, body)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A REST POST of a JSON object, as :meth:`get`."""
        headers = [("content-type", "application/json"), ("accept", "application/json")]
        response = await self.exchange("POST", path, headers, json_text.dumps(body))
        return read_json(response, path)

    # -- inside -----------------------------------------------------------------------------------

    async def establish(self, *, with_code: bool) -> None:
        """Lead the handshake to its end; then the session's reader can :meth:`run`."""
        self._stream.send(self._session.start())
        status, headers = await self._stream.response()
        if status != 200:
            raise read_problem(status, headers, await self._stream.whole_body(), "/connect")
        while self._info is None:
            data = await self._stream.receive()
            events = self._session.receive_data(data)
            for index, event in enumerate(events):
                match event:
                    case AuthReceived(reply):
                        self._stream.send(reply)
                    case Established(ack):
                        self._info = self._read_ack(ack)
                        self._stream.fill = self._fill
                        self._take(events[index + 1 :])
                        break
                    case Refused(error):
                        raise handshake_refusal(error, with_code=with_code)
                    case HandshakeFailed(_, reason):
                        raise NotCommuCatError(f"the handshake with the server failed: {reason}")
                    case PeerClosed():
                        raise ConnectionLostError("the server closed the connection during the handshake")

    def _read_ack(self, ack: Mapping[str, Any]) -> SessionInfo:
        # Both name the session; message 2 is under Noise encryption and the Ack is not.
        welcome = self._session.welcome
        token = welcome.get("session") or ack.get("session")
        user_id = ack.get("user_id")
        inbox = ack.get("inbox")
        epoch = inbox.get("epoch") if isinstance(inbox, dict) else None
        if ack.get("handshake") != "ok" or not isinstance(token, str) or not isinstance(user_id, str):
            raise NotCommuCatError("the server's final answer names neither session nor user")
        if not isinstance(epoch, str):
            raise NotCommuCatError("the server keeps no numbered inbox; this client needs one")
        return SessionInfo(token=token, user_id=user_id, ack=ack, epoch=epoch)

    async def run(self) -> None:
        """Read until the end of the session."""
        try:
            while self._failure is None:
                while self._reader_is_behind and not self._closing:
                    # Not reading keeps the stream's window shut: the server waits, not our memory.
                    await self._lot.park()
                self._take(self._session.receive_data(await self._stream.receive()))
        except CliError as exc:
            self._end(session_end(self._farewell) if self._farewell is not None else exc)

    async def send_confirmations(self) -> None:
        """Send those with which nothing else goes out; never returns."""
        while True:
            await self._confirming.wait()
            self._confirming = trio.Event()
            if self._confirm_to > self._confirmed:
                self._confirmation_due = True
                self._stream.wake()
                await trio.sleep(CONFIRM_INTERVAL)

    @property
    def _reader_is_behind(self) -> bool:
        return len(self._delivered) >= MAX_DELIVERED or self._delivered_bytes >= MAX_DELIVERED_BYTES

    def _take(self, events: Sequence[ClientEvent]) -> None:
        for event in events:
            match event:
                case FramesReceived(frames):
                    for frame in frames:
                        self._receive(frame)
                case PeerClosed():
                    self._end(session_end(self._farewell))
                case SessionFailed(_, reason):
                    self._end(ConnectionLostError(f"the server's data cannot be read: {reason}"))
        self._lot.unpark_all()

    def _receive(self, frame: Frame) -> None:
        if frame.type is not FrameType.ACK and frame.type is not FrameType.ERROR:
            if not self._closing:  # nobody will take it; the server keeps what is not confirmed
                self._delivered.append(frame)
                self._delivered_bytes += len(frame.payload)
            return
        value = frame.control
        if not isinstance(value, Mapping):
            return
        if frame.type is FrameType.ACK:
            answer = read_acknowledgement(value)
        else:
            answer = read_refusal(value)
            if answer is None:
                # About the session itself: its end follows.
                self._farewell = value
        if answer is None:
            return
        call = self._answers.pop(answer.sequence, None)
        if call is not None:
            call(answer)
        elif answer.error is not None and self.on_complaint is not None:
            self.on_complaint(answer)

    def _fill(self) -> bytes:
        """Asked by the writer: everything queued, encrypted."""
        if self._session.state is not ClientState.ESTABLISHED:
            return b""
        frames = self._queued
        # Also asked after each read, when nothing is to be sent.
        if self._confirm_to > self._confirmed and (frames or self._confirmation_due):
            self._confirmed = self._confirm_to
            frames.append(self._session.control_frame(FrameType.ACK, 0, {"ack": self._confirmed})[1])
        if not frames:
            return b""
        self._queued = []
        self._queued_bytes = 0
        self._confirmation_due = False
        self._lot.unpark_all()
        return self._session.seal(frames)

    def _end(self, failure: CliError) -> None:
        if self._failure is None:
            self._failure = failure
            self._ended.set()
            self._lot.unpark_all()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """End our side of the session after everything queued, and wait for nothing."""
        self._confirmation_due = True
        self._stream.end()

    async def close(self) -> None:
        """End our side after everything queued; wait, not for long, until the server has ended its own.

        The server answers everything before it ends, so what was sent has been dealt with then.
        """
        if self._failure is None:
            self._closing = True
            self._lot.unpark_all()
            with trio.move_on_after(self._timeouts.close, shield=True):
                while self._answers and not (self._stream.answers_after_end or self._failure):
                    await self._lot.park()
                self.end()
                await self._ended.wait()
