"""What the coordinator and its client processes tell each other: one JSON object per line.

A :class:`Job` in; :class:`Report` lines out, the first when the devices are registered; ``act`` in;
reports until one says ``sent``; ``drain`` in; a last report that says ``done``.
"""

from typing import Any, TypeVar

import attrs
import cattrs
import orjson

T = TypeVar("T")

ACT = b"act\n"
DRAIN = b"drain\n"

_converter = cattrs.Converter(forbid_extra_keys=True)


@attrs.frozen(kw_only=True)
class Job:
    """Act out the part of some devices in the plan that these numbers give."""

    seed: int
    devices: int
    messages: int
    kills: int
    domains: int
    mine: list[int]
    """Indexes of the devices."""
    servers: list[list[str]]
    """Of each domain every node of its server; a session goes to one of them."""
    tls_ca: str
    """Certificates of all of them."""
    history: str
    """File to write."""


@attrs.frozen(kw_only=True)
class Report:
    """How far a process is."""

    finished: int = 0
    """Messages answered for good."""
    reconnects: int = 0
    sent: bool = False
    done: bool = False
    failure: str | None = None
    """Why some device cannot connect now."""


def encode_line(value: Any) -> bytes:
    """One line for ``value``, an object of this module."""
    return orjson.dumps(_converter.unstructure(value)) + b"\n"


def decode_line(line: bytes, kind: type[T]) -> T:
    """The opposite.

    Raises:
        ValueError: the line is something else.
    """
    return _converter.structure(orjson.loads(line), kind)
