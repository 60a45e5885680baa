"""What the coordinator and its client processes tell each other: one JSON object per line.

A process gets its job, answers :class:`Ready`, and then for each task: the task in, :class:`Ready` out
when it is prepared, any line in to start, a report out. It ends with its standard input.

All times are of the monotonic clock, which the processes of a machine share.
"""

from typing import Any, TypeVar

import attrs
import cattrs
import orjson

T = TypeVar("T")

_converter = cattrs.Converter(forbid_extra_keys=True)


@attrs.frozen(kw_only=True)
class Server:
    """Where to connect, and for how long to be patient."""

    url: str
    tls_ca: str | None
    stall: float
    """Seconds without any progress after which the rest counts as lost."""


@attrs.frozen(kw_only=True)
class SenderJob:
    """Be one device that sends to ``devices``."""

    server: Server
    crew: str
    """Names the sender; its receivers know it so."""
    devices: list[str]
    as_group: bool = False
    """By a group of all devices, instead of a route that names them."""


@attrs.frozen(kw_only=True)
class ReceiverJob:
    """Be ``devices`` devices that receive from the sender of ``crew``."""

    server: Server
    crew: str
    devices: int
    away: bool = False
    """Log in once and leave; come back for each task, and leave after it."""
    sender_domain: str | None = None
    """Of the sender, if it is not that of the server."""


@attrs.frozen(kw_only=True)
class ConnectorJob:
    """Be ``devices`` devices that come and go; all are registered at once."""

    server: Server
    devices: int


@attrs.frozen(kw_only=True)
class PartyJob:
    """Be all devices of calls between ``parties`` devices each."""

    server: Server
    parties: int


@attrs.frozen(kw_only=True)
class Load:
    """Messages of one task; sender and receivers get the same."""

    run: str
    """Hexadecimal; tells these messages from all others."""
    messages: int
    size: int


@attrs.frozen(kw_only=True)
class SendTask:
    """Send the load: with ``window`` unanswered messages, or by schedule at ``rate`` messages a second."""

    load: Load
    window: int = 0
    rate: float = 0.0
    segments: int = 1
    """Equal parts of the load whose times are reported."""


@attrs.frozen(kw_only=True)
class ReceiveTask:
    """Receive the load with every device, confirming as it comes."""

    load: Load
    server: str | None = None
    """The server's address if it has changed, for devices that are away."""
    arrivals: bool = False
    """Report when each message was there."""


@attrs.frozen(kw_only=True)
class ConnectTask:
    """Connect and disconnect ``count`` times, ``at_once`` at a time (each device has one session at most)."""

    count: int
    at_once: int
    cut: bool = False
    """Every second session ends without a word, as a dead device's does."""


@attrs.frozen(kw_only=True)
class HoldTask:
    """Open a session for each of ``count`` devices and keep them all; 0 only looks how many there are."""

    count: int


@attrs.frozen(kw_only=True)
class TalkTask:
    """In ``calls`` calls, each device sends ``packets`` voice packets of ``size`` bytes, ``rate`` a
    second."""

    run: str
    """Hexadecimal; tells these packets from all others."""
    calls: int
    packets: int
    rate: float
    size: int


@attrs.frozen(kw_only=True)
class Ready:
    """A process waits for its next line."""

    devices: list[str] = attrs.field(factory=list)
    """Who receives here."""


@attrs.frozen(kw_only=True)
class Effort:
    """What a task took of its process."""

    started: float
    ended: float
    """The last thing that counts; not the wait for latecomers after it."""
    cpu_seconds: float
    problem: str | None = None
    """Why it ended early."""


@attrs.frozen(kw_only=True)
class SenderReport:
    """How the server answered."""

    effort: Effort
    acknowledged: int
    refused: int
    segment_ends: list[float]
    """When each segment was answered."""
    answers: list[float]
    """Of a rate: when each message was answered, 0 for never."""
    lateness: list[float]
    """Of a rate: seconds after its time at which each message left; the sender's own fault."""


@attrs.frozen(kw_only=True)
class ReceiverReport:
    """Counts of all devices together."""

    effort: Effort
    received: int
    duplicates: int
    out_of_order: int
    damaged: int
    arrivals: list[float]
    """When the last device of this process had each message, 0 for never; empty unless asked for."""


@attrs.frozen(kw_only=True)
class TalkReport:
    """What all devices of a process heard together."""

    effort: Effort
    expected: int
    """Packets that should have come, over all receivers."""
    received: int
    repeated: int
    """Packets that came again, or after a later one of the same sender."""
    damaged: int
    latencies: list[list[int]]
    """Pairs: steps (``percentiles.STEP``) from when packets were due, and how many took so long."""
    refused: int
    """Error frames."""
    latest: float
    """Seconds after its time at which the latest packet left; the sender's own fault."""


@attrs.frozen(kw_only=True)
class ConnectorReport:
    """How the connecting went."""

    effort: Effort
    failed: int
    durations: list[float]
    """Seconds of each connect that succeeded, from the first packet to the final Ack."""


@attrs.frozen(kw_only=True)
class HoldReport:
    """How many sessions there are now."""

    effort: Effort
    alive: int


def encode_line(value: Any) -> bytes:
    """One line for ``value``, an object of this module."""
    return orjson.dumps(_converter.unstructure(value)) + b"\n"


def decode_line(line: bytes, kind: type[T]) -> T:
    """The opposite.

    Raises:
        ValueError: the line is something else.
    """
    return _converter.structure(orjson.loads(line), kind)
