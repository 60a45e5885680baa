"""The time of day of a server, set by libfaketime."""

import glob
from pathlib import Path

import attrs

DAY = 86_400
HOUR = 3600


@attrs.define
class Clock:
    """The time of day of one server; what it measures time spans with goes on undisturbed."""

    file: Path

    def set(self, days: int = 0, hours: int = 0) -> None:
        """So far from the real time."""
        self.file.write_text(f"{days * DAY + hours * HOUR:+d}s\n")

    @property
    def prefix(self) -> tuple[str, ...]:
        """Has a command run under this clock."""
        [library] = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
        return (
            "env",
            f"LD_PRELOAD={library}",
            f"FAKETIME_TIMESTAMP_FILE={self.file}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "NO_FAKE_STAT=1",
        )
