"""Attrs classes that read and write themselves as strict JSON objects.

Each attribute carries a :class:`Shape`: how its JSON value is read, what a valid value is and
how it is written. The check runs when the object is made, so a message that exists can be
sent, whether it came from a peer or from us.

Reading follows docs/protocol.md, "Call control messages": a missing member takes its default
or is an error, null is for options only, unknown members are dropped, an integer may stand
for a float but not the reverse. Writing leaves out nothing.
"""

import enum
from collections.abc import Callable
from typing import Any, Final, Self, TypeVar, cast

import attrs

from commucat_proto.errors import CodecError, CodecErrorCode
from commucat_proto.json_text import JsonValue, dumps, round_f32

_SHAPE = "commucat_proto.shape"
_NAME = "commucat_proto.name"
_ALIAS = "commucat_proto.alias"

_EnumT = TypeVar("_EnumT", bound=enum.Enum)


@attrs.frozen
class Shape:
    """One kind of member. ``read`` and ``check`` raise ValueError saying what was expected."""

    check: Callable[[Any], None]
    read: Callable[[Any], Any] = lambda value: value
    write: Callable[[Any], JsonValue] = lambda value: cast("JsonValue", value)


def _of_type(expected: type, words: str) -> Shape:
    def check(value: object) -> None:
        # Not isinstance: a bool is no integer here, as it is none in JSON.
        if type(value) is not expected:
            raise ValueError(f"not {words}")

    return Shape(check)


def _unsigned(bits: int) -> Shape:
    def check(value: object) -> None:
        if type(value) is not int or not 0 <= value < 1 << bits:
            raise ValueError(f"not an integer of {bits} bits without sign")

    return Shape(check)


def _read_f32(value: object) -> float:
    if type(value) is not float and type(value) is not int:
        raise ValueError("not a number")
    return round_f32(value)


def _check_f32(value: object) -> None:
    if type(value) is not float or round_f32(value) != value:
        raise ValueError("not a 32-bit float")


def _anything(value: object) -> None:
    """Any JSON value is right; that it is one shows when it is written."""


TEXT: Final = _of_type(str, "a string")
BOOL: Final = _of_type(bool, "true or false")
U8: Final = _unsigned(8)
U16: Final = _unsigned(16)
U32: Final = _unsigned(32)
U64: Final = _unsigned(64)
F32: Final = Shape(_check_f32, read=_read_f32)
ANY: Final = Shape(_anything)


def choice(members: type[_EnumT]) -> Shape:
    """The value of one member of an enumeration, spelled exactly so."""
    by_value = {member.value: member for member in members}

    def check(value: object) -> None:
        if not isinstance(value, members):
            raise ValueError(f"no {members.__name__}")

    def read(value: object) -> _EnumT:
        member = by_value.get(value) if isinstance(value, str) else None
        if member is None:
            raise ValueError(f"no {members.__name__}")
        return member

    return Shape(check, read=read, write=lambda member: cast("str", member.value))


def array(item: Shape) -> Shape:
    """A JSON array; a tuple in Python."""

    def check(value: object) -> None:
        if type(value) is not tuple:
            raise ValueError("not a tuple")
        for index, element in enumerate(value):
            _within(str(index), item.check, element)

    def read(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("not an array")
        return tuple(_within(str(index), item.read, element) for index, element in enumerate(value))

    return Shape(check, read=read, write=lambda value: [item.write(element) for element in value])


def optional(shape: Shape) -> Shape:
    """The value or null."""
    return Shape(
        lambda value: None if value is None else shape.check(value),
        read=lambda value: None if value is None else shape.read(value),
        write=lambda value: None if value is None else shape.write(value),
    )


def struct(members: "type[WireStruct]") -> Shape:
    """An object of its own."""

    def check(value: object) -> None:
        if not isinstance(value, members):
            raise ValueError(f"no {members.__name__}")

    return Shape(check, read=members._read, write=lambda value: cast("WireStruct", value).to_wire())


def wire(shape: Shape, *, name: str | None = None, alias: str | None = None) -> dict[str, object]:
    """Metadata of an attribute: its shape, and its member's name where that differs.

    ``alias`` is a second name accepted on input, but not both at once.
    """
    return {_SHAPE: shape, _NAME: name, _ALIAS: alias}


def checked(_: type, fields: "list[attrs.Attribute[Any]]") -> "list[attrs.Attribute[Any]]":
    """The ``field_transformer`` of every wire struct: each attribute is checked by its shape."""
    return [field.evolve(validator=_validate) for field in fields]


def _validate(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    _within(_member(attribute), attribute.metadata[_SHAPE].check, value)


def _member(attribute: "attrs.Attribute[Any]") -> str:
    return attribute.metadata[_NAME] or attribute.name


def _within(place: str, function: Callable[[Any], Any], value: object) -> Any:
    """Call ``function``; a refusal names the place, from the outermost object inwards."""
    try:
        return function(value)
    except _MisplacedError as exc:
        raise _MisplacedError(f"{place}.{exc}") from None
    except ValueError as exc:
        raise _MisplacedError(f"{place}: {exc}") from None


class _MisplacedError(ValueError):
    """A refusal that says already where in the object it happened."""


class WireStruct:
    """Base of the call control structs."""

    __slots__ = ()

    @classmethod
    def from_wire(cls, value: JsonValue) -> Self:
        """Read a JSON value.

        Raises:
            CodecError: InvalidControlJson; the detail names the member.
        """
        try:
            return cls._read(value)
        except ValueError as exc:
            raise CodecError(CodecErrorCode.INVALID_CONTROL_JSON, str(exc)) from exc

    @classmethod
    def _read(cls, value: object) -> Self:
        if not isinstance(value, dict):
            raise ValueError("not an object")
        members: dict[str, Any] = {}
        for attribute in attrs.fields(cast("type[attrs.AttrsInstance]", cls)):
            name = _member(attribute)
            alias = attribute.metadata[_ALIAS]
            if alias is not None and alias in value:
                if name in value:
                    raise _MisplacedError(f"{name}: given twice, also as {alias}")
                name = alias
            if name in value:
                members[attribute.name] = _within(name, attribute.metadata[_SHAPE].read, value[name])
            elif attribute.default is attrs.NOTHING:
                raise _MisplacedError(f"{name}: missing")
        return cls(**members)

    def to_wire(self) -> dict[str, JsonValue]:
        """The JSON object, with every member; an absent option is None."""
        return {
            _member(attribute): attribute.metadata[_SHAPE].write(getattr(self, attribute.name))
            for attribute in attrs.fields(cast("type[attrs.AttrsInstance]", type(self)))
        }

    def encode(self) -> bytes:
        """The JSON text, compact and with sorted keys.

        Raises:
            JsonTextError: free-form metadata that is no JSON.
        """
        return dumps(self.to_wire())
