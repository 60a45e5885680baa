"""One group of devices, as the open transaction of a backend sees it."""

from commucat_storage.records import GroupRole


class ChatGroup:
    """The members of one group, including what the open transaction has changed."""

    __slots__ = ("_sorted", "group_id", "home", "members", "relay", "revision")

    def __init__(
        self,
        group_id: str,
        members: dict[str, GroupRole],
        *,
        home: str | None = None,
        revision: int = 0,
        relay: bool = True,
    ) -> None:
        self.group_id = group_id
        self.members = members
        self.home = home
        """The domain of the server that owns the group; None: this one."""
        self.revision = revision
        """Rises with each change of the members."""
        self.relay = relay
        self._sorted: tuple[str, ...] | None = None

    def device_ids(self) -> tuple[str, ...]:
        """All members in a fixed order; sorted once, not for every message."""
        if self._sorted is None:
            self._sorted = tuple(sorted(self.members))
        return self._sorted

    def changed(self) -> None:
        """Call after members came or went."""
        self._sorted = None
