"""What the configuration can have wrong, told in one line."""

_SHOWN = 60


class ConfigError(Exception):
    """The configuration cannot be used.

    The text is one printable line: where the setting came from, its key, what is wrong,
    what to do. It never holds the value of a secret.
    """

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class FlagError(ConfigError):
    """It is a flag of the command line that cannot be used."""


class InvalidValueError(ValueError):
    """A value is out of range. The loader adds where it came from and makes a :class:`ConfigError` of it.

    ``key`` is the attribute of the section, None where the raiser cannot know it.
    """

    def __init__(self, text: str, *, key: str | None = None) -> None:
        super().__init__(text)
        self.key = key


def one_line(text: str) -> str:
    """Escape everything that would break a line or a terminal, lone surrogates included."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def described(value: object) -> str:
    """Name a value for an error message, in bounded length and without descending into containers."""
    match value:
        case str():
            shown = value if len(value) <= _SHOWN else value[:_SHOWN] + "..."
            return f'"{shown}"'
        case bool():
            return "true" if value else "false"
        case int():
            # Python refuses to print integers of thousands of digits.
            return str(value) if value.bit_length() <= 64 else "a very large number"
        case float():
            return str(value)
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"
