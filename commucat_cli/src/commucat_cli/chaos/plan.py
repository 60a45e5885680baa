"""What will happen in a run, drawn from its seed alone: the same seed gives the same plan.

Faults of the server are tied to how many messages are finished, not to the clock, so that they
strike while something is going on. What the plan cannot fix is how the processes interleave.
"""

import enum
import random
from collections.abc import Iterator

import attrs

from commucat_cli.chaos.steps import (
    Aside,
    ChangeGroup,
    GroupEvent,
    Join,
    Leave,
    Part,
    Parting,
    Replace,
    Send,
    Slow,
    Step,
)
from commucat_cli.transport import WAYS, Form, Via
from commucat_proto import FrameType

NOBODY = "chaos-nobody"
"""A device that does not exist; routes name it now and then."""
SHARED_CHANNELS = (1, 2)
"""Channels that several devices route in their own way, so that some refuse others."""
GROUP_CHANNELS = 1000
"""The first of the channels that lead to groups, one for the group of each device, and to nothing else."""
MAX_DEVICES = 64
MAX_FAULTS = 10_000

_LAST_STRIKE = 0.95  # of all messages: a fault must come while there is still something to disturb
_BURST = 20
_ROLES = ("member", "member", "admin", "co-owner")
_SMALL, _LARGE = (64, 600), (4_000, 24_000)  # bytes of payload
_PAUSE = (0.05, 0.4)  # seconds a reader is slow
_STOP = (0.05, 0.5)  # seconds the server stands still
_FULL = (0.1, 0.5)  # seconds the disk is full
_AWAY = (0.0, 0.25)  # seconds between two sessions


@attrs.frozen(kw_only=True)
class DevicePlan:
    """What one device does."""

    name: str
    domain: int
    """Index of the domain whose server it uses."""
    delivery_ack: bool
    """Confirms by Ack; otherwise its transport does."""
    confirm_every: int
    """Messages between two confirmations."""
    ways: tuple[Via, ...]
    """How its sessions connect, one after the other, and from the beginning again."""
    steps: tuple[Step, ...]


class Strike(enum.Enum):
    """What is done to the server."""

    KILL = "kill"
    STOP = "stop"
    FULL_DISK = "full_disk"


@attrs.frozen
class ServerFault:
    """A strike as soon as ``after`` messages are finished. ``seconds`` is how long it lasts; 0 for a kill."""

    after: int
    strike: Strike
    seconds: float = 0.0


@attrs.frozen(kw_only=True)
class Plan:
    """A whole run."""

    seed: int
    messages: int
    devices: tuple[DevicePlan, ...]
    faults: tuple[ServerFault, ...]
    """In the order in which they strike."""


def make_plan(*, seed: int, devices: int, messages: int, kills: int, domains: int = 1) -> Plan:
    """Draw a plan.

    ``devices`` from 2 for each of the ``domains`` to :data:`MAX_DEVICES`, ``messages`` from 1, ``kills`` from
    0 to :data:`MAX_FAULTS`.
    """
    names = [f"chaos-{index:02d}" for index in range(devices)]
    share, rest = divmod(messages, devices)
    return Plan(
        seed=seed,
        messages=messages,
        devices=tuple(
            _Drawing(seed, names, index, domains).device(share + (index < rest)) for index in range(devices)
        ),
        faults=_faults(stream_of(seed, "server"), messages, kills),
    )


def stream_of(seed: int, purpose: str) -> random.Random:
    """A stream of chance of its own for one purpose."""
    # Repeatable is the point; nothing secret is drawn.
    return random.Random(f"commucat-chaos:{seed}:{purpose}")  # noqa: S311


def moments(chance: random.Random, messages: int, count: int) -> Iterator[int]:
    """Draw when so many faults strike: as soon as so many messages are finished."""
    last = max(1, int(messages * _LAST_STRIKE))
    return (chance.randint(1, last) for _ in range(count))


def group_of(channel: int) -> str | None:
    """The id of the group to which a channel leads, if it is one of those."""
    return f"chaos-group-{channel - GROUP_CHANNELS:02d}" if channel >= GROUP_CHANNELS else None


def confirms(way: Via) -> bool:
    """Whether the transport can confirm for a client without ``delivery-ack``.

    HTTP/1.1 without WebSocket cannot: TCP acknowledges what no program may ever read.
    """
    return not way.http1 or way.form is Form.WEBSOCKET


def _founding(seed: int, names: list[str], index: int, domains: int) -> ChangeGroup:
    """How the group of a device begins; its members are of the device's own domain."""
    chance = stream_of(seed, f"group {index}")
    others = [name for name in names[index % domains :: domains] if name != names[index]]
    members = chance.sample(others, chance.randint(1, min(5, len(others))))
    role = chance.choice(("member", "admin", "co-owner"))
    return ChangeGroup(GROUP_CHANNELS + index, GroupEvent.CREATE, tuple(members), role)


