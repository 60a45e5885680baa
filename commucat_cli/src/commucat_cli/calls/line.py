"""Leads one call over one connection after another: frames between a session and a
:class:`~commucat_cli.calls.talk.Talk`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from commucat_cli.calls.answering import refuse, take_offer
from commucat_cli.calls.call_inbox import CallInbox
from commucat_cli.calls.dialing import Dialer
from commucat_cli.calls.exchange import GONE, ask, knows_call_media, message_call_id, named_device
from commucat_cli.calls.party_keys import PartyKeys, UnprovedError
from commucat_cli.calls.signalling import Call, CallEvent, CallState, Cause, Joined, Out, Over
from commucat_cli.calls.talk import LinePlan, Talk
from commucat_cli.client.answers import Answer
from commucat_cli.client.connection import Connection
from commucat_cli.client.peers import PeerDirectory
from commucat_cli.client.session import Notice
from commucat_cli.client.tasks import race
from commucat_cli.errors import CliError, PeerKeyError
from commucat_cli.profile import Profile
from commucat_proto import CodecError, Frame, FrameType, json_text
from commucat_proto.calls import (
    CallAnswer,
    CallEnd,
    CallMessage,
    CallOffer,
    CallStats,
    CallTransportUpdate,
    RejectReason,
    decode_call_message,
)

FAREWELL: Final = 2.0
"""Seconds for the server to take the word that this device leaves."""
STATS_INTERVAL: Final = 1.0
SILENCE: Final = 45.0
"""Seconds without a word of the others, who report once a second, after which they are gone: longer than they
would try to come back."""
MAX_BACKLOG: Final = 16_384
"""Bytes that wait for the network above which media is dropped: seconds of voice that would only come
late."""

TEXTS: Final = {
    Cause.HUNG_UP: "hung up",
    Cause.ENDED: "the other side hung up",
    Cause.LEFT: "left the call",
    Cause.CANCELLED: "the call was cancelled",
    Cause.BUSY: "busy",
    Cause.DECLINED: "declined",
    Cause.UNSUPPORTED: "cannot take part in a call like this",
    Cause.NO_ANSWER: "no answer",
    Cause.ANSWERED_ELSEWHERE: "answered on another device",
    Cause.REFUSED: "the server did not pass the call on",
    Cause.LOST: "the connection was away for too long",
    Cause.IDLE: "nothing was heard for too long",
    Cause.FAILED: "failed",
}
"""What is told to a person."""


class Line:
    """One call of one profile. :meth:`work` is for :func:`~commucat_cli.client.keep_connected`."""

    def __init__(self, profile: Profile, plan: LinePlan, talk: Talk, *, tell: Notice, warn: Notice) -> None:
        """``tell`` takes what happens in the order of things, ``warn`` what a person should look into."""
        self._profile = profile
        self._own = profile.keys.device_id
        self._plan = plan
        self._dialer = Dialer(profile, plan)
        self._talk = talk
        self._tell = tell
        self._warn = warn
        self._connection: Connection | None = None
        self._channel = 0
        self._keys: PartyKeys | None = None
        self._ending = trio.Event()
        self._cause = Cause.HUNG_UP
        self._over = trio.Event()
        self._changed = trio.lowlevel.ParkingLot()
        self._complaints: set[str] = set()
        self._began: float | None = None
        self._ended: float | None = None
        self._heard = trio.current_time()
        self.call: Call | None = None
        self.encrypted = True
        """Until a device is let in that does not encrypt."""
        self.away_since: float | None = trio.current_time()
        """Since when there is no connection (Trio's clock); None when there is one."""
        self.dropped = 0
        """Packets that did not even leave: there was no connection, or too much waited for it."""
        self.waiting = 0
        """Messages in the inbox that were left there."""

    @property
    def running(self) -> bool:
        """Somebody else is there, too."""
        return self.call is not None and self.call.state is CallState.RUNNING

    @property
    def seconds(self) -> float | None:
        """How long media could flow; None when it never could."""
        if self._began is None:
            return None
        return (trio.current_time() if self._ended is None else self._ended) - self._began

    def hang_up(self, cause: Cause = Cause.HUNG_UP) -> None:
        """Leave as soon as the server can be told."""
        self._cause = cause
        self._ending.set()

    async def wait_over(self) -> None:
        """Wait for the end of the call."""
        await self._over.wait()

    async def wait_away(self, seconds: float) -> None:
        """Wait until there has been no connection for so long; who waits to be called has time."""
        while True:
            away = self.away_since
            if away is None or (self.call is None and not self._plan.to):
                # Who is away from now on has not been for so long any sooner.
                await trio.sleep(seconds)
                continue
            await trio.sleep_until(away + seconds)
            if self.away_since == away:
                return

    def send_media(self, frame_type: FrameType, payload: bytes) -> bool:
        """Send a packet now or never; False when it was dropped."""
        connection = self._connection
        if connection is None or not self.running or connection.queued > MAX_BACKLOG:
            self.dropped += 1
            return False
        connection.send_frame(frame_type, self._channel, payload)
        return True

    # -- one connection --------------------------------------------------------------------------------

    async def work(self, connection: Connection, directory: PeerDirectory) -> None:
        """Lead the call until it is over, or the connection is.

        Raises:
            CliError: the connection ended, or there can be no call.
        """
        connection.on_complaint = self._complain
        inbox = CallInbox(connection, self._profile, directory)
        self._check(connection)
        self._connection, self.away_since = connection, None
        self._heard = trio.current_time()
        try:
            if self.call is None and self._plan.to:
                await self._call_others(connection, directory)
            elif self.call is None:
                self._tell(f"waiting for a call to device {self._own}")
            await race(
                partial(self._read, connection, directory, inbox),
                partial(self._watch_time, connection),
                partial(self._report, connection),
                partial(self._watch_end, connection),
                self._over.wait,
                connection.wait_ended,
            )
        finally:
            self._connection, self.away_since = None, trio.current_time()
            self.waiting = inbox.waiting

    def _check(self, connection: Connection) -> None:
        if knows_call_media(connection):
            return
        if not self._plan.allow_clear:
            raise CliError(
                "the server does not know encrypted calls (call-media); "
                "--allow-unencrypted makes a call all the same"
            )
        if len(self._plan.to) > 1:
            raise CliError("a call of more than two needs a server that knows call-media")
        self.encrypted = False

    async def _call_others(self, connection: Connection, directory: PeerDirectory) -> None:
        offered = await self._dialer.dial(connection, directory)
        self.call, self._channel, self._keys = offered.call, offered.channel, offered.keys
        for refusal in offered.refusals:
            self._warn(f"device {refusal.device} is not called: {refusal.text}")
        self._tell(f"calling {', '.join(self._plan.to)}")
        self._handle(offered.events)

    async def _read(self, connection: Connection, directory: PeerDirectory, inbox: CallInbox) -> None:
        while True:
            for frame in await connection.deliveries():
                if frame.type in (FrameType.VOICE_FRAME, FrameType.VIDEO_FRAME):
                    if frame.channel == self._channel and self.running:
                        self._heard = trio.current_time()
                        self._talk.take_media(frame.type, frame.payload)
                elif inbox.take(frame):
                    await self._take_signal(connection, directory, frame)
                elif frame.type in (FrameType.CALL_STATS, FrameType.TRANSPORT_UPDATE):
                    self._take_news(frame)
            await inbox.confirm()

    async def _watch_time(self, connection: Connection) -> None:
        while True:
            deadline = None if self.call is None else self.call.next_deadline()
            with trio.move_on_at(float("inf") if deadline is None else deadline):
                await self._changed.park()
            if self.call is not None:
                message, events = self.call.handle_timer(trio.current_time())
                if message is not None:
                    await self._say_farewell(connection, message)
                self._handle(events)

    async def _watch_end(self, connection: Connection) -> None:
        await self._ending.wait()
        message = None if self.call is None else self.call.hang_up(self._cause)
        if message is not None:
            await self._say_farewell(connection, message)
        self._note_end()

    async def _say_farewell(self, connection: Connection, message: CallMessage) -> None:
        with trio.move_on_after(FAREWELL, shield=True):
            await ask(connection, self._channel, message)

    async def _report(self, connection: Connection) -> None:
        while True:
            await trio.sleep(STATS_INTERVAL)
            if self.running and self.encrypted and trio.current_time() - self._heard > SILENCE:
                # The device has a session, or the server would have said that it is gone; but nobody in it
                # knows of this call.
                self.hang_up(Cause.LOST)
            if self.running and self.call is not None:
                for stats in self._talk.stats(self.call.call_id):
                    payload = json_text.dumps(stats.to_wire())
                    connection.send_frame(FrameType.CALL_STATS, self._channel, payload, self._reported)

    def _reported(self, answer: Answer) -> None:
        if answer.error in GONE and self.call is not None:
            self._handle(self.call.lost())

    # -- frames of calls -------------------------------------------------------------------------------

    async def _take_signal(self, connection: Connection, directory: PeerDirectory, frame: Frame) -> None:
        try:
            message = decode_call_message(frame.type, frame.control)
        except CodecError as exc:
            self._warn(f"a {frame.type.wire_name} frame was left out: {exc}")
            return
        call = self.call
        if isinstance(message, CallOffer):
            if call is None:
                await self._take_offer(connection, directory, frame.channel, message)
            elif message.call_id != call.call_id:
                await self._take_other_offer(connection, call, frame.channel, message)
        elif call is None or message_call_id(message) != call.call_id or frame.channel != self._channel:
            return  # of a call that is over, or that this device has not taken
        elif isinstance(message, CallAnswer):
            await self._take_answer(call, directory, message)
        elif isinstance(message, CallEnd):
            self._handle(call.ended(message))

    async def _take_offer(
        self, connection: Connection, directory: PeerDirectory, channel: int, offer: CallOffer
    ) -> None:
        answered = await take_offer(
            self._profile, self._plan, connection, directory, channel, offer, self._warn
        )
        if answered is None:
            return
        self.call, self._channel, self._keys = answered.call, answered.channel, answered.keys
        self.encrypted = answered.encrypted
        if answered.call.state is CallState.OVER:
            self._note_end()
            return
        self._tell(f"in a call with device {offer.sender}")
        self._handle(answered.call.accepted())

    async def _take_other_offer(
        self, connection: Connection, call: Call, channel: int, offer: CallOffer
    ) -> None:
        """Somebody calls while this device calls, or is in a call: it is busy."""
        everybody = {offer.sender, *offer.to} - {self._own}
        # To refuse is to say where this device's frames go: on the call's own channel that must stay.
        if channel != self._channel or everybody == call.others:
            await refuse(self._profile, connection, channel, offer, RejectReason.BUSY)
        if channel == self._channel and self.running and call.others == {offer.sender}:
            # Its program has begun anew, and knows nothing of this call.
            self.hang_up(Cause.LOST)

    async def _take_answer(self, call: Call, directory: PeerDirectory, answer: CallAnswer) -> None:
        assert self._keys is not None
        try:
            proved = await self._keys.learn(directory, answer.metadata)
        except (UnprovedError, PeerKeyError) as exc:
            self._warn(f"an answer to the call was left out: {exc}")
            return
        device = proved or named_device(answer.metadata)
        if device is None and len(call.others) == 1:
            [device] = call.others
        if device is None or device not in call.others:
            return
        if answer.accept and proved is None and self.encrypted:
            if not self._plan.allow_clear:
                self._warn(f"device {device} does not encrypt; --allow-unencrypted permits that")
                self.hang_up(Cause.UNSUPPORTED)
                return
            self.encrypted = False
            if self._began is not None:
                self._begin_talk()
        self._handle(call.answered(device, answer))

    def _take_news(self, frame: Frame) -> None:
        try:
            message = decode_call_message(frame.type, frame.control)
        except CodecError:
            return  # something newer than this client
        if self.call is None or message_call_id(message) != self.call.call_id:
            return
        if isinstance(message, CallStats):
            self._heard = trio.current_time()
            self._talk.take_stats(message)
        elif isinstance(message, CallTransportUpdate):
            self._talk.take_update(message)

    # -- what became of it -----------------------------------------------------------------------------

    def _handle(self, events: Sequence[CallEvent]) -> None:
        for event in events:
            match event:
                case Joined(device):
                    self._let_media_flow()
                    if device != self._own:
                        self._tell(f"device {device} is in the call")
                case Out(device, cause):
                    if self._keys is not None:
                        self._keys.forget(device)
                    self._talk.left(device)
                    if cause is not Cause.REFUSED:
                        self._tell(f"device {device}: {TEXTS[cause]}")
                case Over():
                    self._note_end()
        self._changed.unpark_all()

    def _let_media_flow(self) -> None:
        if self.running and self._began is None:
            self._began = self._heard = trio.current_time()
            self._begin_talk()

    def _begin_talk(self) -> None:
        assert self.call is not None
        assert self._connection is not None
        others = self.call.others
        self._talk.begin(
            self._keys if self.encrypted else None,
            numbered=knows_call_media(self._connection),
            sole=next(iter(others)) if len(others) == 1 else None,
        )

    def _note_end(self) -> None:
        if self._ended is None:
            self._ended = trio.current_time()
        self._over.set()

    def _complain(self, answer: Answer) -> None:
        # Media is refused fifty times a second; one line is enough.
        if answer.text not in self._complaints:
            self._complaints.add(answer.text)
            self._warn(f"the server refused a frame: {answer.text}")
