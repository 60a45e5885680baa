"""Whether Redis is of use now, and how often it was not."""

from collections.abc import Callable
from typing import TypeAlias

from commucat_storage.bus import BusCounters
from commucat_storage.redis.trouble import TroubleError

Tell: TypeAlias = Callable[[str | None], None]
"""Called with one line when something begins to be wrong, or something else is; with None when nothing is."""


class Health:
    """The state of the parts that have a connection of their own."""

    def __init__(self, tell: Tell) -> None:
        self.counters = BusCounters()
        self._tell = tell
        self._wrong: dict[str, TroubleError] = {}
        self._closed = False

    def well(self, part: str) -> None:
        """The part works."""
        if self._wrong.pop(part, None) is not None and not self._wrong and not self._closed:
            self._tell(None)

    def failed(self, part: str, trouble: TroubleError) -> None:
        """The part's connection failed, or could not be made."""
        self.count_error()
        self.refused(part, trouble)

    def refused(self, part: str, trouble: TroubleError) -> None:
        """The part is connected, but of no use."""
        known = {each.short for each in self._wrong.values()}
        self._wrong[part] = trouble
        # Once for each kind of trouble: attempts repeat for hours, and both parts meet the same.
        if trouble.short not in known and not self._closed:
            self._tell(str(trouble))

    def close(self) -> None:
        """Connections that end from now on are ended by us: nothing is told any more."""
        self._closed = True

    def count_error(self) -> None:
        self.counters.errors += 1

    def line(self) -> str | None:
        """None, or what is wrong, for anybody to read."""
        return next((trouble.short for trouble in self._wrong.values()), None)
