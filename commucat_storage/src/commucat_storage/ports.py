"""What the rules of a transaction need of a backend."""

from collections.abc import Iterable
from typing import Protocol

from commucat_storage.chat_group import ChatGroup
from commucat_storage.device_inbox import Inbox
from commucat_storage.records import GroupRole


class Inboxes(Protocol):
    """Inboxes by device id, as they stand in the open transaction."""

    def get(self, device_id: str) -> Inbox:
        """The inbox of the device; one that refuses, and is not ``known``, for an unknown device."""
        ...

    def prefetch(self, device_ids: Iterable[str]) -> None:
        """These will be asked for."""
        ...

    def remembered(self, device_id: str) -> Inbox | None:
        """The inbox if it is in memory; does not load it."""
        ...

    def siblings(self, user_id: str) -> tuple[str, ...]:
        """The active devices of a user, in a fixed order."""
        ...

    def weigh(self, added: int) -> None:
        """Count members of a route, or groups, that were added to a remembered inbox."""
        ...


class ChatGroups(Protocol):
    """Groups by id, as they stand in the open transaction, and the ways to change them."""

    def get(self, group_id: str) -> ChatGroup | None:
        """The group, or None when there is none."""
        ...

    def create(
        self,
        group_id: str,
        members: dict[str, GroupRole],
        accepting: set[str],
        *,
        relay: bool,
        created_at: int,
        home: str | None = None,
        revision: int = 1,
    ) -> ChatGroup:
        """Insert a group that does not exist yet; ``accepting`` are the members that want to be in it."""
        ...

    def advance(self, group: ChatGroup, revision: int) -> None:
        """The members were changed: write the new revision."""
        ...

    def add(self, group: ChatGroup, device_id: str, role: GroupRole, *, accepted: bool) -> None:
        """Insert one more member."""
        ...

    def remove(self, group: ChatGroup, device_id: str) -> None:
        """Delete a member."""
        ...

    def accept(self, device_id: str, inbox: Inbox, group_id: str) -> None:
        """The member has joined the group itself."""
        ...

    def set_role(self, group: ChatGroup, device_id: str, role: GroupRole) -> None:
        """Change a member's role. There is never more than one owner: lower the old one first."""
        ...

    def delete(self, group: ChatGroup) -> list[tuple[str, int]]:
        """Delete the group with its members and the routes to it; (device id, channel) of the routes."""
        ...

    def is_accepted(self, group: ChatGroup) -> bool:
        """Whether any of the members has joined the group itself."""
        ...

    def owned_by(self, device_id: str) -> int:
        """How many groups the device owns."""
        ...
