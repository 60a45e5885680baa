"""Changing the routes of devices: which are allowed, and what is remembered of them."""

import abc

from commucat_storage.device_inbox import Inbox
from commucat_storage.inbox import DropRoute, JoinRoom, RefusalReason, RouteOutcome, SetRoute
from commucat_storage.limits import StoreLimits
from commucat_storage.ports import ChatGroups, Inboxes
from commucat_storage.records import Route
from commucat_storage.room_members import RoomMembers
from commucat_storage.rooms import room_id

_STORED = RouteOutcome()


class Routes(abc.ABC):
    """Routes as they stand in the open transaction; a backend says how a change is written."""

    def __init__(self, inboxes: Inboxes, groups: ChatGroups, limits: StoreLimits) -> None:
        self._inboxes = inboxes
        self._groups = groups
        self._limits = limits
        self._rooms = RoomMembers(inboxes, groups, limits)

    @abc.abstractmethod
    def _write(self, device_id: str, channel: int, route: Route) -> None:
        """Insert or replace the row."""

    @abc.abstractmethod
    def _delete(self, device_id: str, channel: int) -> None:
        """Delete the row."""

    def set(self, operation: SetRoute) -> RouteOutcome:
        """Join: replace the route of the device on the channel."""
        inbox = self._inboxes.get(operation.device_id)
        refused = inbox.refusal
        if refused is None and operation.route.group_id is not None:
            refused = self._refuse_group(operation.device_id, operation.route.group_id)
        if refused is None:
            refused = self.refusal(inbox, operation.channel, operation.route)
        if refused is not None:
            return RouteOutcome(refused)
        self.store(operation.device_id, inbox, operation.channel, operation.route)
        if operation.route.group_id is not None:
            self._groups.accept(operation.device_id, inbox, operation.route.group_id)
        return _STORED

    def join_room(self, operation: JoinRoom) -> RouteOutcome:
        """Join: the channel's open room, and a route to it."""
        inbox = self._inboxes.get(operation.device_id)
        route = Route(group_id=room_id(operation.channel), relay=operation.relay)
        refused = (
            inbox.refusal or self.refusal(inbox, operation.channel, route) or self._rooms.refusal(operation)
        )
        if refused is not None:
            return RouteOutcome(refused)
        self._rooms.enter(operation)
        self.store(operation.device_id, inbox, operation.channel, route)
        return _STORED

    def drop(self, operation: DropRoute) -> RouteOutcome:
        """Leave: remove the route of the device on the channel."""
        inbox = self._inboxes.get(operation.device_id)
        if inbox.refusal is RefusalReason.UNKNOWN_DEVICE:
            return RouteOutcome(inbox.refusal)
        if self._forget(inbox, operation.channel):
            self._delete(operation.device_id, operation.channel)
        self.forget_deleted(self._rooms.leave(operation.device_id, operation.channel))
        return _STORED

    def refusal(self, inbox: Inbox, channel: int, route: Route) -> RefusalReason | None:
        """Whether the device's limits leave room for the route."""
        replaced = inbox.routes.get(channel)
        if replaced is None and len(inbox.routes) >= self._limits.max_routes:
            return RefusalReason.TOO_MANY_ROUTES
        # A limit that was lowered since does not forbid to shrink.
        allowed = max(self._limits.max_route_members, inbox.route_members)
        members = inbox.route_members - (len(replaced.members) if replaced else 0) + len(route.members)
        return RefusalReason.TOO_MANY_ROUTES if members > allowed else None

    def store(self, device_id: str, inbox: Inbox, channel: int, route: Route) -> None:
        """Write a route that was found to be allowed; leaves the open room to which the one before led."""
        replaced = inbox.routes.get(channel)
        self._write(device_id, channel, route)
        self._forget(inbox, channel)
        inbox.routes[channel] = route
        inbox.route_members += len(route.members)
        self._inboxes.weigh(len(route.members))
        room = room_id(channel)
        if replaced is not None and replaced.group_id == room != route.group_id:
            self.forget_deleted(self._rooms.leave(device_id, channel))

    def forget_deleted(self, routes: list[tuple[str, int]]) -> None:
        """Drop routes from memory that the database has deleted with their group."""
        for device_id, channel in routes:
            inbox = self._inboxes.remembered(device_id)
            if inbox is not None:
                self._forget(inbox, channel)

    def _refuse_group(self, device_id: str, group_id: str) -> RefusalReason | None:
        group = self._groups.get(group_id)
        if group is None:
            return RefusalReason.GROUP_UNKNOWN
        return None if device_id in group.members else RefusalReason.NOT_MEMBER

    def _forget(self, inbox: Inbox, channel: int) -> bool:
        dropped = inbox.routes.pop(channel, None)
        if dropped is not None:
            inbox.route_members -= len(dropped.members)
        return dropped is not None
