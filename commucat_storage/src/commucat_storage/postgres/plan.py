"""Which devices and groups a transaction will need, as far as it can be told beforehand."""

from collections.abc import Sequence

import attrs

from commucat_storage.federation import domain_of, outbox_of
from commucat_storage.inbox import (
    ChangeGroup,
    Confirm,
    CreateGroup,
    DropRoute,
    GroupAction,
    InviteMember,
    JoinRoom,
    Once,
    Operation,
    ReplaceReplica,
    Resolve,
    SetRoute,
    Submission,
)
from commucat_storage.marks import Name
from commucat_storage.postgres.loaded import NotLoadedError
from commucat_storage.postgres.remembered import Generations, KnownGroup, Relations
from commucat_storage.rooms import room_id


@attrs.define
class Plan:
    """What to lock and load."""

    devices: set[str] = attrs.Factory(set)
    groups: set[str] = attrs.Factory(set)
    owners: set[str] = attrs.Factory(set)
    """Devices that create a group: how many they own must be counted."""
    ending: set[str] = attrs.Factory(set)
    """Groups that may end: whoever has a route to one loses it."""
    users: set[str] = attrs.Factory(set)
    """Users whose devices must be listed."""
    names: set[Name] = attrs.Factory(set)
    """Of messages that are stored once: whether they were must be looked up."""
    operations: int = 0
    stepwise: bool = False
    """Write after each operation, so that counts are exact before the next."""
    relating: bool = False
    """Routes or groups are to be changed."""

    def extend(self, missing: NotLoadedError) -> None:
        """Add what turned out to be missing."""
        self.devices |= missing.devices
        self.groups |= missing.groups
        self.ending |= missing.ending
        self.users |= missing.users
        self.names |= missing.names
        self.stepwise |= missing.stepwise


class Planner:
    """Reads operations, and guesses from what is remembered; a wrong guess costs a second attempt."""

    def __init__(
        self,
        relations: Generations[Relations],
        groups: Generations[KnownGroup],
        siblings: Generations[tuple[str, ...]],
    ) -> None:
        self._relations = relations
        self._groups = groups
        self._siblings = siblings

    def read(self, batches: Sequence[Sequence[Operation]]) -> Plan:
        """The plan for these batches in one transaction."""
        plan = Plan()
        for batch in batches:
            plan.operations += len(batch)
            for operation in batch:
                self._read(operation, plan)
        remote = [device_id for device_id in plan.devices if "@" in device_id]
        if remote:
            plan.devices.difference_update(remote)
            plan.devices.update(outbox_of(domain_of(each) or "") for each in remote)
        return plan

    def _read(self, operation: Operation, plan: Plan) -> None:
        match operation:
            case Submission(sender=sender, channel=channel, recipients=recipients):
                self._read_sender(sender, channel, plan, routed=recipients is None)
                if operation.copies:
                    self._read_siblings(sender, plan)
                if recipients is not None:
                    plan.devices.update(recipients)
                if operation.group_id is not None:
                    self._read_group(operation.group_id, plan, to_all=False)
                _read_once(operation.once, plan)
            case Confirm(device_id=device_id):
                plan.devices.add(device_id)
            case DropRoute(device_id=device_id, channel=channel):
                plan.relating = True
                self._read_replaced(device_id, channel, plan)
            case Resolve(sender=sender, channel=channel):
                self._read_sender(sender, channel, plan, routed=True)
            case JoinRoom():
                plan.relating = True
                plan.devices |= {operation.device_id, *operation.members}
                self._read_group(room_id(operation.channel), plan, to_all=True)
            case SetRoute(device_id=device_id, channel=channel, route=route):
                plan.relating = True
                self._read_replaced(device_id, channel, plan)
                if route.group_id is not None:
                    plan.groups.add(route.group_id)
            case CreateGroup():
                plan.relating = True
                plan.devices.update(device_id for device_id, _ in operation.roles)
                plan.devices.add(operation.sender)
                plan.owners.add(operation.sender)
                plan.groups.add(operation.group_id)
            case InviteMember() | ChangeGroup():
                plan.relating = True
                plan.devices |= {operation.sender, operation.device_id}
                self._read_group(operation.group_id, plan, to_all=True)
                _read_once(operation.once, plan)
                if isinstance(operation, ChangeGroup) and operation.action is GroupAction.LEAVE:
                    plan.ending.add(operation.group_id)

            case ReplaceReplica():
                plan.relating = True
                plan.devices.update(device_id for device_id, _ in operation.members if "@" not in device_id)
                self._read_group(operation.group_id, plan, to_all=True)
                _read_once(operation.once, plan)
                if all("@" in device_id for device_id, _ in operation.members):
                    plan.ending.add(operation.group_id)

    def _read_sender(self, sender: str, channel: int, plan: Plan, *, routed: bool) -> None:
        if not sender or "@" in sender:  # nothing of a device of another server is here
            return
        plan.devices.add(sender)
        known = self._relations.get(sender)
        route = None if known is None else known.routes.get(channel)
        if route is None:
            return
        if route.group_id is not None:
            self._read_group(route.group_id, plan, to_all=routed)
        elif routed:
            plan.devices |= route.members

    def _read_siblings(self, device_id: str, plan: Plan) -> None:
        known = self._relations.get(device_id)
        if known is not None and known.user_id:
            plan.users.add(known.user_id)
            plan.devices.update(self._siblings.get(known.user_id) or ())

    def _read_replaced(self, device_id: str, channel: int, plan: Plan) -> None:
        """A route of the device ends; if it led to an open room, the room may end with it."""
        plan.devices.add(device_id)
        room = room_id(channel)
        known = self._relations.get(device_id)
        if known is not None and room in known.groups:
            self._read_group(room, plan, to_all=True)
            plan.ending.add(room)

    def _read_group(self, group_id: str, plan: Plan, *, to_all: bool) -> None:
        plan.groups.add(group_id)
        known = self._groups.get(group_id)
        if known is not None and to_all:
            plan.devices.update(known.group.members)


def _read_once(once: Once | None, plan: Plan) -> None:
    if once is not None:
        plan.names.add((once.scope, once.key))
