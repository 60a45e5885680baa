"""Text that PostgreSQL cannot hold: the NUL character, and surrogates that stand alone.

Names come from other people's frames and may be any text; a name that no device can have must be refused
by name, not end a transaction. So each such character is stored as an escape: U+E000, a character
without a meaning, and four hexadecimal digits. U+E000 itself is escaped too, so nothing is ambiguous.
"""

import re

_ESCAPE = "\ue000"
_UNSTORABLE = re.compile("[\0\ud800-\udfff\ue000]")
_ESCAPED = re.compile("\ue000([0-9a-f]{4})")


def to_database(text: str) -> str:
    """The text as it is stored."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub(lambda found: f"{_ESCAPE}{ord(found[0]):04x}", text)


def from_database(text: str) -> str:
    """The text that was stored."""
    if _ESCAPE not in text:
        return text
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
