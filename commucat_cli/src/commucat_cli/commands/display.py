"""A received message as a line of text or of JSON."""

import contextlib
import json
from datetime import UTC, datetime

from commucat_cli.client import ReceivedMessage
from commucat_cli.terminal import one_line, printable, printable_json

_MAX_TIME = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z, the last moment that has a calendar date


def json_line(message: ReceivedMessage) -> str:
    """One JSON object and a newline, safe for a terminal."""
    document: dict[str, object] = {
        "from": message.sender,
        "channel": message.channel,
        "sequence": message.number,
        "id": message.message_id.hex(),
        "sent_at": _rfc3339(message.sent_at),
        "text": message.text,
    }
    if (note := message.attachment) is not None:
        saved = None if message.saved is None else str(message.saved)
        document["attachment"] = {"name": note.name, "size": note.size, "saved": saved}
    return printable_json(json.dumps(document, ensure_ascii=False)) + "\n"


def text_line(message: ReceivedMessage) -> str:
    """Local time, sender and text; further lines of the text are indented."""
    when = "?"
    if message.sent_at <= _MAX_TIME:
        moment = datetime.fromtimestamp(message.sent_at / 1000, UTC)
        # East of Greenwich the calendar ends some hours earlier.
        with contextlib.suppress(OverflowError):
            when = moment.astimezone().strftime("%Y-%m-%d %H:%M")
    text = printable(_readable(message)).replace("\n", "\n    ")
    return f"[{when}] {printable(message.sender)}: {text}\n"


def _rfc3339(milliseconds: int) -> str | None:
    """None for a time beyond the calendar; a sender may write what it likes."""
    if milliseconds > _MAX_TIME:
        return None
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def _readable(message: ReceivedMessage) -> str:
    """The text; of an attachment that was not saved also what is needed to fetch it later."""
    note = message.attachment
    if note is None:
        return message.text
    name = one_line(note.name)
    if message.saved is not None:
        return f"[attachment {name}, {note.size} bytes, saved as {message.saved}]"
    return f"[attachment {name}, {note.size} bytes, not saved; listen --save DIR saves]\n{message.text}"
