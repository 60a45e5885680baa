"""Who must get which frame: the rules of docs/protocol.md in a few dictionaries, without a server.

Only what clients can see is kept: routes, groups, what each inbox was given, and who may know of whom.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from commucat_proto import FrameType

RANKS = ("member", "admin", "co-owner", "owner")


@attrs.frozen
class ModelRoute:
    """Named devices, or a group."""

    members: frozenset[str] = frozenset()
    group: str | None = None


@attrs.frozen
class Passed:
    """A frame as its receiver gets it; control frames that the server rewrites as their object."""

    type: FrameType
    channel: int
    payload: bytes | Mapping[str, Any]
    volley: int = attrs.field(default=0, eq=False)
    """Frames of several senders that were on their way together: among these only the order of one
    sender's is known. 0 for all others."""


@attrs.frozen
class Answer:
    """What the sender is told: an Ack with ``extra``, or an Error; and which devices refuse, why."""

    error: str | None = None
    extra: Mapping[str, Any] = {}
    refused: tuple[tuple[str, str], ...] = ()


@attrs.define
class ModelDevice:
    user: str
    revoked: bool = False
    routes: dict[int, ModelRoute] = attrs.Factory(dict)
    stored: list[Passed] = attrs.Factory(list)
    """Everything its inbox was ever given; the first one has number 1."""
    confirmed: int = 0


