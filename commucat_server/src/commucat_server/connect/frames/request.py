"""What a frame asks of the journal, and how it is answered then."""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import attrs

from commucat_proto import MAX_CONTROL_JSON_LEN, MESSAGE_ID_DIGITS, Frame, FrameType, json_text
from commucat_server.connect.context import ConnectContext
from commucat_server.federation.carried import LEAVING
from commucat_server.routing.live import LiveSession
from commucat_storage import Operation, Outcome, Submission

MAX_ID_LEN = 128
"""Characters of the id of a device, a group or a call."""
REFERENCE_LEN = MESSAGE_ID_DIGITS // 2


class RefusedFrameError(Exception):
    """A frame that the session refuses; it goes on with the next one. ``str`` is for people."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@attrs.define(eq=False)
class Origin:
    """Where a frame came from: its session, and the services that session uses."""

    context: ConnectContext
    live: LiveSession
    asks: bool = False
    """It is told what becomes of the messages it sends."""
    copies: bool = False
    """Its user's other devices get the messages, too."""
    complaints: dict[FrameType, float] | None = None
    """When it was told last that its media is of no use, on Trio's clock; most never are."""
    media_waiting: int = 0
    """Its media packets in the journal. While there are any, others go the same way: order is kept."""

    @property
    def device_id(self) -> str:
        return self.live.device_id

    def expiry(self, seconds: int) -> int:
        """Unix time at which what is stored now for ``seconds`` expires."""
        return int(self.context.clock()) + seconds

    def submission(self, frame: Frame, seconds: int, *, copied: bool = False) -> Submission:
        """A durable frame of this session along its route, as it came, kept for ``seconds``.

        ``copied``: it goes to the user's other devices, too, if the session wants that.
        """
        return Submission(
            self.live.device_id,
            frame.channel,
            frame.type,
            frame.payload,
            self.expiry(seconds),
            report=self.asks,
            reference=secrets.token_bytes(REFERENCE_LEN) if self.asks else b"",
            copies=copied and self.copies,
            local=frame.type not in LEAVING,
        )


@attrs.frozen
class LiveFrame:
    """What a ``Resolve`` is asked for: a frame for those of its recipients that are connected."""

    type: FrameType
    payload: bytes = attrs.field(repr=False)
    among: Callable[[str], bool] | None = None
    """Asked when it is sent: which of the recipients are meant; None means all."""


@attrs.define(eq=False)
class Request:
    """One operation of the journal and what its frame is answered. Not frozen: one is made per message."""

    operation: Operation
    channel: int
    sequence: int
    acknowledged: bool = True
    quiet: bool = False
    """Of a live frame: that it was passed on is not said, only that it was not."""
    ack: Mapping[str, Any] | None = None
    """Further members of its Ack."""
    live: LiveFrame | None = None
    done: Callable[[Outcome | None], None] | None = None
    """Called with the outcome before the answer is sent; None when the commit failed. Must not raise."""


Settle: TypeAlias = Callable[[], Awaitable[None]]
"""Waits until everything that this session asked for before has been committed and answered."""


# -- reading --------------------------------------------------------------------------------------


def object_of(frame: Frame) -> Mapping[str, Any]:
    """The JSON object of a control frame.

    Raises:
        RefusedFrameError: it is another JSON value.
    """
    if not isinstance(frame.control, dict):
        raise RefusedFrameError("bad_request", f"{frame.type.wire_name} carries no JSON object")
    return frame.control


def is_id(value: object) -> bool:
    """Whether this can be the id of a device, a group or a call: 1 to 128 printable characters."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_LEN and value.isprintable()


def id_of(value: Mapping[str, Any], name: str) -> str:
    """A member that must be there and be an id."""
    found = value.get(name)
    if not is_id(found):
        raise RefusedFrameError("bad_request", f"{name} must be 1 to {MAX_ID_LEN} printable characters")
    return str(found)


def flag_of(value: Mapping[str, Any], name: str, default: bool) -> bool:
    """A member that is true or false, or absent."""
    found = value.get(name, default)
    if not isinstance(found, bool):
        raise RefusedFrameError("bad_request", f"{name} must be true or false")
    return found


def rewritten(value: Mapping[str, Any], **members: Any) -> bytes:
    """The JSON text of ``value`` with ``members`` put in by the server.

    Raises:
        RefusedFrameError: that is longer than a control frame may be.
    """
    text = json_text.dumps({**value, **members})
    if len(text) > MAX_CONTROL_JSON_LEN:
        raise RefusedFrameError("too_large", "with what the server adds it would not fit a frame")
    return text
