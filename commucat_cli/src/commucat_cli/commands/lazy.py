"""A group of commands that are imported when they are used."""

from collections.abc import Iterator, MutableMapping
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_group

from commucat_cli.commands.places import PLACES, Place

PLAIN: Final[dict[str, Any]] = {
    "add_completion": False,
    # Errors are one plain line on standard error; boxes and tracebacks help nobody in a log.
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}
"""What every program and group of ours is made with."""


# Any: the class of commands is one of the library's private names.
class _Commands(MutableMapping[str, Any]):
    """All commands by name; whoever takes one out has it imported."""

    def __init__(self, places: dict[str, Place]) -> None:
        self._places = places
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _load(name, self._places[name])
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        raise TypeError("commands are entered in commucat_cli.commands.places")

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands are entered in commucat_cli.commands.places")

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class LazyGroup(TyperGroup):
    """The commands of :data:`PLACES`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Commands(PLACES)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names only: nothing is imported for them."""
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        """Take off what the library puts before the reason why a value is wrong."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as exc:
            exc.message = exc.message.removeprefix("Value error, ")
            raise


def _load(name: str, place: Place) -> Any:
    found = place.load()
    # A program of one command: it passes on how help and errors look.
    program = typer.Typer(**PLAIN)
    if isinstance(found, typer.Typer):
        program.add_typer(found, name=name, hidden=place.hidden)
    else:
        assert callable(found)
        program.command(name, hidden=place.hidden)(found)
    return get_group(program).commands[name]
