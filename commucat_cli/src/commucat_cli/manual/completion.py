"""Completion scripts for shells. They hold all words themselves: pressing Tab starts no program."""

import enum
import shlex

from commucat_cli.manual.tree import EVERYWHERE, PROGRAM, CommandText


class Shell(enum.StrEnum):
    """Shells that completion is offered for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def script(root: CommandText, shell: Shell) -> str:
    """The script that the shell is to read."""
    return {Shell.BASH: _bash, Shell.ZSH: _zsh, Shell.FISH: _fish}[shell](root)


def words_of(command: CommandText) -> list[str]:
    """What may come next, beside names of files."""
    options = [name for option in command.options for name in option.names if name.startswith("--")]
    choices = [choice for argument in command.arguments for choice in argument.choices]
    return sorted({*(child.path[-1] for child in command.children), *choices, *options, EVERYWHERE})


def _place(command: CommandText) -> str:
    return "".join(f" {name}" for name in command.path)


def _cases(root: CommandText) -> tuple[str, list[tuple[str, list[str]]]]:
    """A pattern of all places below the root, and the words at each place."""
    commands = list(root.walk())
    known = "|".join(f'"{_place(command)}"' for command in commands if command.path)
    return known, [(_place(command), words_of(command)) for command in commands]


def _bash(root: CommandText) -> str:
    known, places = _cases(root)
    lines = [
        "# Completion of commucat-cli for bash.",
        "_commucat_cli() {",
        '    local current="${COMP_WORDS[COMP_CWORD]}" place="" word words=""',
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        '        case "$place $word" in',
        f'            {known}) place="$place $word" ;;',
        "        esac",
        "    done",
        '    case "$place" in',
        *(f'        "{place}") words="{" ".join(words)}" ;;' for place, words in places),
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        # Without a match of ours: names of files.
        f"complete -o default -F _commucat_cli {PROGRAM}",
    ]
    return "\n".join(lines) + "\n"


def _zsh(root: CommandText) -> str:
    known, places = _cases(root)
    lines = [
        f"#compdef {PROGRAM}",
        "# Completion of commucat-cli for zsh.",
        "_commucat_cli() {",
        '    local place="" word',
        "    local -a found",
        '    for word in "${(@)words[2,CURRENT-1]}"; do',
        '        case "$place $word" in',
        f'            ({known}) place="$place $word" ;;',
        "        esac",
        "    done",
        '    case "$place" in',
        *(f'        ("{place}") found=({" ".join(words)}) ;;' for place, words in places),
        "    esac",
        "    compadd -a found || _files",
        "}",
        f"compdef _commucat_cli {PROGRAM}",
    ]
    return "\n".join(lines) + "\n"


def _fish(root: CommandText) -> str:
    known = [_place(command) for command in root.walk() if command.path]
    lines = [
        "# Completion of commucat-cli for fish.",
        "function __commucat_cli_at",
        "    set -l place ''",
        "    for word in (commandline -opc)[2..-1]",
        f'        if contains -- "$place $word" {" ".join(map(shlex.quote, known))}',
        '            set place "$place $word"',
        "        end",
        "    end",
        '    test "$place" = "$argv[1]"',
        "end",
    ]
    for command in root.walk():
        place = f"-n '__commucat_cli_at \"{_place(command)}\"'"
        for child in command.children:
            told = f"-d {_fish_text(child.summary)}"
            lines.append(f"complete -c {PROGRAM} -f {place} -a {child.path[-1]} {told}")
        for argument in command.arguments:
            if argument.choices:
                lines.append(f"complete -c {PROGRAM} -f {place} -a {_fish_text(' '.join(argument.choices))}")
        for option in command.options:
            long = [name.removeprefix("--") for name in option.names if name.startswith("--")]
            value = "" if option.value is None else " -r"
            lines += [
                f"complete -c {PROGRAM} {place} -l {name}{value} -d {_fish_text(option.text)}"
                for name in long
            ]
    return "\n".join(lines) + "\n"


def _fish_text(text: str) -> str:
    """Quoted for fish, whose single quotes know two escapes."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
