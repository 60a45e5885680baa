"""Whom a frame is meant for, and who may be reached by whom; nothing is written here."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from commucat_storage.chat_group import ChatGroup
from commucat_storage.device_inbox import Inbox
from commucat_storage.inbox import RefusalReason
from commucat_storage.ports import ChatGroups, Inboxes

_MAX_NAMES: Final = 2_000
"""Names of a device's routes and groups that are looked at for somebody of a domain: a message of a peer must
not cost more than that."""


class Audiences:
    """Answers by the routes and groups as they stand in the open transaction."""

    def __init__(self, inboxes: Inboxes, groups: ChatGroups) -> None:
        self._inboxes = inboxes
        self._groups = groups

    def meant_by(
        self,
        sender: str,
        channel: int,
        named: tuple[str, ...] | None,
        group_id: str | None = None,
        group_home: str | None = None,
    ) -> tuple[RefusalReason | None, tuple[str, ...], ChatGroup | None]:
        """Why the sender may not send at all; the recipients meant; the group the channel is bound to.

        ``group_id``: the group that the sender names; ``group_home``: who tells of it.
        """
        route = group = None
        if group_id is not None and group_home is not None:
            group = self._groups.get(group_id)
            if group is not None and group.home != group_home:
                return RefusalReason.NOT_ALLOWED, (), None
        elif group_id is not None and sender:
            if self._inboxes.get(sender).refusal is RefusalReason.REVOKED:
                return RefusalReason.REVOKED, (), None
            group = self._groups.get(group_id)
            if group is None or sender not in group.members:
                return RefusalReason.NOT_MEMBER, (), None
        elif sender and sender[0] != "@":
            origin = self._inboxes.get(sender)
            if origin.refusal is RefusalReason.REVOKED:
                return RefusalReason.REVOKED, (), None
            route = origin.routes.get(channel)
            if route is not None and route.group_id is not None:
                group = self._groups.get(route.group_id)
                if group is None or sender not in group.members:
                    return RefusalReason.NOT_MEMBER, (), None
        if named is None:
            if group is not None:
                named = group.device_ids()
            elif route is not None:
                named = tuple(sorted(route.members))
            else:
                return RefusalReason.NO_ROUTE, (), None
        if len(named) > 1:
            named = tuple(dict.fromkeys(named))
            self._inboxes.prefetch(named)
        return None, named, group

    def conflict(
        self,
        inbox: Inbox,
        device_id: str,
        sender: str,
        channel: int,
        group: ChatGroup | None,
        *,
        by_home: bool = False,
    ) -> RefusalReason | None:
        """Why a frame of this sender may not reach the device on this channel. ``by_home``: the group's home
        tells of the group, to whom it concerns. What another server itself tells, which is none of a
        conversation, no route shuts out."""
        if inbox.refusal is not None:
            return inbox.refusal
        if group is not None and not by_home and device_id not in group.members:
            return RefusalReason.NOT_MEMBER
        if sender and inbox.routes and (sender[0] != "@" or (by_home and channel)):
            route = inbox.routes.get(channel)
            if (
                route is not None
                and sender not in route.members
                and (group is None or route.group_id != group.group_id)
            ):
                return RefusalReason.CHANNEL_CONFLICT
        return None

    def is_stranger(
        self, sender: str, inbox: Inbox, channel: int, on_behalf: str = "", group: ChatGroup | None = None
    ) -> bool:
        """Whether the receiver has no relation to the sender, so that its rows come out of a small share.

        ``on_behalf``: the address of the sender's user, if that is one of another server; ``group``: to which
        it writes, as a member or as its home. To another server, ``@domain``, a device has a relation if it
        has one to anybody there.
        """
        if group is not None and group.group_id in inbox.accepted_groups:
            return False
        if sender[0] == "@":
            return not any(name.endswith(sender) for name in islice(self._related_to(inbox), _MAX_NAMES))
        routes = inbox.routes
        if routes and (route := routes.get(channel)) is not None and sender in route.members:
            return False
        origin = self._inboxes.get(sender)
        return not (
            (origin.known and (origin.user_id == inbox.user_id or origin.user_id in inbox.friends))
            or (on_behalf and on_behalf in inbox.friends)
            or not inbox.accepted_groups.isdisjoint(origin.groups)
            or any(sender in route.members for route in routes.values())
        )

    def _related_to(self, inbox: Inbox) -> Iterator[str]:
        """Users and devices that the device has a relation to."""
        yield from inbox.friends
        for route in inbox.routes.values():
            yield from route.members
        for group_id in inbox.accepted_groups:
            group = self._groups.get(group_id)
            if group is not None:
                yield from group.members
