"""One device acts out its plan, and writes down everything it sees."""

import time
from collections import Counter, deque
from collections.abc import Callable

import attrs
import trio

from commucat_cli.chaos.history import (
    Answered,
    Confirmed,
    Delivered,
    HistoryWriter,
    Opened,
    RouteAsked,
    RouteSet,
    Sent,
)
from commucat_cli.chaos.link import Link, Target
from commucat_cli.chaos.payload import ID_LEN, Message, decode_message, encode_message
from commucat_cli.chaos.plan import (
    DevicePlan,
    Join,
    Leave,
    Part,
    Parting,
    Replace,
    Send,
    Slow,
    Step,
    stream_of,
)
from commucat_cli.client import Answer
from commucat_cli.errors import CliError
from commucat_crypto import DeviceKeyPair, StaticKeyPair
from commucat_proto import DELIVERY_ACK, ClientParameters, Frame, FrameType, Resume, UserHint, json_text

WINDOW = 64
"""Messages on their way that are not answered."""
MAX_AGAIN = 16
"""Messages that could not be stored, before nothing new is sent."""
QUIET = 5.0
"""Seconds without any delivery after which the last drain gives up."""
_FIRST_WAIT, _LONGEST_WAIT = 0.02, 0.5  # seconds between two attempts to connect
_RETRY_WAIT = 0.05  # seconds before what the server could not store is sent again


@attrs.define(eq=False)
class _Pending:
    """A message without an answer yet."""

    message: Message
    size: int
    attempt: int = 0


