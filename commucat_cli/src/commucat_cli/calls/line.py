"""Leads one call, over one connection after another: signalling and keys out and in, media to and from a
:class:`Talk`.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

import attrs
import trio

from commucat_cli.calls.call_inbox import CallInbox
from commucat_cli.calls.party_keys import PartyKeys, UnprovedError
from commucat_cli.calls.signalling import Call, CallEvent, CallState, Cause, Joined, Out, Over
from commucat_cli.client.addresses import is_address
from commucat_cli.client.answers import Answer
from commucat_cli.client.channels import derive_call_channel
from commucat_cli.client.connection import Connection
from commucat_cli.client.peers import PeerDirectory
from commucat_cli.client.session import Notice
from commucat_cli.client.tasks import race
from commucat_cli.errors import CliError
from commucat_cli.profile import Profile
from commucat_proto import CALL_MEDIA, CodecError, Frame, FrameType, json_text
from commucat_proto.calls import (
    CallAnswer,
    CallEnd,
    CallMediaProfile,
    CallMessage,
    CallOffer,
    CallStats,
    CallTransportUpdate,
    RejectReason,
    decode_call_message,
)
from commucat_proto.media_keys import keys_in

MAX_ATTEMPTS: Final = 16
"""Channels to try; every one of them taken is no coincidence any more."""
FAREWELL: Final = 2.0
"""Seconds for the server to take the word that this device leaves."""
STATS_INTERVAL: Final = 1.0
MAX_BACKLOG: Final = 16_384
"""Bytes that wait for the network above which media is dropped: seconds of voice that would only come
late."""
_GONE: Final = ("call_unknown", "not_participant")


class Talk(Protocol):
    """What a call is for: the media of one device, between its files and the line."""

    def begin(self, keys: PartyKeys | None, *, numbered: bool) -> None:
        """Somebody is there. ``keys`` None: in clear; ``numbered``: packets of version 2."""

    def joined(self, device: str) -> None: ...

    def left(self, device: str) -> None: ...

    def take_media(self, frame_type: FrameType, payload: bytes) -> None: ...

    def take_stats(self, stats: CallStats) -> None: ...

    def take_update(self, update: CallTransportUpdate) -> None: ...

    def stats(self, call_id: str) -> Sequence[CallStats]: ...


@attrs.frozen(kw_only=True)
class LinePlan:
    """What is wanted. ``to`` is empty for a device that waits for a call."""

    to: tuple[str, ...] = ()
    media: CallMediaProfile
    caller: str | None = None
    """Who may call; None: everybody."""
    accept: bool = True
    allow_clear: bool = False
    """Media that is not encrypted end to end is better than none."""
    ring_timeout: float = 30.0
    """Seconds."""


class Line:
    """One call of one profile. :meth:`work` is for :func:`~commucat_cli.client.keep_connected`."""

    def __init__(self, profile: Profile, plan: LinePlan, talk: Talk, notice: Notice) -> None:
        self._profile = profile
        self._own = profile.keys.device_id
        self._plan = plan
        self._talk = talk
        self._notice = notice
        self._connection: Connection | None = None
        self._channel = 0
        self._keys: PartyKeys | None = None
        self._clear = False
        self._ending = trio.Event()
        self._over = trio.Event()
        self._changed = trio.lowlevel.ParkingLot()
        self._complaints: set[str] = set()
        self.call: Call | None = None
        self.encrypted: bool | None = None
        """Once media may flow."""
        self.dropped = 0
        """Packets that did not even leave: there was no connection, or too much waited for it."""
        self.waiting = 0
        """Messages in the inbox that were left there."""

    @property
    def running(self) -> bool:
        """Somebody else is there, too."""
        return self.call is not None and self.call.state is CallState.RUNNING

    def hang_up(self) -> None:
        """Leave as soon as the server can be told."""
        self._ending.set()

    async def wait_over(self) -> None:
        """Wait for the end of the call."""
        await self._over.wait()

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
        numbered = _knows_call_media(connection)
        if not numbered:
            self._check_clear("the server does not know encrypted calls (call-media)")
        self._connection = connection
        try:
            if self.call is None and self._plan.to:
                await self._offer(connection, directory)
            await race(
                partial(self._read, connection, directory, inbox),
                partial(self._watch_time, connection),
                partial(self._report, connection),
                partial(self._watch_end, connection),
                self._over.wait,
                connection.wait_ended,
            )
        finally:
            self._connection = None
            self.waiting = inbox.waiting

    async def _read(self, connection: Connection, directory: PeerDirectory, inbox: CallInbox) -> None:
        while True:
            for frame in await connection.deliveries():
                if frame.type in (FrameType.VOICE_FRAME, FrameType.VIDEO_FRAME):
                    if frame.channel == self._channel and self.running:
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
        message = None if self.call is None else self.call.hang_up()
        if message is not None:
            await self._say_farewell(connection, message)
        self._over.set()

    async def _say_farewell(self, connection: Connection, message: CallMessage) -> None:
        with trio.move_on_after(FAREWELL, shield=True):
            await _ask(connection, self._channel, message)

    async def _report(self, connection: Connection) -> None:
        while True:
            await trio.sleep(STATS_INTERVAL)
            if self.running and self.call is not None:
                for stats in self._talk.stats(self.call.call_id):
                    payload = json_text.dumps(stats.to_wire())
                    connection.send_frame(FrameType.CALL_STATS, self._channel, payload, self._reported)

    def _reported(self, answer: Answer) -> None:
        if answer.error in _GONE and self.call is not None:
            self._handle(self.call.lost())

    # -- this device calls -----------------------------------------------------------------------------

    async def _offer(self, connection: Connection, directory: PeerDirectory) -> None:
        to = self._plan.to
        encrypts = _knows_call_media(connection)
        if not encrypts and len(to) > 1:
            raise CliError("a call of more than two needs a server that knows call-media")
        for attempt in range(self._first_attempt(), MAX_ATTEMPTS):
            call_id = secrets.token_hex(16)
            self._channel = derive_call_channel((self._own, *to), attempt)
            keys = PartyKeys(call_id, self._channel, self._profile.keys)
            # Asked in any case: it says, better than the server's refusal, that a device does not exist.
            sealed = await keys.sealed_for(directory, to)
            await self._join(connection, to)
            offer = CallOffer(
                call_id=call_id,
                sender=self._own,
                to=to,
                media=self._plan.media,
                metadata={"keys": dict(sealed)} if encrypts else None,
                expires_at=int(time.time() + self._plan.ring_timeout),
            )
            deadline = trio.current_time() + self._plan.ring_timeout
            answer = await _ask(connection, self._channel, offer)
            refused = {refusal.device: refusal.reason for refusal in answer.refused}
            if answer.error == "channel_conflict" or "channel_conflict" in refused.values():
                if answer.error is None:
                    end = Call.outgoing(call_id, self._own, to, deadline=deadline).hang_up()
                    assert end is not None
                    await _ask(connection, self._channel, end)
                continue
            if answer.error is not None and answer.error != "busy":
                names = ", ".join(to)
                raise CliError(f"the server does not pass the call to {names}: {_why(answer)}")
            if len(to) == 1:
                self._profile.state.save_channel_attempt(to[0], attempt)
            self._keys = keys
            self.call = Call.outgoing(call_id, self._own, to, deadline=deadline)
            for refusal in answer.refused:
                self._notice(f"device {refusal.device} is not called: {refusal.text}")
            busy = set(to) if answer.error == "busy" else set()
            self._handle(self.call.offered(refused.keys() | busy, busy=busy | _busy_among(refused)))
            return
        raise CliError(f"{', '.join(to)}: {MAX_ATTEMPTS} channels in a row are used otherwise")

    def _first_attempt(self) -> int:
        return self._profile.state.channel_attempt(self._plan.to[0]) if len(self._plan.to) == 1 else 0

    async def _join(self, connection: Connection, devices: Sequence[str]) -> None:
        answer = await connection.join(self._channel, sorted(devices))
        if answer.error is not None:
            raise CliError(f"the server refuses channel {self._channel}: {_why(answer)}")

    # -- frames of calls -------------------------------------------------------------------------------

    async def _take_signal(self, connection: Connection, directory: PeerDirectory, frame: Frame) -> None:
        try:
            message = decode_call_message(frame.type, frame.control)
        except CodecError as exc:
            self._notice(f"a {frame.type.wire_name} frame was left out: {exc}")
            return
        if isinstance(message, CallOffer):
            await self._take_offer(connection, directory, frame.channel, message)
        elif self.call is None or message_call_id(message) != self.call.call_id:
            return  # of a call that is over, or that this device has not taken
        elif frame.channel != self._channel:
            self._notice("a frame of the call came on another channel and was left out")
        elif isinstance(message, CallAnswer):
            await self._take_answer(directory, message)
        elif isinstance(message, CallEnd):
            self._handle(self.call.ended(message))

    async def _take_offer(
        self, connection: Connection, directory: PeerDirectory, channel: int, offer: CallOffer
    ) -> None:
        if self.call is not None:
            if offer.call_id != self.call.call_id:
                await self._refuse(connection, channel, offer, RejectReason.BUSY)
            return
        if self._plan.to or not is_address(offer.sender) or not offer.sender.isprintable():
            return
        if self._plan.caller not in (None, offer.sender):
            self._notice(f"device {offer.sender} calls, which is not the one that is waited for")
            await self._refuse(connection, channel, offer, RejectReason.DECLINE)
            return
        if offer.expires_at is not None and offer.expires_at < time.time():
            return  # from before this command was started
        keys = PartyKeys(offer.call_id, channel, self._profile.keys)
        try:
            proved = await keys.learn(directory, offer.metadata)
        except UnprovedError as exc:
            self._notice(f"a call that claims to come from device {offer.sender} was left out: {exc}")
            return
        if proved not in (None, offer.sender):
            self._notice(
                f"a call that claims to come from device {offer.sender} comes from {proved}; left out"
            )
            return
        encrypts = proved is not None and _knows_call_media(connection)
        if not encrypts and not self._plan.allow_clear:
            await self._refuse(connection, channel, offer, RejectReason.UNSUPPORTED)
            raise CliError(
                f"device {offer.sender} calls without end-to-end encryption; it was told no "
                "(--allow-unencrypted permits it)"
            )
        if not self._plan.accept:
            await self._refuse(connection, channel, offer, RejectReason.DECLINE)
            self.call = Call.incoming(offer, self._own, deadline=0.0)
            self.call.decline(RejectReason.DECLINE)
            self._over.set()
            return
        await self._accept(connection, directory, channel, offer, keys, encrypts=encrypts)

    async def _accept(
        self,
        connection: Connection,
        directory: PeerDirectory,
        channel: int,
        offer: CallOffer,
        keys: PartyKeys,
        *,
        encrypts: bool,
    ) -> None:
        deadline = trio.current_time() + self._plan.ring_timeout
        call = Call.incoming(offer, self._own, deadline=deadline)
        self._channel = channel
        await self._join(connection, sorted(call.others))
        metadata: dict[str, json_text.JsonValue] = {"device": self._own}
        if encrypts:
            metadata["keys"] = dict(await keys.sealed_for(directory, call.others))
        answer = await _ask(
            connection,
            channel,
            CallAnswer(call_id=offer.call_id, accept=True, media=self._plan.media, metadata=metadata),
        )
        if answer.error is not None:
            if answer.error not in _GONE:
                self._notice(f"the call of device {offer.sender} was not taken: {_why(answer)}")
            return  # It was over before; the next one may come.
        self.call, self._keys, self._clear = call, keys, not encrypts
        self._notice(f"in a call with device {offer.sender}")
        self._handle(call.accepted())
        self._changed.unpark_all()

    async def _refuse(
        self, connection: Connection, channel: int, offer: CallOffer, reason: RejectReason
    ) -> None:
        answer = CallAnswer(
            call_id=offer.call_id, accept=False, reason=reason, metadata={"device": self._own}
        )
        # An answer travels along this device's route; in a busy one's, it may lead nowhere.
        members = sorted({offer.sender, *offer.to} - {self._own})
        if channel != self._channel and (await connection.join(channel, members)).error is not None:
            return
        await _ask(connection, channel, answer)

    async def _take_answer(self, directory: PeerDirectory, answer: CallAnswer) -> None:
        call, keys = self.call, self._keys
        assert call is not None
        assert keys is not None
        try:
            proved = await keys.learn(directory, answer.metadata)
        except UnprovedError as exc:
            self._notice(f"an answer to the call was left out: {exc}")
            return
        device = proved or _named(answer.metadata)
        if device is None and len(call.others) == 1:
            [device] = call.others
        if device is None or device not in call.others:
            return
        if answer.accept and proved is None:
            if not self._plan.allow_clear:
                self._notice(
                    f"device {device} does not encrypt its media; hanging up (--allow-unencrypted permits it)"
                )
                call.cause = Cause.UNSUPPORTED
                self.hang_up()
                return
            self._clear = True
        self._handle(call.answered(device, answer))

    def _take_news(self, frame: Frame) -> None:
        if self.call is None or frame.channel != self._channel:
            return
        try:
            message = decode_call_message(frame.type, frame.control)
        except CodecError:
            return  # something newer than this client
        if message_call_id(message) != self.call.call_id:
            return
        if isinstance(message, CallStats):
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
                        self._notice(f"device {device} is in the call")
                        self._talk.joined(device)
                case Out(device, cause):
                    if self._keys is not None:
                        self._keys.forget(device)
                    self._talk.left(device)
                    if cause is not Cause.REFUSED:
                        self._notice(f"device {device}: {TEXTS[cause]}")
                case Over():
                    self._over.set()
        self._changed.unpark_all()

    def _let_media_flow(self) -> None:
        if self.running and self.encrypted is None:
            assert self._connection is not None
            self.encrypted = not self._clear
            numbered = _knows_call_media(self._connection)
            self._talk.begin(None if self._clear else self._keys, numbered=numbered)

    def _check_clear(self, why: str) -> None:
        if not self._plan.allow_clear:
            raise CliError(f"{why}; --allow-unencrypted makes a call all the same")

    def _complain(self, answer: Answer) -> None:
        # Media is refused fifty times a second; one line is enough.
        if answer.text not in self._complaints:
            self._complaints.add(answer.text)
            self._notice(f"the server refused a frame: {answer.text}")


TEXTS: Final = {
    Cause.HUNG_UP: "hung up",
    Cause.ENDED: "the other side hung up",
    Cause.LEFT: "left the call",
    Cause.CANCELLED: "cancelled",
    Cause.BUSY: "busy",
    Cause.DECLINED: "declined",
    Cause.UNSUPPORTED: "cannot take part in this call",
    Cause.NO_ANSWER: "no answer",
    Cause.ANSWERED_ELSEWHERE: "answered on another device",
    Cause.REFUSED: "the server did not pass the call on",
    Cause.LOST: "was away for too long",
    Cause.IDLE: "nothing was heard for too long",
    Cause.FAILED: "failed",
}
"""What is told to a person."""


def message_call_id(message: CallMessage) -> str | None:
    """Every call message has one."""
    call_id = getattr(message, "call_id", None)
    return call_id if isinstance(call_id, str) else None


async def _ask(connection: Connection, channel: int, message: CallMessage) -> Answer:
    return await connection.request(message.frame_type, channel, json_text.dumps(message.to_wire()))


def _knows_call_media(connection: Connection) -> bool:
    known = connection.info.ack.get("capabilities")
    return isinstance(known, list) and CALL_MEDIA in known


def _named(metadata: object) -> str | None:
    device = metadata.get("device") if isinstance(metadata, Mapping) else None
    return device if isinstance(device, str) else None


def _busy_among(refused: Mapping[str, str]) -> set[str]:
    return {device for device, reason in refused.items() if reason == "busy"}


def _why(answer: Answer) -> str:
    texts = {refusal.text for refusal in answer.refused}
    return ", ".join(sorted(texts)) or answer.text
