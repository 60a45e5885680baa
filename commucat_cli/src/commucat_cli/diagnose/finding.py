"""What a check says."""

import enum

import attrs


class Status(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """It works, but an operator should know."""
    FAIL = "fail"


@attrs.frozen
class Finding:
    """The result of one check, in one line that says what to do."""

    name: str
    status: Status
    text: str


def ok(name: str, text: str) -> Finding:
    return Finding(name, Status.OK, text)


def warning(name: str, text: str) -> Finding:
    return Finding(name, Status.WARN, text)


def failure(name: str, text: str) -> Finding:
    return Finding(name, Status.FAIL, text)
