"""A file of key events that were taken out of the store: one JSON object a line."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from commucat_storage.records import KeyEvent

ARCHIVE_NAME: Final = "key-events.jsonl"
FILE_MODE: Final = 0o600


class ArchiveError(Exception):
    """An archive of key events is not one."""


def append_events(path: Path, events: Sequence[KeyEvent]) -> bytes:
    """Append events and wait for the disk; returns their lines. Blocks.

    What an interrupted attempt left without newline is ended first.

    Raises:
        OSError: they are not, or not wholly, in the file.
    """
    lines = content = b"".join(_line(event) for event in events)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            content = b"\n" + content
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return lines


def read_archive(path: Path) -> list[KeyEvent]:
    """Events of an archive, each once, in their order; a torn line is passed over, for its events were not
    deleted. No events if there is no file. Blocks.

    Raises:
        ArchiveError: a line that was once whole is damaged.
        OSError: it cannot be read.
    """
    events: dict[str, KeyEvent] = {}
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return []
    with file:
        for number, line in enumerate(file, start=1):
            try:
                event = _event(line)
            except (KeyError, TypeError, ValueError) as exc:
                if not line.rstrip().endswith(b"}"):
                    continue
                raise ArchiveError(f"{path} line {number}: not a key event") from exc
            events[event.event_id] = event
    return list(events.values())


def _line(event: KeyEvent) -> bytes:
    value = {
        "event_id": event.event_id,
        "device_id": event.device_id,
        "public_key": event.public_key.hex(),
        "recorded_at": event.recorded_at,
    }
    return json.dumps(value).encode() + b"\n"


def _event(line: bytes) -> KeyEvent:
    value = json.loads(line)
    event_id, device_id, recorded_at = value["event_id"], value["device_id"], value["recorded_at"]
    if not (isinstance(event_id, str) and isinstance(device_id, str) and type(recorded_at) is int):
        raise TypeError
    return KeyEvent(
        event_id=event_id,
        device_id=device_id,
        public_key=bytes.fromhex(value["public_key"]),
        recorded_at=recorded_at,
    )
