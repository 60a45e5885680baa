"""What will happen in a run, drawn from its seed alone: the same seed gives the same plan.

Faults of the server are tied to how many messages are finished, not to the clock, so that they
strike while something is going on. What the plan cannot fix is how the processes interleave.
"""

import enum
import random
from collections.abc import Iterator
from typing import TypeAlias

import attrs

NOBODY = "chaos-nobody"
"""A device that does not exist; routes name it now and then."""
SHARED_CHANNELS = (1, 2)
"""Channels that several devices route in their own way, so that some refuse others."""
MAX_DEVICES = 64
MAX_FAULTS = 10_000

_LAST_STRIKE = 0.95  # of all messages: a fault must come while there is still something to disturb
_BURST = 20
_SMALL, _LARGE = (64, 600), (4_000, 24_000)  # bytes of payload
_PAUSE = (0.05, 0.4)  # seconds a reader is slow
_STOP = (0.05, 0.5)  # seconds the server stands still
_FULL = (0.1, 0.5)  # seconds the disk is full
_AWAY = (0.0, 0.25)  # seconds between two sessions


class Parting(enum.Enum):
    """How a client ends its connection."""

    RESET = "reset"
    """The socket is torn down; what was on its way is thrown away."""
    DROP = "drop"
    """The socket is closed without a word of TLS or HTTP/2."""
    HALF = "half"
    """Nothing more is sent, on the level of TCP; what comes is still read."""
    END = "end"
    """The orderly way: the end of the request, and everything read to the end of the answer."""


@attrs.frozen
class Send:
    """Send messages of these sizes, as fast as the window allows."""

    channel: int
    sizes: tuple[int, ...]


@attrs.frozen
class Join:
    """Route a channel to ``members``."""

    channel: int
    members: tuple[str, ...]


@attrs.frozen
class Leave:
    """Give up the route of a channel."""

    channel: int


@attrs.frozen
class Slow:
    """Take nothing from the network for some seconds."""

    seconds: float


@attrs.frozen
class Part:
    """End the connection, whatever is on its way, and come back."""

    how: Parting
    away: float
    resume: bool


@attrs.frozen
class Replace:
    """Open a second session while the first one works."""

    resume: bool


Step: TypeAlias = Send | Join | Leave | Slow | Part | Replace


@attrs.frozen(kw_only=True)
class DevicePlan:
    """What one device does."""

    name: str
    delivery_ack: bool
    """Confirms by Ack; otherwise its transport does."""
    confirm_every: int
    """Messages between two confirmations."""
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


def make_plan(*, seed: int, devices: int, messages: int, kills: int) -> Plan:
    """Draw a plan.

    ``devices`` from 2 to :data:`MAX_DEVICES`, ``messages`` from 1, ``kills`` from 0 to :data:`MAX_FAULTS`.
    """
    names = [f"chaos-{index:02d}" for index in range(devices)]
    share, rest = divmod(messages, devices)
    return Plan(
        seed=seed,
        messages=messages,
        devices=tuple(
            _Drawing(seed, names, index).device(share + (index < rest)) for index in range(devices)
        ),
        faults=_faults(stream_of(seed, "server"), messages, kills),
    )


def stream_of(seed: int, purpose: str) -> random.Random:
    """A stream of chance of its own for one purpose."""
    # Repeatable is the point; nothing secret is drawn.
    return random.Random(f"commucat-chaos:{seed}:{purpose}")  # noqa: S311


def _faults(chance: random.Random, messages: int, kills: int) -> tuple[ServerFault, ...]:
    last = max(1, int(messages * _LAST_STRIKE))

    def moments(count: int) -> Iterator[int]:
        return (chance.randint(1, last) for _ in range(count))

    faults = [ServerFault(after, Strike.KILL) for after in moments(kills)]
    faults += [
        ServerFault(after, Strike.STOP, round(chance.uniform(*_STOP), 3)) for after in moments(1 + kills // 2)
    ]
    faults += [
        ServerFault(after, Strike.FULL_DISK, round(chance.uniform(*_FULL), 3))
        for after in moments(1 + kills // 4)
    ]
    return tuple(sorted(faults, key=lambda fault: fault.after))


class _Drawing:
    """Draws the plan of one device."""

    def __init__(self, seed: int, names: list[str], index: int) -> None:
        self._chance = stream_of(seed, names[index])
        self._index = index
        self._name = names[index]
        self._others = [name for name in names if name != names[index]]
        own = 10 * (index + 1)
        self._channels = [own, own + 1, own + 2, *SHARED_CHANNELS]
        self._joined: set[int] = set()

    def device(self, messages: int) -> DevicePlan:
        chance = self._chance
        # Three in four, as most clients should; the second device never, so that both kinds are there.
        delivery_ack = self._index != 1 and (self._index == 0 or chance.random() < 0.75)
        confirm_every = chance.choice((1, 1, 5, 20))
        return DevicePlan(
            name=self._name,
            delivery_ack=delivery_ack,
            confirm_every=confirm_every,
            steps=tuple(self._steps(messages)),
        )

    def _steps(self, messages: int) -> Iterator[Step]:
        chance = self._chance
        yield self._join(self._channels[0])
        while messages:
            count = min(messages, chance.randint(1, _BURST))
            messages -= count
            yield Send(self._channel(), tuple(self._size() for _ in range(count)))
            if chance.random() < 0.4:
                yield self._disturbance()

    def _disturbance(self) -> Step:
        chance = self._chance
        match chance.choices(("join", "leave", "slow", "part", "replace"), (5, 1, 3, 6, 3))[0]:
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
        return Part(
            chance.choice(tuple(Parting)), round(chance.uniform(*_AWAY), 3), resume=chance.random() < 0.5
        )

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
