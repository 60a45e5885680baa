"""What the coordinator and its client processes tell each other: one JSON object per line.

Job in on standard input, :class:`Ready` out, any line in to start, a report out, end.
"""

from typing import Any, TypeVar

import attrs
import cattrs
import orjson

T = TypeVar("T")

_converter = cattrs.Converter(forbid_extra_keys=True)


@attrs.frozen(kw_only=True)
class SenderJob:
    """Send ``messages`` to ``devices``."""

    server: str
    tls_ca: str | None
    run: str
    """Hexadecimal."""
    messages: int
    size: int
    window: int
    devices: list[str]
    stall: float


@attrs.frozen(kw_only=True)
class ReceiverJob:
    """Receive ``messages`` with each of ``receivers`` devices."""

    server: str
    tls_ca: str | None
    run: str
    messages: int
    size: int
    receivers: int
    stall: float
    away: bool
    """Log in once, leave, and come back at the start."""


@attrs.frozen(kw_only=True)
class Ready:
    """A process waits for its start."""

    devices: list[str]
    """Who receives here."""


@attrs.frozen(kw_only=True)
class SenderReport:
    """Times are of the monotonic clock, which all processes of a machine share."""

    started: float
    ended: float
    """The last answer."""
    acknowledged: int
    refused: int
    cpu_seconds: float
    problem: str | None
    """Why it ended early."""


@attrs.frozen(kw_only=True)
class ReceiverReport:
    """Counts of all devices together; times as for :class:`SenderReport`."""

    started: float
    ended: float
    """The last message."""
    received: int
    duplicates: int
    out_of_order: int
    damaged: int
    cpu_seconds: float
    problem: str | None


def encode_line(value: Any) -> bytes:
    """One line for ``value``, an object of this module."""
    return orjson.dumps(_converter.unstructure(value)) + b"\n"


def decode_line(line: bytes, kind: type[T]) -> T:
    """The opposite.

    Raises:
        ValueError: the line is something else.
    """
    return _converter.structure(orjson.loads(line), kind)