class Device:
    """A device at work. Its sessions are tasks of ``nursery``."""

    def __init__(
        self,
        plan: DevicePlan,
        seed: int,
        target: Target,
        history: HistoryWriter,
        nursery: trio.Nursery,
        on_finished: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._target = target
        self._history = history
        self._nursery = nursery
        self._on_finished = on_finished
        self._chance = stream_of(seed, f"{plan.name} acting")
        self._keys = DeviceKeyPair.generate()
        self._link: Link | None = None
        self._tries = 0
        self._sessions = 0
        self._epoch = ""
        self._highest = 0
        self._unconfirmed = 0
        self._routes: dict[int, tuple[str, ...]] = {}
        self._sequences: Counter[int] = Counter()
        self._pending: dict[Message, _Pending] = {}
        self._again: deque[tuple[int, int]] = deque()
        self._lot = trio.lowlevel.ParkingLot()
        self.last_failure: str | None = None
        """Why the last attempt to connect failed, while it is still trying."""

    @property
    def reconnects(self) -> int:
        return max(0, self._sessions - 1)

    # -- the three acts -----------------------------------------------------------------------------

    async def register(self) -> None:
        """Become known to the server."""
        self._link = await self._open(resume=False)

    async def act(self) -> None:
        """Do every step, and see every message answered."""
        for step in self._plan.steps:
            await self._do(step)
        await self._settle(None)
        await self._part(Parting.END)

    async def drain(self) -> None:
        """Fetch everything that is left."""
        while True:
            link = await self._open(resume=False)
            last = link.last
            with trio.move_on_after(QUIET) as patience:
                while link.highest < last and not link.ended:
                    before = link.highest
                    await self._lot.park()
                    if link.highest > before:
                        patience.deadline = trio.current_time() + QUIET
            ended_early = link.ended and link.highest < last
            if not ended_early:
                if self._plan.delivery_ack and link.highest:
                    self._confirm(link)
                await link.part(Parting.END)
                return

    async def _do(self, step: Step) -> None:
        match step:
            case Send(channel, sizes):
                for size in sizes:
                    if len(self._again) >= MAX_AGAIN:
                        await self._retry()  # the disk is full; it will not get better by haste
                    await self._send(channel, size)
            case Join(channel, members):
                await self._route(channel, members)
            case Leave(channel):
                await self._route(channel, None)
            case Slow(seconds):
                link = await self._usable()
                self._nursery.start_soon(link.pause, seconds)
            case Part(how, away, resume):
                await self._part(how)
                await trio.sleep(away)
                self._link = await self._open(resume=resume)
                self._resend(self._link)
            case Replace(resume):
                older = self._link
                self._link = await self._open(resume=resume)
                if older is not None:
                    await older.wait_ended()
                self._resend(self._link)

    # -- sessions -----------------------------------------------------------------------------------

    async def _open(self, *, resume: bool) -> Link:
        """A new session; tries until it is there."""
        wait = _FIRST_WAIT
        while True:
            ack = self._highest if resume and self._epoch else None
            self._tries += 1
            link = Link(
                self._target,
                self._parameters(ack),
                number=self._tries,
                on_open=self._opened,
                on_frames=self._receive,
            )
            try:
                await self._nursery.start(link.run)
            except CliError as exc:
                self.last_failure = f"{self._plan.name}: {exc}"
                await trio.sleep(wait)
                wait = min(_LONGEST_WAIT, wait * 2)
                continue
            self.last_failure = None
            return link

    def _parameters(self, ack: int | None) -> ClientParameters:
        return ClientParameters(
            domain=self._target.domain,
            server_static=self._target.noise_public,
            device_id=self._plan.name,
            device_keys=self._keys,
            static=StaticKeyPair.generate(),
            user=UserHint(handle=self._plan.name),
            capabilities=(DELIVERY_ACK,) if self._plan.delivery_ack else (),
            resume=None if ack is None else Resume(self._epoch, ack),
        )

    async def _usable(self) -> Link:
        """The session, or a new one if it has ended; what had no answer is sent again."""
        while self._link is None or self._link.ended:
            self._link = await self._open(resume=self._chance.random() < 0.5)
            self._resend(self._link)
        return self._link

    async def _part(self, how: Parting) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.part(how)

    # -- sending ------------------------------------------------------------------------------------

    async def _send(self, channel: int, size: int) -> None:
        while True:
            link = await self._usable()
            if len(self._pending) < WINDOW:
                break
            if not link.ended:
                await self._lot.park()
        self._sequences[channel] += 1
        identity = self._chance.randbytes(ID_LEN).hex()
        message = Message(self._plan.name, channel, self._sequences[channel], identity)
        self._pending[message] = one = _Pending(message, size)
        self._transmit(link, one)
        await trio.lowlevel.checkpoint()

    def _resend(self, link: Link) -> None:
        for one in self._pending.values():
            self._transmit(link, one)

    def _transmit(self, link: Link, one: _Pending) -> None:
        message = one.message
        one.attempt += 1
        attempt = one.attempt
        route = self._routes.get(message.channel, ())
        self._history.add(Sent(time.monotonic_ns(), link.number, message, attempt, route))
        payload = encode_message(message, one.size)
        link.connection.send_frame(
            FrameType.MSG, message.channel, payload, lambda answer: self._answered(one, attempt, answer)
        )

    def _answered(self, one: _Pending, attempt: int, answer: Answer) -> None:
        refused = tuple(refusal.device for refusal in answer.refused)
        self._history.add(Answered(time.monotonic_ns(), one.message, attempt, answer.error, refused))
        if self._pending.pop(one.message, None) is not None:
            if answer.error is not None and answer.retry:
                # Nothing of it is stored, and the next one may be: it takes a new place in the order.
                self._again.append((one.message.channel, one.size))
            else:
                self._on_finished()
        self._lot.unpark_all()

    async def _settle(self, channel: int | None) -> None:
        """Wait until every message (of one channel) is answered for good."""

        def busy(other: int) -> bool:
            return channel is None or other == channel

        while True:
            link = await self._usable()
            if any(busy(message.channel) for message in self._pending):
                if not link.ended:
                    await self._lot.park()
            elif any(busy(other) for other, _ in self._again):
                await self._retry()
            else:
                return

    async def _retry(self) -> None:
        """Send once more, as new messages, what could not be stored."""
        await trio.sleep(_RETRY_WAIT)
        for _ in range(len(self._again)):
            await self._send(*self._again.popleft())

    async def _route(self, channel: int, members: tuple[str, ...] | None) -> None:
        """Change a route. Everything on the channel is answered before, so each message has one route."""
        await self._settle(channel)
        frame_type = FrameType.LEAVE if members is None else FrameType.JOIN
        payload = json_text.dumps({} if members is None else {"members": list(members)})
        while True:
            link = await self._usable()
            self._history.add(RouteAsked(time.monotonic_ns(), self._plan.name, channel, members))
            try:
                answer = await link.connection.request(frame_type, channel, payload)
            except CliError:
                await link.wait_ended()
                continue  # the next session asks again
            if answer.error is None:
                break
            await trio.sleep(_RETRY_WAIT)
        self._history.add(RouteSet(time.monotonic_ns(), self._plan.name, channel, members))
        if members is None:
            self._routes.pop(channel, None)
        else:
            self._routes[channel] = members

    # -- receiving ----------------------------------------------------------------------------------

    def _opened(self, link: Link) -> None:
        self._sessions += 1
        self._epoch = link.connection.info.epoch
        self._history.add(
            Opened(
                time.monotonic_ns(),
                self._plan.name,
                link.number,
                self._epoch,
                link.highest,
                self._plan.delivery_ack,
                link.resume,
            )
        )

    def _receive(self, link: Link, frames: list[Frame]) -> None:
        """Called with what came, and with nothing at the session's end."""
        now = time.monotonic_ns()
        name, epoch = self._plan.name, link.connection.info.epoch if frames else ""
        for frame in frames:
            if frame.type is not FrameType.MSG:
                continue
            message = decode_message(frame.payload)
            self._history.add(
                Delivered(now, name, link.number, epoch, frame.sequence, frame.channel, message)
            )
            link.highest = max(link.highest, frame.sequence)
            self._highest = max(self._highest, frame.sequence)
            self._unconfirmed += 1
        if frames and self._plan.delivery_ack and self._unconfirmed >= self._plan.confirm_every:
            self._confirm(link)
        self._lot.unpark_all()

    def _confirm(self, link: Link) -> None:
        self._unconfirmed = 0
        self._history.add(Confirmed(time.monotonic_ns(), self._plan.name, link.number, link.highest))
        link.connection.confirm(link.highest)