def _faults(chance: random.Random, messages: int, kills: int) -> tuple[ServerFault, ...]:
    faults = [ServerFault(after, Strike.KILL) for after in moments(chance, messages, kills)]
    faults += [
        ServerFault(after, Strike.STOP, round(chance.uniform(*_STOP), 3))
        for after in moments(chance, messages, 1 + kills // 2)
    ]
    faults += [
        ServerFault(after, Strike.FULL_DISK, round(chance.uniform(*_FULL), 3))
        for after in moments(chance, messages, 1 + kills // 4)
    ]
    return tuple(sorted(faults, key=lambda fault: fault.after))


class _Drawing:
    """Draws the plan of one device."""

    def __init__(self, seed: int, names: list[str], index: int, domains: int) -> None:
        self._chance = stream_of(seed, names[index])
        self._index = index
        self._name = names[index]
        self._domain = index % domains
        self._others = [name for name in names if name != names[index]]
        neighbours = range(self._domain, len(names), domains)
        self._neighbours = [names[other] for other in neighbours if other != index]
        own = 10 * (index + 1)
        self._channels = [own, own + 1, own + 2, *SHARED_CHANNELS]
        self._joined: set[int] = set()
        groups = [_founding(seed, names, other, domains) for other in neighbours]
        self._own_group = groups[neighbours.index(index)]
        self._all_groups = [group.channel for group in groups]
        self._groups = [group.channel for group in groups if self._name in group.devices]
        self._groups += [self._own_group.channel] * 2
        # As the plan goes; the server may have it otherwise, when others have rights or a change is refused.
        self._members = set(self._own_group.devices)

    def device(self, messages: int) -> DevicePlan:
        chance = self._chance
        # Three in four, as most clients should; the second device never, so that both kinds are there.
        delivery_ack = self._index != 1 and (self._index == 0 or chance.random() < 0.75)
        confirm_every = chance.choice((1, 1, 5, 20))
        ways = [way for way in WAYS if delivery_ack or confirms(way)]
        chance.shuffle(ways)
        return DevicePlan(
            name=self._name,
            domain=self._domain,
            delivery_ack=delivery_ack,
            confirm_every=confirm_every,
            ways=tuple(ways),
            steps=tuple(self._steps(messages)),
        )

    def _steps(self, messages: int) -> Iterator[Step]:
        chance = self._chance
        yield self._join(self._channels[0])
        yield self._own_group
        while messages:
            count = min(messages, chance.randint(1, _BURST))
            messages -= count
            yield self._burst(count)
            if chance.random() < 0.6:
                yield self._disturbance()

    def _burst(self, count: int) -> Step:
        chance = self._chance
        channel = chance.choice(self._groups) if chance.random() < 0.4 else self._channel()
        sizes = tuple(self._size() for _ in range(count))
        match chance.choices(("send", "announce", "aside"), (85, 8, 7))[0]:
            case "aside":
                return Aside(channel, sizes)
            case "announce":
                return Send(channel, sizes, FrameType.KEY_UPDATE)
        return Send(channel, sizes)

    def _disturbance(self) -> Step:
        chance = self._chance
        kinds = ("join", "leave", "slow", "part", "replace", "group")
        match chance.choices(kinds, (5, 2, 3, 7, 5, 14))[0]:
            case "join":
                return self._join(chance.choice(self._channels))
            case "leave" if len(self._joined) > 1:
                channel = chance.choice(sorted(self._joined))
                self._joined.discard(channel)
                return Leave(channel)
            case "slow":
                return Slow(round(chance.uniform(*_PAUSE), 3))
            case "replace":
                return Replace(chance.random() < 0.5)
            case "group":
                return self._change()
        return Part(
            chance.choice(tuple(Parting)), round(chance.uniform(*_AWAY), 3), resume=chance.random() < 0.5
        )

    def _change(self) -> ChangeGroup:
        chance = self._chance
        if chance.random() < 0.7:
            return self._change_own()
        # Much of this is not the device's to do: the server has to refuse it.
        pool = self._groups + self._all_groups[:1]
        event = chance.choice([event for event in GroupEvent if event is not GroupEvent.CREATE])
        whom = (self._name if event is GroupEvent.LEAVE else chance.choice(self._neighbours),)
        devices = () if event is GroupEvent.OTHER else whom
        return ChangeGroup(chance.choice(pool), event, devices, chance.choice(_ROLES))

    def _change_own(self) -> ChangeGroup:
        """Of the own group, and mostly one that works."""
        chance = self._chance
        channel, role = self._own_group.channel, chance.choice(_ROLES)
        inside = sorted(self._members)
        outside = [name for name in self._neighbours if name not in self._members]
        events = (
            GroupEvent.REMOVE,
            GroupEvent.INVITE,
            GroupEvent.ROLE,
            GroupEvent.TRANSFER,
            GroupEvent.OTHER,
        )
        event = chance.choices(events, (8, 8, 2, 1, 2))[0]
        if event is GroupEvent.OTHER:
            return ChangeGroup(channel, event)
        pool = outside if event is GroupEvent.INVITE else inside
        device = chance.choice(pool or self._neighbours)
        if event is GroupEvent.INVITE:
            self._members.add(device)
        elif event is GroupEvent.REMOVE:
            self._members.discard(device)
        return ChangeGroup(channel, event, (device,), role)

    def _join(self, channel: int) -> Join:
        chance = self._chance
        members = chance.sample(self._others, chance.randint(1, min(4, len(self._others))))
        if chance.random() < 0.1:
            members.append(NOBODY)
        self._joined.add(channel)
        return Join(channel, tuple(sorted(members)))

    def _channel(self) -> int:
        # Rarely one that was not joined: the server has to refuse it.
        pool = self._channels if self._chance.random() < 0.03 else sorted(self._joined)
        return self._chance.choice(pool)

    def _size(self) -> int:
        return self._chance.randint(*(_LARGE if self._chance.random() < 0.05 else _SMALL))
