"""The commands as data: what there is, with its options and the text that ``--help`` shows."""

import enum
import inspect
from collections.abc import Iterator
from typing import Any, Final

import attrs
import typer

PROGRAM: Final = "commucat-cli"
EVERYWHERE: Final = "--help"
_KINDS: Final[dict[type, str]] = {int: "N", float: "NUMBER"}


@attrs.frozen(kw_only=True)
class OptionText:
    """One option of a command."""

    names: tuple[str, ...]
    value: str | None
    """What stands for its value; None for a switch."""
    text: str
    required: bool
    choices: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ArgumentText:
    """One argument of a command."""

    name: str
    text: str
    choices: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class CommandText:
    """A command or a group of commands."""

    path: tuple[str, ...]
    """Below the program, which has the empty one."""
    summary: str
    """Its first sentence."""
    paragraphs: tuple[str, ...]
    options: tuple[OptionText, ...]
    arguments: tuple[ArgumentText, ...]
    children: tuple["CommandText", ...]

    @property
    def name(self) -> str:
        return " ".join((PROGRAM, *self.path))

    def walk(self) -> Iterator["CommandText"]:
        """This one and everything below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def tree_of(app: typer.Typer) -> CommandText:
    """The whole tree of a program, without what is hidden."""
    return _command(typer.main.get_command(app), ())


def _command(command: Any, path: tuple[str, ...]) -> CommandText:
    paragraphs = _paragraphs(command.help or "")
    parameters = [each for each in command.params if not getattr(each, "hidden", False)]
    children = [
        _command(child, (*path, name))
        for name, child in sorted(getattr(command, "commands", {}).items())
        if not child.hidden
    ]
    return CommandText(
        path=path,
        summary=_first_sentence(paragraphs[0]) if paragraphs else "",
        paragraphs=paragraphs,
        options=tuple(_option(each) for each in parameters if each.param_type_name == "option"),
        arguments=tuple(
            ArgumentText(
                name=each.metavar or str(each.name).upper(),
                text=_one_line(getattr(each, "help", None) or ""),
                choices=_choices(each),
            )
            for each in parameters
            if each.param_type_name == "argument"
        ),
        children=tuple(children),
    )


def _option(option: Any) -> OptionText:
    text = _one_line(option.help or "")
    value = None
    if not (option.is_flag or option.count):
        value = option.metavar or _kind(option)
    if option.envvar:
        text += f" Environment variable: {option.envvar}."
    if option.show_default is not False and option.default not in (None, False, ()) and value is not None:
        default = getattr(option.default, "value", option.default)
        if not callable(default):
            text += f" Default: {default}."
    return OptionText(
        names=(*option.opts, *option.secondary_opts),
        value=value,
        text=text,
        required=bool(option.required),
        choices=_choices(option),
    )


def _choices(parameter: Any) -> tuple[str, ...]:
    kind = _annotation(parameter)
    return tuple(str(each.value) for each in kind) if issubclass(kind, enum.Enum) else ()


def _kind(parameter: Any) -> str:
    return _KINDS.get(_annotation(parameter), "TEXT")


def _annotation(parameter: Any) -> type:
    """What the command's function takes; ``str`` where that is not a plain class."""
    found = getattr(getattr(parameter, "type_descriptor", None), "annotation", str)
    return found if isinstance(found, type) else str


def _paragraphs(text: str) -> tuple[str, ...]:
    cleaned = inspect.cleandoc(text).split("\n\n")
    return tuple(paragraph for each in cleaned if (paragraph := _one_line(each)))


def _first_sentence(text: str) -> str:
    for mark in (". ", ": "):
        text = text.partition(mark)[0]
    return text.removesuffix(".")


def _one_line(text: str) -> str:
    return " ".join(text.split())
