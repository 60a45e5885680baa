"""Entries of a batch that have a type, beside messages: on their way out, and members on their way in."""

from collections.abc import Mapping

import attrs

from commucat_proto.federation.relayed_message import RelayedFormatError
from commucat_proto.json_text import JsonValue


@attrs.frozen(kw_only=True)
class TypedEntry:
    """One on its way out."""

    event_id: str
    type: str
    value: Mapping[str, JsonValue]

    def to_wire(self) -> dict[str, JsonValue]:
        """The payload of an event of its own; without ``event_id``, which is that of the event."""
        return {**self.value, "type": self.type}


def is_name(value: object, most: int) -> bool:
    """Whether it is a text of 1 to ``most`` printable characters."""
    return isinstance(value, str) and 0 < len(value) <= most and value.isprintable()


def name_member(members: Mapping[str, JsonValue], name: str, most: int) -> str:
    """A member that is such a text.

    Raises:
        RelayedFormatError: it is not.
    """
    value = members.get(name)
    if not is_name(value, most):
        raise RelayedFormatError(f"{name} must be 1 to {most} printable characters")
    return str(value)


def whole_member(members: Mapping[str, JsonValue], name: str, most: int) -> int:
    """A member that is a whole number of 0 to ``most``.

    Raises:
        RelayedFormatError: it is not.
    """
    value = members.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise RelayedFormatError(f"{name} must be a whole number of 0 to {most}")
    return value
