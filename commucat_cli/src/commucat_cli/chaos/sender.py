"""What a device sends: every frame until it is answered, and written down before and after."""

import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any

import attrs
import trio

from commucat_cli.chaos.history import Answered, Change, HistoryWriter, RouteAsked, RouteSet, Sent
from commucat_cli.chaos.link import Link
from commucat_cli.chaos.payload import ID_LEN, Message, encode_control, encode_message
from commucat_cli.chaos.plan import group_of
from commucat_cli.chaos.steps import ChangeGroup, GroupEvent
from commucat_cli.client import Answer
from commucat_cli.errors import CliError
from commucat_proto import FrameType, json_text

WINDOW = 64
"""Messages on their way that are not answered."""
MAX_AGAIN = 16
"""Messages that could not be stored, before nothing new is sent."""
_RETRY_WAIT = 0.05  # seconds before what the server could not store is sent again

_GROUP_FRAMES = {GroupEvent.CREATE: FrameType.GROUP_CREATE, GroupEvent.INVITE: FrameType.GROUP_INVITE}


@attrs.define(eq=False)
class _Pending:
    """A message without an answer yet."""

    message: Message
    size: int
    frame: FrameType
    attempt: int = 0


@attrs.frozen
class _Route:
    """Where a channel of the device leads."""

    members: tuple[str, ...] = ()
    group: str | None = None


