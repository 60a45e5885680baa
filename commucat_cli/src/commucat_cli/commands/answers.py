"""JSON objects that the server answers with, for commands that show them."""

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

from commucat_cli.errors import NotCommuCatError
from commucat_cli.terminal import one_line, print_now, printable_json

Answer: TypeAlias = dict[str, Any]


def print_answer(answer: Answer) -> None:
    """The answer as one JSON object."""
    print_now(printable_json(json.dumps(answer, ensure_ascii=False)))


def optional_member(value: Answer, name: str) -> str | None:
    """A member of harmless words, None if it is not there."""
    text = value.get(name)
    return one_line(text) if isinstance(text, str) else None


def text_member(value: Answer, name: str) -> str:
    """A member as one harmless word.

    Raises:
        NotCommuCatError: it is no text.
    """
    text = value.get(name)
    if not isinstance(text, str):
        raise _without(name)
    return one_line(text)


def whole_member(value: Answer, name: str) -> int:
    """A member that is a whole number.

    Raises:
        NotCommuCatError: it is none.
    """
    number = value.get(name)
    if not isinstance(number, int) or isinstance(number, bool):
        raise _without(name)
    return number


def object_member(value: Answer, name: str) -> Answer:
    """A member that is an object.

    Raises:
        NotCommuCatError: it is none.
    """
    found = value.get(name)
    if not isinstance(found, dict):
        raise _without(name)
    return found


def object_members(value: Answer, name: str) -> Sequence[Answer]:
    """A member that is a list of objects.

    Raises:
        NotCommuCatError: it is none.
    """
    found = value.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise _without(name)
    return found


def _without(name: str) -> NotCommuCatError:
    return NotCommuCatError(f"the server's answer has no {name}")
