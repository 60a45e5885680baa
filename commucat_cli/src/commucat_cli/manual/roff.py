"""Manual pages (section 1) in the man macro package of roff."""

from commucat_cli.manual.tree import PROGRAM, CommandText, OptionText

EXIT_STATUS = (
    ("0", "It is done."),
    ("1", "It failed; one line on standard error says what, where, and what to do."),
    ("2", "The command line cannot be understood."),
    ("130", "It was interrupted."),
)


def page_name(command: CommandText) -> str:
    """The file of a command's page."""
    return "-".join((PROGRAM, *command.path)) + ".1"


def page(command: CommandText, version: str) -> str:
    """The manual page of a command."""
    title = "-".join((PROGRAM, *command.path)).upper()
    lines = [
        f'.TH "{_text(title)}" "1" "" "{_text(f"CommuCat {version}")}" "CommuCat"',
        ".SH NAME",
        f"{_text('-'.join((PROGRAM, *command.path)))} \\- {_text(command.summary)}",
        ".SH SYNOPSIS",
        f".B {_text(command.name)}",
        *_synopsis(command),
        ".SH DESCRIPTION",
    ]
    for index, paragraph in enumerate(command.paragraphs):
        lines += [".PP"] if index else []
        lines.append(_line(paragraph))
    if command.arguments:
        lines.append(".SH ARGUMENTS")
        for argument in command.arguments:
            choices = f" One of: {', '.join(argument.choices)}." if argument.choices else ""
            lines += [".TP", f".I {_text(argument.name)}", _line(f"{argument.text}{choices}" or "See above.")]
    if command.children:
        lines.append(".SH COMMANDS")
        for child in command.children:
            lines += [".TP", f".BR {_text('-'.join((PROGRAM, *child.path)))} (1)", _line(child.summary)]
    if command.options:
        lines.append(".SH OPTIONS")
        for option in command.options:
            lines += [".TP", _option(option), _line(option.text or "See above.")]
    lines.append(".SH EXIT STATUS")
    for status, meaning in EXIT_STATUS:
        lines += [".TP", f".B {status}", _line(meaning)]
    if command.path:
        above = "-".join((PROGRAM, *command.path[:-1]))
        lines += [".SH SEE ALSO", f".BR {_text(above)} (1)"]
    return "\n".join(lines) + "\n"


def _synopsis(command: CommandText) -> list[str]:
    parts = []
    if command.options:
        parts.append("[\\fIOPTIONS\\fR]")
    parts += [f"\\fI{_text(argument.name)}\\fR" for argument in command.arguments]
    if command.children:
        parts.append("\\fICOMMAND\\fR")
    return [" ".join(parts)] if parts else []


def _option(option: OptionText) -> str:
    names = ", ".join(f"\\fB{_text(name)}\\fR" for name in option.names)
    return names if option.value is None else f"{names} \\fI{_text(option.value)}\\fR"


def _line(text: str) -> str:
    # A line that begins with one of these would be a request to roff.
    escaped = _text(text)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _text(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
