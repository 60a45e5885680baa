"""Reads where settings come from: the file, ``.env``, the environment. Knows no types of settings."""

import io
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from dotenv.parser import parse_stream

from commucat_server.config.errors import ConfigError, described
from commucat_server.config.keys import (
    KEYS,
    OTHER_VARIABLES,
    PREFIX,
    SECTIONS,
    VARIABLES,
    close_variable,
    suggestion,
    unsupported_key,
    unsupported_variable,
)

_MAX_FILE: Final = 1024 * 1024
"""A configuration is some kilobytes; the bound is for a path that names something else, such as a device."""


@attrs.frozen(kw_only=True)
class Given:
    """A value as somebody gave it."""

    value: object = attrs.field(repr=False)
    origin: str
    """The begin of an error line: the file and key, the variable or the flag."""


def read_text(path: Path, *, what: str) -> str:
    """Read a text file of bounded length.

    Raises:
        ConfigError: it cannot be read, is too long, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE + 1)
    except FileNotFoundError as exc:
        raise ConfigError(f"{path}: {what} does not exist; create it or name another one") from exc
    except IsADirectoryError as exc:
        raise ConfigError(f"{path}: is a directory; name the {what} itself") from exc
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ConfigError(f"{path}: the {what} cannot be read: {reason}") from exc
    if len(raw) > _MAX_FILE:
        raise ConfigError(f"{path}: longer than {_MAX_FILE} bytes; this is not a {what}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: byte {exc.start} is not UTF-8; save the {what} as UTF-8") from exc


def read_variables(environ: Mapping[str, str], cwd: Path) -> dict[str, Given]:
    """The variables that concern the server, ``.env`` below and the real environment above.

    ``.env`` is taken literally: ``$`` in a value means itself, so that no part of a secret is replaced.

    Raises:
        ConfigError: ``.env`` cannot be read or has a broken line.
    """
    found: dict[str, Given] = {}
    path = cwd / ".env"
    # Some keep a virtual environment in a directory of this name.
    if os.path.isfile(path):
        for name, value in _dotenv(path):
            if _concerns_us(name):
                found[name] = Given(value=value, origin=f"{path}: {name}")
    for name, value in environ.items():
        if _concerns_us(name):
            found[name] = Given(value=value, origin=f"environment variable {name}")
    return found


def _dotenv(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for binding in parse_stream(io.StringIO(read_text(path, what="environment file"))):
        if binding.error:
            raise ConfigError(f"{path}: line {binding.original.line} is not NAME=value; correct it")
        if binding.key is not None:
            pairs.append((binding.key, binding.value or ""))
    return pairs


def _concerns_us(name: str) -> bool:
    return name.startswith(PREFIX) or name == "RUST_LOG"


def settings_from_file(path: Path) -> dict[str, Given]:
    """The settings of a TOML file by key (``section.name``).

    Raises:
        ConfigError: not readable, not TOML, or with a section or key that this version has not got.
    """
    text = read_text(path, what="configuration file")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        # Not only TOMLDecodeError: huge numbers and deep nesting have errors of their own.
        reason = str(exc) if isinstance(exc, tomllib.TOMLDecodeError) else "a value is too long or too deep"
        raise ConfigError(f"{path}: not valid TOML: {reason}; text values need double quotes") from exc
    settings: dict[str, Given] = {}
    for section, table in document.items():
        _check_supported(path, section, table)
        if section not in SECTIONS:
            raise ConfigError(_unknown_section(path, section, table))
        settings |= _settings_of(path, section, table)
    return settings


def _settings_of(path: Path, section: str, table: object) -> dict[str, Given]:
    """The settings of one section, and of the sections below it."""
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {section}: must be a section, [{section}], not {described(table)}")
    settings: dict[str, Given] = {}
    for name, value in table.items():
        key = f"{section}.{name}"
        _check_supported(path, key, value)
        if key in SECTIONS:
            settings |= _settings_of(path, key, value)
        elif key in KEYS:
            settings[key] = Given(value=value, origin=f"{path}: {key}")
        else:
            raise ConfigError(_unknown_key(path, section, name))
    return settings


def _check_supported(path: Path, key: str, value: Any) -> None:
    what = unsupported_key(key)
    if what is None:
        return
    # Name the key that somebody wrote, not only the section above it.
    while isinstance(value, dict) and value and len(key) < 100:
        name, value = next(iter(value.items()))
        key = f"{key}.{name}"
    raise ConfigError(f"{path}: {key}: not supported by this version ({what}); remove it")


def _unknown_section(path: Path, section: str, table: object) -> str:
    if section == "data_dir":
        return f"{path}: data_dir: not a key of the file; use --data-dir or COMMUCAT_DATA_DIR"
    kind = "section" if isinstance(table, dict) else "key outside a section"
    return f"{path}: {section[:100]}: unknown {kind}; {_advice(section, SECTIONS, 'sections')}"


def _unknown_key(path: Path, section: str, name: str) -> str:
    # A key that exists elsewhere is more often in the wrong section than misspelt.
    home = next((key for key in sorted(KEYS) if key.endswith(f".{name}")), None)
    if home is not None:
        advice = f"it belongs to section [{home.rpartition('.')[0]}]"
    else:
        names = [key.rpartition(".")[2] for key in KEYS if key.rpartition(".")[0] == section]
        advice = _advice(name, names, "keys")
    return f"{path}: {section}.{name[:100]}: unknown key; {advice}"


def _advice(name: str, known: Any, plural: str) -> str:
    close = suggestion(name, known)
    return f"did you mean {close}?" if close else f"remove it (known {plural}: {', '.join(sorted(known))})"


def settings_from_variables(variables: Mapping[str, Given]) -> tuple[dict[str, Given], list[str]]:
    """The settings of the environment by key, and warnings about variables without effect.

    Raises:
        ConfigError: a variable configures what this version lacks, or nearly misses one that counts.
    """
    settings = {VARIABLES[name]: given for name, given in variables.items() if name in VARIABLES}
    stray = []
    for name, given in sorted(variables.items()):
        what = unsupported_variable(name)
        if what is not None:
            raise ConfigError(f"{given.origin}: not supported by this version ({what}); unset it")
        if name in VARIABLES or name in OTHER_VARIABLES or name == "RUST_LOG":
            continue
        close = close_variable(name)
        if close is not None:
            raise ConfigError(f"{given.origin}: unknown; did you mean {close}?")
        stray.append(name[:100])
    warnings = [f"environment variables without a meaning here: {', '.join(stray)}"] if stray else []
    return settings, warnings