@attrs.define
class RoutingModel:
    devices: dict[str, ModelDevice]
    groups: dict[str, dict[str, str]] = attrs.Factory(dict)
    """Group id to device to role."""
    agreed: set[tuple[str, str]] = attrs.Factory(set)
    """(group, device): it joined the group itself, or was put into it by somebody it is related to."""
    acquainted: set[frozenset[str]] = attrs.Factory(set)
    """Pairs that are, or ever were, allowed to learn of each other's presence."""

    # -- routes

    def join(self, sender: str, channel: int, route: ModelRoute) -> Answer:
        device = self.devices[sender]
        if device.revoked:
            return Answer("revoked")
        if route.group is None:
            device.routes[channel] = route
            return Answer()
        if route.group not in self.groups:
            return Answer("group_unknown")
        if sender not in self.groups[route.group]:
            return Answer("not_member")
        device.routes[channel] = route
        self.agreed.add((route.group, sender))
        return Answer(extra={"group_id": route.group})

    def leave(self, sender: str, channel: int) -> Answer:
        self.devices[sender].routes.pop(channel, None)
        return Answer()

    # -- frames along a route

    def send(
        self, sender: str, channel: int, frame_type: FrameType, payload: bytes | Mapping[str, Any]
    ) -> tuple[Answer, list[str]]:
        """The answer, and who gets the frame. Durable ones are stored by :meth:`store`."""
        if self.devices[sender].revoked:
            return Answer("revoked"), []
        route = self.devices[sender].routes.get(channel)
        if route is None:
            return Answer("no_route"), []
        if route.group is not None and sender not in self.groups[route.group]:
            return Answer("not_member"), []
        meant = set(route.members) if route.group is None else set(self.groups[route.group])
        accepted, refused = self._offer(sender, channel, meant - {sender}, route.group)
        if accepted or refused:
            error = None if accepted else refused[0][1]
            return Answer(error, refused=refused), accepted
        return Answer("no_route"), []

    def store(self, accepted: list[str], passed: Passed) -> None:
        for device_id in accepted:
            self.devices[device_id].stored.append(passed)

    def free_event(self, sender: str, channel: int, group_id: str) -> Answer | None:
        """Why an event that changes nothing is refused before it is sent along the route."""
        route = self.devices[sender].routes.get(channel)
        return None if route is not None and route.group == group_id else Answer("no_route")

    def _offer(
        self, sender: str, channel: int, meant: set[str], group: str | None
    ) -> tuple[list[str], tuple[tuple[str, str], ...]]:
        accepted, refused = [], []
        for device_id in sorted(meant):
            reason = self._refusal(device_id, sender, channel, group)
            if reason is None:
                accepted.append(device_id)
            else:
                refused.append((device_id, reason))
        return accepted, tuple(refused)

    def _refusal(self, receiver: str, sender: str, channel: int, group: str | None) -> str | None:
        device = self.devices.get(receiver)
        if device is None:
            return "unknown_device"
        if device.revoked:
            return "revoked"
        own = device.routes.get(channel)
        if own is None or sender in own.members or (group is not None and own.group == group):
            return None
        return "channel_conflict"

    # -- groups

    def create(
        self, sender: str, channel: int, group_id: str, roles: Mapping[str, str], notice: Mapping[str, Any]
    ) -> Answer:
        if self.devices[sender].revoked:
            return Answer("revoked")
        if group_id in self.groups:
            return Answer("group_exists")
        wanted = {device: _granted(role) for device, role in roles.items()} | {sender: "owner"}
        known = {d: role for d, role in wanted.items() if d in self.devices and not self.devices[d].revoked}
        agreeing = {device for device in known if device == sender or self._related(device, sender)}
        self.groups[group_id] = known
        self.agreed |= {(group_id, device) for device in agreeing}
        self.devices[sender].routes[channel] = ModelRoute(group=group_id)
        told = Passed(FrameType.GROUP_CREATE, channel, {**notice, "owner": sender})
        return self._tell(sender, channel, set(wanted), group_id, told, {"group_id": group_id})

    def invite(
        self, sender: str, channel: int, group_id: str, device_id: str, role: str, notice: Mapping[str, Any]
    ) -> Answer:
        members = self.groups.get(group_id)
        error = None
        if self.devices[sender].revoked:
            error = "revoked"
        elif members is None:
            error = "group_unknown"
        elif sender not in members:
            error = "not_member"
        elif not _below(_granted(role), members[sender]):
            error = "not_allowed"
        elif device_id in members:
            error = "already_member"
        elif device_id not in self.devices:
            error = "unknown_device"
        elif self.devices[device_id].revoked:
            error = "revoked"
        else:
            error = self._channel_of_another_group(sender, channel, group_id)
        if error is not None or members is None:
            return Answer(error)
        if self._related(device_id, sender):
            self.agreed.add((group_id, device_id))
        members[device_id] = _granted(role)
        told = Passed(FrameType.GROUP_INVITE, channel, {**notice, "by": sender})
        extra = {"group_id": group_id, "device": device_id}
        return self._tell(sender, channel, set(members), group_id, told, extra)

    def change(
        self, sender: str, channel: int, group_id: str, event: str, device_id: str, role: str, notice: Any
    ) -> Answer:
        members = self.groups.get(group_id)
        if self.devices[sender].revoked:
            return Answer("revoked")
        if members is None:
            return Answer("group_unknown")
        if sender not in members or device_id not in members:
            return Answer("not_member")
        own, theirs = members[sender], members[device_id]
        allowed = {
            "leave": own != "owner" or len(members) == 1,
            "remove": _below(theirs, own),
            "role": _below(theirs, own) and _below(role, own),
            "transfer": own == "owner" and device_id != sender,
        }
        if not allowed[event]:
            return Answer("not_allowed")
        if error := self._channel_of_another_group(sender, channel, group_id):
            return Answer(error)
        if event == "transfer" and self.devices[device_id].revoked:
            return Answer("revoked")
        told = Passed(FrameType.GROUP_EVENT, channel, {**notice, "device": device_id, "by": sender})
        answer = self._tell(sender, channel, set(members), group_id, told, {"group_id": group_id})
        if event == "role":
            members[device_id] = role
        elif event == "transfer":
            members[sender], members[device_id] = "co-owner", "owner"
        else:
            del members[device_id]
            self.agreed.discard((group_id, device_id))
        if not members:
            self._forget(group_id)
        return answer

    def _tell(
        self, sender: str, channel: int, meant: set[str], group: str, told: Passed, extra: Mapping[str, Any]
    ) -> Answer:
        accepted, refused = self._offer(sender, channel, meant - {sender}, group)
        self.store(accepted, told)
        return Answer(None, extra, refused)

    def _channel_of_another_group(self, sender: str, channel: int, group_id: str) -> str | None:
        route = self.devices[sender].routes.get(channel)
        other = route is not None and route.group not in (None, group_id)
        return "channel_conflict" if other else None

    def _forget(self, group_id: str) -> None:
        del self.groups[group_id]
        for device in self.devices.values():
            for channel in [c for c, route in device.routes.items() if route.group == group_id]:
                del device.routes[channel]

    # -- relations

    def _related(self, receiver: str, sender: str) -> bool:
        """Whether the receiver has shown that it knows the sender."""
        own = self.devices[receiver]
        return (
            own.user == self.devices[sender].user
            or any(sender in route.members for route in own.routes.values())
            or any((g, receiver) in self.agreed and sender in members for g, members in self.groups.items())
        )

    def note_acquaintances(self) -> None:
        """Call after each change: who are peers now were peers at some time for ever."""
        self.acquainted |= {frozenset(pair) for pair in self._peers()}

    def _peers(self) -> Iterator[tuple[str, str]]:
        for group_id in self.groups:
            inside = [device for group, device in self.agreed if group == group_id]
            yield from ((a, b) for a in inside for b in inside if a != b)
        for name, device in self.devices.items():
            for channel, route in device.routes.items():
                for other in route.members & self.devices.keys() - {name}:
                    back = self.devices[other].routes.get(channel)
                    if back is not None and name in back.members:
                        yield name, other


def _below(role: str, other: str) -> bool:
    return RANKS.index(role) < RANKS.index(other)


def _granted(role: str) -> str:
    return "admin" if role == "owner" else role
