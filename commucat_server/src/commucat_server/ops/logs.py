"""The server's log: one JSON object per line on stderr.

Members: ``timestamp`` (ISO 8601, UTC), ``level``, ``logger``, ``event``, what the caller added, and
``exception`` (a list of structured tracebacks, without local variables). What has the name of a
secret is blanked, and bytes are shown by their length only, so that keys, tokens and message
content stay out even when somebody logs the wrong object.
"""

import json
import logging
import math
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import orjson
import structlog
from structlog.tracebacks import ExceptionDictTransformer

from commucat_server.config import LogLevel

_REDACTED: Final = "[redacted]"
_SECRET_WORDS: Final = frozenset(
    {"token", "secret", "private", "seed", "password", "authorization", "cookie", "zkp", "proof"}
)
"""Names of which one word is enough: ``session_token``, ``private_key``."""
_SECRET_NAMES: Final = frozenset({"code", "enrolment_code", "handshake", "session", "key", "payload", "body"})
"""Names that are secret only as a whole: ``status_code`` and ``key_id`` are not."""
_WORD_BREAK: Final = re.compile(r"[^a-z0-9]+")
_CAMEL_BREAK: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# JSON allows these raw, but terminals obey some of them and line readers split at others.
_UNSAFE: Final = re.compile(r"[\x7f-\x9f\u2028\u2029]")
_MAX_DEPTH: Final = 24
"""Enough for exception groups of several nurseries; each takes three levels."""
_MAX_TEXT: Final = 8192
_LIBRARY_LEVEL: Final = logging.WARNING
"""Libraries are heard from this level on, whatever the server's own level."""


def configure_logs(level: LogLevel) -> None:
    """Send all logs, those of libraries included, to stderr from ``level`` on. May be called again."""
    threshold = logging.getLevelNamesMapping()[level.name]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.ExceptionRenderer(
                # Local variables of a handshake are the secrets themselves.
                ExceptionDictTransformer(show_locals=False, use_rich=False)
            ),
            redact,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_StderrLogger,
        # A cached logger would keep an earlier configuration.
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryHandler(max(threshold, _LIBRARY_LEVEL)))


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Blank secrets and make everything plain JSON (a structlog processor)."""
    return {name: _REDACTED if _is_secret(name) else _plain(value, 1) for name, value in event.items()}


def _is_secret(name: str) -> bool:
    words = _WORD_BREAK.split(_CAMEL_BREAK.sub("_", name[:256]).lower())
    return not _SECRET_WORDS.isdisjoint(words) or "_".join(words) in _SECRET_NAMES


def _plain(value: Any, depth: int) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return str(value)  # JSON has no such numbers
        case None | bool() | int() | float():
            return value
        case str():
            return value if len(value) <= _MAX_TEXT else value[:_MAX_TEXT] + "..."
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case _ if depth > _MAX_DEPTH:
            return "<nested too deep>"
        case dict():
            return {
                str(name): _REDACTED if _is_secret(str(name)) else _plain(item, depth + 1)
                for name, item in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [_plain(item, depth + 1) for item in value]
        case _:
            return _plain(_shown(value), depth)


def _shown(value: object) -> str:
    try:
        # Of our own classes repr leaves the secrets out; str might not.
        return repr(value)
    except Exception:  # noqa: BLE001  # somebody's broken __repr__ must not end a connection
        return f"<{type(value).__name__}>"


def _add_logger_name(
    logger: "_StderrLogger", _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    event.setdefault("logger", logger.name)
    return event


def _render(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    try:
        line = orjson.dumps(event).decode()
    except TypeError:
        # Numbers above 64 bits and lone surrogates are beyond orjson.
        line = json.dumps(event)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


class _StderrLogger:
    """Writes rendered lines to the stderr of the moment."""

    def __init__(self, name: str = "commucat") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """Write one line. A log that nobody reads any more must not stop the server."""
        stream: TextIO | None = sys.stderr
        if stream is None:
            return
        try:
            # One write: lines of several threads do not mix.
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = exception = log = msg


class _LibraryHandler(logging.Handler):
    """Passes what libraries log through the standard library on to the same lines."""

    def emit(self, record: logging.LogRecord) -> None:
        # Libraries invent levels in between; structlog knows the five.
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        try:
            structlog.get_logger(record.name).log(
                level, "%s", record.getMessage(), exc_info=record.exc_info or None
            )
        except Exception:  # noqa: BLE001  # as logging.Handler demands: never raise into the library
            self.handleError(record)
