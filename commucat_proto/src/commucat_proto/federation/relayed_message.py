"""A message on its way to a device of another server: the payload of an event.

Peers of 2025 read ``channel``, ``sequence``, ``payload``, ``sender`` and ``target``, one message in each
event. Peers that say so take many in one event, each with an ``event_id`` of its own; and all know the
members that were added: ``sender_user``, ``expires_at``, ``report``, ``group`` and ``group_revision``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, Self

import attrs

from commucat_proto.decoder import FrameDecoder
from commucat_proto.delivery_status import is_message_id
from commucat_proto.errors import CodecError, RemoteProtocolError
from commucat_proto.frames import MAX_FRAME_LEN, Frame
from commucat_proto.json_text import JsonValue

MAX_BATCH: Final = 512
"""Messages of one event."""
MAX_EVENT_ID: Final = 128
MAX_ADDRESS: Final = 384
"""Characters of ``device@domain`` and of ``handle@domain``."""
_BATCH: Final = "messages"


class RelayedFormatError(RemoteProtocolError):
    """The payload of the event is no message; the text is the ``detail`` of the refusal.

    ``title`` names the kind of the mistake as peers know it: ``InvalidPayload`` or ``InvalidFrame``.
    """

    def __init__(self, detail: str, title: str = "InvalidPayload") -> None:
        super().__init__(detail)
        self.title = title


@attrs.frozen(kw_only=True)
class RelayedMessage:
    """One frame for one device."""

    event_id: str
    """The same whenever the message is sent again, and of no other message."""
    frame: Frame
    """Its sequence is the number in the sender's outbox."""
    sender: str | None
    """The device; its domain is that of the event's origin. None for the server itself."""
    target: str
    """``device@domain``."""
    sender_user: str | None = None
    """Handle of the sender's user."""
    expires_at: int | None = None
    """Unix seconds, after which nobody wants it any more."""
    report: str | None = None
    """32 hexadecimal digits: what the message is called in a report of what became of it; None: nobody
    wants to know."""
    group: str | None = None
    """The group that it was written to, or tells of."""
    group_revision: int | None = None
    """Of that group, as the sending server knows it."""

    def to_wire(self) -> dict[str, JsonValue]:
        """The payload of an event of its own; without ``event_id``, which is that of the event."""
        value: dict[str, JsonValue] = {
            "channel": self.frame.channel,
            "sequence": self.frame.sequence,
            "payload": self.frame.encode().hex(),
            "sender": self.sender,
            "target": self.target,
        }
        optional = {
            "sender_user": self.sender_user,
            "expires_at": self.expires_at,
            "report": self.report,
            "group": self.group,
            "group_revision": self.group_revision,
        }
        return value | {name: each for name, each in optional.items() if each is not None}

    @classmethod
    def from_wire(cls, value: JsonValue, event_id: str, max_frame: int = MAX_FRAME_LEN) -> Self:
        """Read what :meth:`to_wire` writes; ``max_frame``: bytes of a frame that are accepted.

        Raises:
            RelayedFormatError: it is something else.
        """
        if not isinstance(value, Mapping):
            raise RelayedFormatError("unsupported federation payload")
        check_event_id(event_id)
        payload, target = value.get("payload"), value.get("target")
        if not isinstance(payload, str) or not isinstance(target, str) or len(target) > MAX_ADDRESS:
            raise RelayedFormatError("unsupported federation payload")
        report = _text(value, "report")
        if report is not None and not is_message_id(report):
            raise RelayedFormatError("report must be 32 hexadecimal digits")
        return cls(
            event_id=event_id,
            frame=_frame(payload, _whole(value, "channel"), max_frame),
            sender=_text(value, "sender"),
            target=target,
            sender_user=_text(value, "sender_user"),
            expires_at=_whole(value, "expires_at"),
            report=report,
            group=_text(value, "group"),
            group_revision=_whole(value, "group_revision"),
        )


class BatchEntry(Protocol):
    """What a batch carries: messages, and what is told of groups."""

    @property
    def event_id(self) -> str: ...

    def to_wire(self) -> dict[str, JsonValue]:
        """Its members, without ``event_id``."""
        ...


def batch_to_wire(messages: Sequence[BatchEntry]) -> dict[str, JsonValue]:
    """The payload of an event that carries all of them, in their order."""
    return {
        "type": _BATCH,
        _BATCH: [{**message.to_wire(), "event_id": message.event_id} for message in messages],
    }


def batch_of_wire(value: JsonValue) -> Sequence[JsonValue] | None:
    """What stands in the payload of an event that carries many; None if it is another payload.

    Raises:
        RelayedFormatError: it says that it carries many, and does not.
    """
    if not isinstance(value, Mapping) or value.get("type") != _BATCH:
        return None
    entries: Any = value.get(_BATCH)
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_BATCH:
        raise RelayedFormatError(f"messages must be an array of 1 to {MAX_BATCH} objects")
    return entries


def message_of_batch(entry: JsonValue, max_frame: int = MAX_FRAME_LEN) -> RelayedMessage:
    """One entry of a batch.

    Raises:
        RelayedFormatError: it is no message.
    """
    return RelayedMessage.from_wire(entry, entry_id(entry), max_frame)


def entry_id(entry: JsonValue) -> str:
    """The id of one entry of a batch.

    Raises:
        RelayedFormatError: it has none.
    """
    event_id = entry.get("event_id") if isinstance(entry, Mapping) else None
    if not isinstance(event_id, str):
        raise RelayedFormatError("unsupported federation payload")
    return check_event_id(event_id)


def check_event_id(event_id: str) -> str:
    """The id.

    Raises:
        RelayedFormatError: it cannot be one.
    """
    if not 0 < len(event_id) <= MAX_EVENT_ID or not event_id.isprintable():
        raise RelayedFormatError(f"event_id must be 1 to {MAX_EVENT_ID} printable characters")
    return event_id


def _frame(payload: str, channel: int | None, max_frame: int) -> Frame:
    try:
        encoded = bytes.fromhex(payload)
    except ValueError as exc:
        raise RelayedFormatError("payload hex decode failed") from exc
    decoder = FrameDecoder(max_frame)
    decoder.feed(encoded)
    try:
        frame = decoder.next_frame()
    except CodecError as exc:
        raise RelayedFormatError(f"frame decode failed: {exc}", "InvalidFrame") from exc
    if frame is None or decoder.buffered:
        raise RelayedFormatError("frame decode failed: not exactly one frame", "InvalidFrame")
    if channel is not None and channel != frame.channel:
        raise RelayedFormatError("channel is not that of the frame")
    return frame


def _text(members: Mapping[str, JsonValue], name: str) -> str | None:
    value = members.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > MAX_ADDRESS):
        raise RelayedFormatError("unsupported federation payload")
    return value or None


def _whole(members: Mapping[str, JsonValue], name: str) -> int | None:
    value = members.get(name)
    if value is not None and (
        not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64
    ):
        raise RelayedFormatError("unsupported federation payload")
    return value
