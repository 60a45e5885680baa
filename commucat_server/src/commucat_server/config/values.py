"""One value of the configuration to its type, strictly.

A value is what TOML gave, or text (from the environment, or a scalar in quotes as files
for the reference server have it). Text becomes a number or a truth value only where the
setting is one; nothing else is converted.
"""

import enum
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import cattrs

from commucat_crypto import NoisePattern
from commucat_server.config.address import BindAddress
from commucat_server.config.errors import InvalidValueError, described
from commucat_server.config.federation_section import ConfiguredPeers
from commucat_server.config.ice_section import TurnServers
from commucat_server.config.networks import Networks
from commucat_server.config.sections import LogLevel

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
_HEX: Final = re.compile(r"([0-9a-fA-F]{2})+")
_MAX_HEX: Final = 8192
_LEVEL_ALIASES: Final = {"trace": "debug", "warn": "warning", "off": "critical"}


def make_converter() -> cattrs.Converter:
    """A converter whose hooks raise only :class:`InvalidValueError` for the types of the sections."""
    converter = cattrs.Converter(detailed_validation=False)
    hooks: dict[Any, Callable[[object], object]] = {
        bool: _boolean,
        int: _whole,
        float: _decimal,
        str: _text,
        bytes: _hex,
        Path: _path,
        BindAddress: lambda value: BindAddress.parse(_text(value)),
        LogLevel: _level,
        Networks: Networks.parse,
        ConfiguredPeers: ConfiguredPeers.parse,
        TurnServers: TurnServers.parse,
    }
    converter.register_structure_hook_factory(_is_enum, _enum_hook)
    for kind, hook in hooks.items():
        converter.register_structure_hook(kind, _ignoring_type(hook))
    # A parametrised type is no class, so it is recognised by comparison.
    converter.register_structure_hook_func(
        lambda kind: bool(kind == tuple[NoisePattern, ...]), _ignoring_type(_patterns)
    )
    return converter


def _ignoring_type(hook: Callable[[object], object]) -> Callable[[object, Any], Any]:
    return lambda value, _kind: hook(value)


def level_of(text: str) -> LogLevel | None:
    """The level that a name means, Rust's names included; None for something else."""
    name = text.strip().lower()
    name = _LEVEL_ALIASES.get(name, name)
    return LogLevel(name) if name in {level.value for level in LogLevel} else None


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise InvalidValueError(f"must be true or false, not {described(value)}")


def _whole(value: object) -> int:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64:
        return value
    raise InvalidValueError(f"must be a whole number, not {described(value)}")


def _decimal(value: object) -> float:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return float(value)
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64:
        return float(value)
    raise InvalidValueError(f"must be a number, not {described(value)}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidValueError(f"must be text in quotes, not {described(value)}")
    if not value:
        raise InvalidValueError("is empty; give a value or remove it")
    if not value.isprintable():
        raise InvalidValueError("holds a control character or bytes that are not UTF-8")
    return value


def _hex(value: object) -> bytes:
    # Keys pass here: the text never shows the value.
    if not isinstance(value, str):
        raise InvalidValueError("must be hexadecimal digits in quotes")
    if not value:
        raise InvalidValueError("is empty; give a value or remove it")
    if len(value) > _MAX_HEX or not _HEX.fullmatch(value):
        raise InvalidValueError(
            f"must be an even number of hexadecimal digits (0-9, a-f), at most {_MAX_HEX}"
        )
    return bytes.fromhex(value)


def _path(value: object) -> Path:
    return Path(_text(value))


def _level(value: object) -> LogLevel:
    level = level_of(value) if isinstance(value, str) else None
    if level is None:
        names = ", ".join(level.value for level in LogLevel)
        raise InvalidValueError(f"must be one of {names}, not {described(value)}")
    return level


def _patterns(value: object) -> tuple[NoisePattern, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, list):
        raise InvalidValueError(f'must be a list such as ["XK", "IK"], not {described(value)}')
    known = {pattern.value: pattern for pattern in NoisePattern}
    for name in value:
        if not isinstance(name, str) or name not in known:
            raise InvalidValueError(f'must list "XK" and "IK", not {described(name)}')
    return tuple(known[name] for name in value)


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _enum_hook(kind: type[enum.Enum]) -> Callable[[object, Any], enum.Enum]:
    known = {str(member.value): member for member in kind}

    def structure(value: object, _kind: Any) -> enum.Enum:
        if not isinstance(value, str) or value not in known:
            raise InvalidValueError(f"must be one of {', '.join(known)}, not {described(value)}")
        return known[value]

    return structure
