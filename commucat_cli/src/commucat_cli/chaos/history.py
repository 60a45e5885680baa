"""Everything that clients saw in a run, and its form on disk: one JSON array per line.

Times are nanoseconds of the monotonic clock, which all processes of a machine share.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TypeAlias

import attrs
import cattrs
import orjson

from commucat_cli.chaos.payload import Message
from commucat_proto import FrameType


@attrs.frozen
class Opened:
    """A session of a device was admitted."""

    at: int
    device: str
    session: int
    """Counts the device's sessions from 1."""
    epoch: str
    watermark: int
    """What the server says is confirmed."""
    delivery_ack: bool
    resume: int | None
    """The number that this session's Hello confirmed."""
    receives: bool = True
    """False: it is send-only."""


@attrs.frozen
class RouteAsked:
    """A Join (``members``, or a ``group``) or Leave (neither) was given to the network."""

    at: int
    device: str
    channel: int
    members: tuple[str, ...] | None
    group: str | None = None


@attrs.frozen
class RouteSet:
    """It was acknowledged."""

    at: int
    device: str
    channel: int
    members: tuple[str, ...] | None
    group: str | None = None


@attrs.frozen
class Change:
    """What a frame does to a group, if the server lets it."""

    event: str
    """A value of ``GroupEvent``."""
    devices: tuple[str, ...]
    """Whom it concerns; all members of a new group."""


@attrs.frozen
class Sent:
    """A durable frame was given to the network; ``attempt`` counts from 1."""

    at: int
    session: int
    message: Message
    attempt: int
    route: tuple[str, ...]
    """Members of the sender's route on the channel."""
    frame: int = FrameType.MSG
    """Its type."""
    group: str | None = None
    """To which the sender's route leads, or which it changes."""
    change: Change | None = None
    afar: tuple[str, ...] = ()
    """Of the route's members those of another server."""


@attrs.frozen
class Answered:
    """The server's answer to one attempt."""

    at: int
    message: Message
    attempt: int
    error: str | None
    """Kind of the Error; None for an Ack."""
    refused: tuple[str, ...]
    """Devices that the Ack leaves out."""


@attrs.frozen
class Delivered:
    """A durable frame arrived."""

    at: int
    device: str
    session: int
    epoch: str
    number: int
    channel: int
    message: Message | None
    """None: a payload that no client has made."""
    frame: int = FrameType.MSG
    """Its type."""


@attrs.frozen
class Confirmed:
    """The device confirmed everything up to ``number``."""

    at: int
    device: str
    session: int
    number: int


@attrs.frozen
class Returned:
    """A server has refused for good what another one had accepted for a device; found after the run."""

    device: str
    """Who does not get it."""
    message: Message | None
    reason: str


Record: TypeAlias = Opened | RouteAsked | RouteSet | Sent | Answered | Delivered | Confirmed | Returned

_KINDS: dict[str, type[Record]] = {
    kind.__name__: kind
    for kind in (Opened, RouteAsked, RouteSet, Sent, Answered, Delivered, Confirmed, Returned)
}
_converter = cattrs.Converter(unstruct_strat=cattrs.UnstructureStrategy.AS_TUPLE)


class HistoryWriter:
    """Appends records to a file. ``flush`` before anybody else reads it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def add(self, record: Record) -> None:
        line = [type(record).__name__, *_converter.unstructure(record)]
        self._file.write(orjson.dumps(line) + b"\n")

    def flush(self) -> None:
        self._file.flush()


def read_history(paths: Iterable[Path]) -> Iterator[Record]:
    """The records of all files; a last line that is not complete is left out."""
    for path in paths:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    name, *fields = orjson.loads(line)
                    yield _converter.structure(fields, _KINDS[name])
