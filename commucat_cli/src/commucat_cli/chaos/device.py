"""One device acts out its plan, and writes down everything it sees."""

import time
from collections.abc import Callable

import trio

from commucat_cli.chaos.history import Confirmed, Delivered, HistoryWriter, Opened
from commucat_cli.chaos.link import Link, Target
from commucat_cli.chaos.payload import decode_control, decode_message
from commucat_cli.chaos.plan import DevicePlan, stream_of
from commucat_cli.chaos.sender import Sender
from commucat_cli.chaos.steps import (
    Aside,
    ChangeGroup,
    Join,
    Leave,
    Part,
    Parting,
    Replace,
    Send,
    Slow,
    Step,
)
from commucat_cli.client.inbox import DURABLE
from commucat_cli.errors import CliError
from commucat_crypto import DeviceKeyPair, StaticKeyPair
from commucat_proto import DELIVERY_ACK, SEND_ONLY, ClientParameters, Frame, FrameType, Resume, UserHint

QUIET = 5.0
"""Seconds without any delivery after which the last drain gives up."""
_FIRST_WAIT, _LONGEST_WAIT = 0.02, 0.5  # seconds between two attempts to connect


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
        self._chance = stream_of(seed, f"{plan.name} acting")
        self._keys = DeviceKeyPair.generate()
        self._sender = Sender(plan.name, history, self._chance, self._usable, on_finished, target.afar)
        self._link: Link | None = None
        self._tries = 0
        self._sessions = 0
        self._epoch = ""
        self._highest = 0
        self._unconfirmed = 0
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
        await self._sender.settle(None)
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
        sender = self._sender
        match step:
            case Send(channel, sizes, frame):
                await sender.send_all(channel, sizes, frame)
            case Aside(channel, sizes):
                await self._send_aside(channel, sizes)
            case Join(channel, members):
                await sender.join(channel, members)
            case Leave(channel):
                await sender.leave(channel)
            case ChangeGroup():
                await sender.change(step)
            case Slow(seconds):
                link = await self._usable()
                self._nursery.start_soon(link.pause, seconds)
            case Part(how, away, resume):
                await self._part(how)
                await trio.sleep(away)
                self._link = await self._open(resume=resume)
                sender.resend(self._link)
            case Replace(resume):
                older = self._link
                self._link = await self._open(resume=resume)
                if older is not None:
                    await older.wait_ended()
                sender.resend(self._link)

    async def _send_aside(self, channel: int, sizes: tuple[int, ...]) -> None:
        """Send by another session, while the usual one receives."""
        # Two sessions have no order between them, so nothing may be on its way on the other one.
        await self._sender.settle(None)
        receiving = await self._usable()
        self._link = aside = await self._open(resume=False, send_only=True)
        await self._sender.send_all(channel, sizes, FrameType.MSG)
        await self._sender.settle(None)
        if self._link is aside:
            # Else it was lost, and a new session does both.
            await aside.part(Parting.END)
            self._link = receiving

    # -- sessions -----------------------------------------------------------------------------------

    async def _open(self, *, resume: bool, send_only: bool = False) -> Link:
        """A new session; tries until it is there."""
        wait = _FIRST_WAIT
        while True:
            ack = self._highest if resume and self._epoch else None
            self._tries += 1
            link = Link(
                self._target,
                self._parameters(ack, send_only=send_only),
                via=self._plan.ways[self._tries % len(self._plan.ways)],
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

    def _parameters(self, ack: int | None, *, send_only: bool) -> ClientParameters:
        capabilities = ((DELIVERY_ACK,) if self._plan.delivery_ack else ()) + (
            (SEND_ONLY,) if send_only else ()
        )
        return ClientParameters(
            domain=self._target.domain,
            server_static=self._target.noise_public,
            device_id=self._plan.name,
            device_keys=self._keys,
            static=StaticKeyPair.generate(),
            user=UserHint(handle=self._plan.name),
            capabilities=capabilities,
            resume=None if ack is None else Resume(self._epoch, ack),
        )

    async def _usable(self) -> Link:
        """The session, or a new one if it has ended; what had no answer is sent again."""
        while self._link is None or self._link.ended:
            self._link = await self._open(resume=self._chance.random() < 0.5)
            self._sender.resend(self._link)
        return self._link

    async def _part(self, how: Parting) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.part(how)

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
                link.receives,
            )
        )

    def _receive(self, link: Link, frames: list[Frame]) -> None:
        """Called with what came, and with nothing at the session's end."""
        now = time.monotonic_ns()
        name, epoch = self._plan.name, link.connection.info.epoch if frames else ""
        for frame in frames:
            if frame.type not in DURABLE:
                continue
            if frame.type is FrameType.MSG:
                message = decode_message(frame.payload)
            else:
                message = decode_control(frame.control)
            number, channel = frame.sequence, frame.channel
            self._history.add(Delivered(now, name, link.number, epoch, number, channel, message, frame.type))
            link.highest = max(link.highest, number)
            self._highest = max(self._highest, number)
            self._unconfirmed += 1
        if frames and self._plan.delivery_ack and self._unconfirmed >= self._plan.confirm_every:
            self._confirm(link)
        self._lot.unpark_all()
        self._sender.look()

    def _confirm(self, link: Link) -> None:
        self._unconfirmed = 0
        self._history.add(Confirmed(time.monotonic_ns(), self._plan.name, link.number, link.highest))
        link.connection.confirm(link.highest)