class Sender:
    """The sending side of one device."""

    def __init__(
        self,
        name: str,
        history: HistoryWriter,
        chance: Random,
        usable: Callable[[], Awaitable[Link]],
        on_finished: Callable[[], None],
        afar: Mapping[str, str],
    ) -> None:
        """``usable`` gives the session to send on; ``on_finished`` hears of messages answered for good.

        ``afar``: the devices of other servers, with their addresses.
        """
        self._afar = afar
        self._name = name
        self._history = history
        self._chance = chance
        self._usable = usable
        self._on_finished = on_finished
        self._routes: dict[int, _Route] = {}
        self._sequences: Counter[int] = Counter()
        self._pending: dict[Message, _Pending] = {}
        self._again: deque[tuple[int, int, FrameType]] = deque()
        self._lot = trio.lowlevel.ParkingLot()

    def look(self) -> None:
        """Something has happened to the session: whoever waits looks again."""
        self._lot.unpark_all()

    # -- messages -----------------------------------------------------------------------------------

    async def send_all(self, channel: int, sizes: tuple[int, ...], frame: FrameType) -> None:
        """Send messages of these sizes, as fast as the window allows."""
        if group_of(channel) is not None and channel not in self._routes and not await self.enter(channel):
            channel = min(self._routes, default=channel)  # no member of that group, or not yet
        for size in sizes:
            if len(self._again) >= MAX_AGAIN:
                await self._retry()  # the disk is full; it will not get better by haste
            await self._send(channel, size, frame)

    async def _send(self, channel: int, size: int, frame: FrameType) -> None:
        while True:
            link = await self._usable()
            if len(self._pending) < WINDOW:
                break
            if not link.ended:
                await self._lot.park()
        message = self._next(channel)
        self._pending[message] = one = _Pending(message, size, frame)
        self._transmit(link, one)
        await trio.lowlevel.checkpoint()

    def _next(self, channel: int) -> Message:
        self._sequences[channel] += 1
        identity = self._chance.randbytes(ID_LEN).hex()
        return Message(self._name, channel, self._sequences[channel], identity)

    def resend(self, link: Link) -> None:
        """Send again over a new session what had no answer on an older one."""
        for one in self._pending.values():
            self._transmit(link, one)

    def _transmit(self, link: Link, one: _Pending) -> None:
        message = one.message
        one.attempt += 1
        attempt = one.attempt
        route = self._routes.get(message.channel, _Route())
        now = time.monotonic_ns()
        afar = tuple(member for member in route.members if member in self._afar)
        self._history.add(
            Sent(now, link.number, message, attempt, route.members, one.frame, route.group, afar=afar)
        )
        if one.frame is FrameType.MSG:
            payload = encode_message(message, one.size)
        else:
            payload = encode_control(message, {"device_id": self._name}, one.size)
        link.connection.send_frame(
            one.frame, message.channel, payload, lambda answer: self._answered(one, attempt, answer)
        )

    def _answered(self, one: _Pending, attempt: int, answer: Answer) -> None:
        self._note(one.message, attempt, answer)
        if self._pending.pop(one.message, None) is not None:
            if answer.error is not None and answer.retry:
                # Nothing of it is stored, and the next one may be: it takes a new place in the order.
                self._again.append((one.message.channel, one.size, one.frame))
            else:
                self._on_finished()
        self._lot.unpark_all()

    def _note(self, message: Message, attempt: int, answer: Answer) -> None:
        # Devices have names of their own, whatever their domain.
        refused = tuple(refusal.device.partition("@")[0] for refusal in answer.refused)
        self._history.add(Answered(time.monotonic_ns(), message, attempt, answer.error, refused))

    async def settle(self, channel: int | None) -> None:
        """Wait until every message (of one channel) is answered for good."""

        def busy(other: int) -> bool:
            return channel is None or other == channel

        while True:
            link = await self._usable()
            if any(busy(message.channel) for message in self._pending):
                if not link.ended:
                    await self._lot.park()
            elif any(busy(other) for other, _, _ in self._again):
                await self._retry()
            else:
                return

    async def _retry(self) -> None:
        """Send once more, as new messages, what could not be stored."""
        await trio.sleep(_RETRY_WAIT)
        for _ in range(len(self._again)):
            await self._send(*self._again.popleft())

    # -- routes -------------------------------------------------------------------------------------

    async def join(self, channel: int, members: tuple[str, ...]) -> None:
        """Route a channel to devices."""
        named = [self._afar.get(member, member) for member in members]
        await self._route(channel, _Route(members), {"members": named})

    async def enter(self, channel: int) -> bool:
        """Route a channel to its group; whether the server lets the device in."""
        group = group_of(channel)
        return await self._route(channel, _Route(group=group), {"group_id": group})

    async def leave(self, channel: int) -> None:
        """Give up a route."""
        await self._route(channel, None, {})

    async def _route(self, channel: int, route: _Route | None, value: dict[str, Any]) -> bool:
        """Change a route. Everything on the channel is answered before, so each message has one route."""
        await self.settle(channel)
        frame_type = FrameType.LEAVE if route is None else FrameType.JOIN
        members = None if route is None else route.members
        group = None if route is None else route.group
        while True:
            link = await self._usable()
            self._history.add(RouteAsked(time.monotonic_ns(), self._name, channel, members, group))
            answer = await self._request(link, frame_type, channel, json_text.dumps(value))
            if answer is None:
                continue
            if answer.error is None:
                break
            if group is not None and not answer.retry:
                return False
            await trio.sleep(_RETRY_WAIT)
        self._history.add(RouteSet(time.monotonic_ns(), self._name, channel, members, group))
        if route is None:
            self._routes.pop(channel, None)
        else:
            self._routes[channel] = route
        return True

    async def _request(self, link: Link, frame: FrameType, channel: int, payload: bytes) -> Answer | None:
        """The answer to one frame; None if the session ended before. The next one asks again."""
        try:
            return await link.connection.request(frame, channel, payload)
        except CliError:
            await link.wait_ended()
            return None

    # -- groups -------------------------------------------------------------------------------------

    async def change(self, step: ChangeGroup) -> None:
        """Ask for a change of a group, until there is an answer."""
        group = group_of(step.channel)
        assert group is not None, "changes are planned for channels of groups only"
        event = step.event
        if event in (GroupEvent.CREATE, GroupEvent.OTHER):
            await self.settle(step.channel)
        if event is GroupEvent.OTHER and step.channel not in self._routes:
            return  # it would be refused for the lack of a route, which says nothing about groups
        frame = _GROUP_FRAMES.get(event, FrameType.GROUP_EVENT)
        change = Change(event.value, step.devices)
        while True:
            link = await self._usable()
            message = self._next(step.channel)
            payload = encode_control(message, _wish(step, group))
            now = time.monotonic_ns()
            self._history.add(Sent(now, link.number, message, 1, (), frame, group, change))
            answer = await self._request(link, frame, step.channel, payload)
            if answer is None:
                continue
            self._note(message, 1, answer)
            if answer.error is None or not answer.retry:
                break
            await trio.sleep(_RETRY_WAIT)
        if event is GroupEvent.CREATE:
            await self.enter(step.channel)


def _wish(step: ChangeGroup, group: str) -> dict[str, Any]:
    """The JSON of the frame that asks for a change."""
    devices = step.devices
    match step.event:
        case GroupEvent.CREATE:
            roles = dict.fromkeys(devices[:1], step.role)
            return {"group_id": group, "members": list(devices), "roles": roles}
        case GroupEvent.INVITE:
            return {"group_id": group, "device": devices[0], "role": step.role}
        case GroupEvent.ROLE:
            return {"group_id": group, "event": "role", "device": devices[0], "role": step.role}
        case GroupEvent.OTHER:
            return {"group_id": group, "event": step.event.value}
    return {"group_id": group, "event": step.event.value, "device": devices[0]}
