"""Random operations against a small model that keeps everything in dictionaries. For every backend."""

import attrs
from hypothesis import strategies as st

from commucat_storage import (
    ChangeGroup,
    Confirm,
    ConfirmedMessage,
    ConfirmOutcome,
    CreateGroup,
    DropRoute,
    ExpiredMessage,
    GroupAction,
    GroupOutcome,
    GroupRole,
    InviteMember,
    JoinRoom,
    Once,
    Operation,
    OutboxPage,
    Outcome,
    Refusal,
    RefusalReason,
    Resolve,
    ResolveOutcome,
    Route,
    RouteOutcome,
    SetRoute,
    Storage,
    Submission,
    SubmissionOutcome,
    domain_of,
    outbox_of,
    room_id,
)
from databases.postgres_databases import PostgresDatabases
from storage.fresh_stores import FRESH, Fresh, Opener, check_scripts, stretches_of
from storage.storage_builders import LATER, NOW, add_devices, add_siblings

MAX_ROWS = 8
MAX_BYTES = 60
MAX_ROUTES = 2
MAX_MEMBERS = 3
MAX_OWNED = 2
STRANGER_ROWS = 3
STRANGER_BYTES = 40
DEVICES = ("a", "b", "c", "d")
OWNERS = {"d": "a"}
"""Devices that are further ones of another's user."""
GROUPS = ("g", "h")
RANKS = [GroupRole.MEMBER, GroupRole.ADMIN, GroupRole.CO_OWNER, GroupRole.OWNER]
NAMES = (*DEVICES, "ghost")
SOON = NOW + 10

LIMITS = {
    "max_rows": MAX_ROWS,
    "max_bytes": MAX_BYTES,
    "max_routes": MAX_ROUTES,
    "max_group_members": MAX_MEMBERS,
    "max_owned_groups": MAX_OWNED,
    "stranger_rows": STRANGER_ROWS,
    "stranger_bytes": STRANGER_BYTES,
    "group_rows": 4,
    "journal_rows": 12,
    "cached_inboxes": 2,
    "cached_group_members": 2,
}


@attrs.frozen
class ModelRow:
    sender: str
    channel: int
    payload: bytes
    expires_at: int
    report: bool
    reference: bytes
    stranger: bool
    target: str | None = None


@attrs.define
class ModelInbox:
    epoch: str
    next_number: int = 1
    confirmed: int = 0
    rows: dict[int, ModelRow] = attrs.Factory(dict)
    routes: dict[int, Route] = attrs.Factory(dict)


@attrs.define
class ModelGroup:
    members: dict[str, GroupRole]
    wanting: set[str]


class Model:
    """What the store must do, in the plainest words."""

    def __init__(self, epochs: dict[str, str]) -> None:
        self.inboxes = {name: ModelInbox(epoch) for name, epoch in epochs.items()}
        self.groups: dict[str, ModelGroup] = {}
        self.known: set[str] = set()
        """Keys of messages that were stored once."""

    def apply(self, operation: Operation) -> Outcome:
        match operation:
            case Submission():
                return self.submit(operation)
            case Resolve():
                return self.resolve(operation)
            case Confirm(name, epoch, number):
                inbox = self.inboxes.get(name)
                if inbox is None or inbox.epoch != epoch or not inbox.confirmed <= number < inbox.next_number:
                    return ConfirmOutcome(False, inbox.confirmed if inbox else 0)
                inbox.confirmed = number
                gone = [inbox.rows.pop(each) for each in sorted(inbox.rows) if each <= number]
                told = [confirmed(row) for row in gone if row.report and row.target is None]
                return ConfirmOutcome(True, number, tuple(told))
            case SetRoute(name, channel, route):
                return RouteOutcome(self.set_route(name, channel, route))
            case DropRoute(name, channel):
                inbox = self.inboxes.get(name)
                if inbox is None:
                    return RouteOutcome(RefusalReason.UNKNOWN_DEVICE)
                inbox.routes.pop(channel, None)
                self.leave_room(name, channel)
                return RouteOutcome()
            case JoinRoom():
                return RouteOutcome(self.join_room(operation))
            case CreateGroup():
                return self.create(operation)
            case InviteMember():
                return self.invite(operation)
            case ChangeGroup():
                return self.change(operation)

    # -- messages --------------------------------------------------------------------------------

    def route(self, name: str, channel: int) -> Route | None:
        inbox = self.inboxes.get(name)
        return inbox.routes.get(channel) if inbox else None

    def audience(
        self, sender: str, channel: int, named: tuple[str, ...] | None
    ) -> tuple[RefusalReason | None, tuple[str, ...], str | None]:
        route = self.route(sender, channel)
        group_id = route.group_id if route else None
        if group_id is not None and sender not in self.groups[group_id].members:
            return RefusalReason.NOT_MEMBER, (), None
        if named is None:
            if route is None:
                return RefusalReason.NO_ROUTE, (), None
            members = route.members if group_id is None else self.groups[group_id].members
            named = tuple(sorted(members))
        return None, tuple(name for name in dict.fromkeys(named) if name != sender), group_id

    def conflict(self, name: str, sender: str, channel: int, group_id: str | None) -> RefusalReason | None:
        if "@" in name:
            return self.conflict_of_peer(name, sender, group_id)
        if name not in self.inboxes:
            return RefusalReason.UNKNOWN_DEVICE
        if group_id is not None and name not in self.groups[group_id].members:
            return RefusalReason.NOT_MEMBER
        route = self.route(name, channel)
        if not sender or route is None or sender in route.members:
            return None
        if group_id is not None and route.group_id == group_id:
            return None
        return RefusalReason.CHANNEL_CONFLICT

    def conflict_of_peer(self, target: str, sender: str, group_id: str | None) -> RefusalReason | None:
        if target.startswith("@") and sender:
            return RefusalReason.UNKNOWN_DEVICE
        if home(target) not in self.inboxes or "@" in sender:
            return RefusalReason.UNKNOWN_DOMAIN
        if group_id is not None and target not in self.groups[group_id].members:
            return RefusalReason.NOT_MEMBER
        return None

    def is_stranger(self, name: str, sender: str) -> bool:
        if "@" in name:
            return False
        if owner(sender) == owner(name):
            return False
        if not sender or any(sender in route.members for route in self.inboxes[name].routes.values()):
            return False
        return not any(name in group.wanting and sender in group.members for group in self.groups.values())

    def resolve(self, question: Resolve) -> Outcome:
        reason, named, group_id = self.audience(question.sender, question.channel, None)
        here = [name for name in named if "@" not in name]
        conflicts = {name: self.conflict(name, question.sender, question.channel, group_id) for name in here}
        refused = [Refusal(device_id=name, reason=why) for name, why in conflicts.items() if why]
        if not named:
            refused = [Refusal(device_id="", reason=reason or RefusalReason.NO_ROUTE)]
        return ResolveOutcome(tuple(name for name in here if conflicts[name] is None), tuple(refused))

    def submit(self, message: Submission) -> Outcome:
        if message.once is None:
            return self.send(message)
        if message.once.key in self.known:
            return SubmissionOutcome((), duplicate=True)
        outcome = self.send(message)
        if outcome.accepted:
            self.known.add(message.once.key)
        return outcome

    def send(self, message: Submission) -> SubmissionOutcome:
        reason, named, group_id = self.audience(message.sender, message.channel, message.recipients)
        if not named:
            why = Refusal(device_id="", reason=reason or RefusalReason.NO_ROUTE)
            return SubmissionOutcome((), (why,))
        return self.deliver(message, named, group_id)

    def deliver(self, message: Submission, named: tuple[str, ...], group_id: str | None) -> SubmissionOutcome:
        accepted, refused = self.store(message, named, group_id, report=message.report)
        copied: list[tuple[str, int]] = []
        if message.copies and accepted and message.sender in DEVICES:
            others = [name for name in DEVICES if owner(name) == owner(message.sender)]
            meant = tuple(name for name in others if name not in (message.sender, *named))
            copied, more = self.store(message, meant, group_id, report=False)
            refused += more
        return SubmissionOutcome(tuple(accepted), tuple(refused), tuple(copied))

    def store(
        self, message: Submission, named: tuple[str, ...], group_id: str | None, *, report: bool
    ) -> tuple[list[tuple[str, int]], list[Refusal]]:
        accepted: list[tuple[str, int]] = []
        refused: list[Refusal] = []
        for name in named:
            reason = self.conflict(name, message.sender, message.channel, group_id)
            stranger = reason is None and self.is_stranger(name, message.sender)
            if reason is None and self.is_full(home(name), len(message.payload), stranger):
                reason = RefusalReason.QUOTA
            if reason is not None:
                refused.append(Refusal(device_id=name, reason=reason))
                continue
            inbox = self.inboxes[home(name)]
            inbox.rows[inbox.next_number] = ModelRow(
                message.sender,
                message.channel,
                message.payload,
                message.expires_at,
                report and message.sender != "",
                message.reference,
                stranger,
                name if "@" in name else None,
            )
            accepted.append((name, inbox.next_number))
            inbox.next_number += 1
        return accepted, refused

    def is_full(self, name: str, size: int, stranger: bool) -> bool:
        rows = list(self.inboxes[name].rows.values())
        foreign = [row for row in rows if row.stranger]
        if len(rows) >= MAX_ROWS or size_of(rows) + size > MAX_BYTES:
            return True
        return stranger and (len(foreign) >= STRANGER_ROWS or size_of(foreign) + size > STRANGER_BYTES)

    # -- routes and groups -----------------------------------------------------------------------

    def set_route(self, name: str, channel: int, route: Route) -> RefusalReason | None:
        inbox = self.inboxes.get(name)
        if inbox is None:
            return RefusalReason.UNKNOWN_DEVICE
        group = None
        if route.group_id is not None:
            group = self.groups.get(route.group_id)
            if group is None:
                return RefusalReason.GROUP_UNKNOWN
            if name not in group.members:
                return RefusalReason.NOT_MEMBER
        if channel not in inbox.routes and len(inbox.routes) == MAX_ROUTES:
            return RefusalReason.TOO_MANY_ROUTES
        self.put_route(name, channel, route)
        if group is not None:
            group.wanting.add(name)
        return None

    def put_route(self, name: str, channel: int, route: Route) -> None:
        routes = self.inboxes[name].routes
        replaced, routes[channel] = routes.get(channel), route
        if replaced is not None and replaced.group_id == room_id(channel) != route.group_id:
            self.leave_room(name, channel)

    def join_room(self, joining: JoinRoom) -> RefusalReason | None:
        name, channel = joining.device_id, joining.channel
        inbox = self.inboxes.get(name)
        if inbox is None:
            return RefusalReason.UNKNOWN_DEVICE
        if channel not in inbox.routes and len(inbox.routes) == MAX_ROUTES:
            return RefusalReason.TOO_MANY_ROUTES
        room = self.groups.get(room_id(channel)) or ModelGroup({}, set())
        named = {each for each in (name, *joining.members) if each in self.inboxes}
        if len(named | set(room.members)) > MAX_MEMBERS:
            return RefusalReason.GROUP_FULL
        room.members |= dict.fromkeys(named, GroupRole.MEMBER)
        room.wanting.add(name)
        self.groups[room_id(channel)] = room
        inbox.routes[channel] = Route(group_id=room_id(channel), relay=joining.relay)
        return None

    def leave_room(self, name: str, channel: int) -> None:
        room = self.groups.get(room_id(channel))
        if room is None:
            return
        room.members.pop(name, None)
        room.wanting.discard(name)
        if not room.wanting:
            del self.groups[room_id(channel)]

    def create(self, creation: CreateGroup) -> Outcome:
        sender = creation.sender
        named = {sender, *(name for name, _ in creation.roles)}
        owned = [group for group in self.groups.values() if group.members.get(sender) is GroupRole.OWNER]
        if sender not in self.inboxes:
            return GroupOutcome(RefusalReason.UNKNOWN_DEVICE)
        if creation.group_id in self.groups:
            return GroupOutcome(RefusalReason.GROUP_EXISTS)
        if len(named) > MAX_MEMBERS:
            return GroupOutcome(RefusalReason.GROUP_FULL)
        routes = self.inboxes[sender].routes
        if len(owned) == MAX_OWNED or (creation.channel not in routes and len(routes) == MAX_ROUTES):
            return GroupOutcome(RefusalReason.TOO_MANY_ROUTES)
        members = {name: granted(role) for name, role in creation.roles if name in self.inboxes}
        members[sender] = GroupRole.OWNER
        wanting = {name for name in members if name == sender or not self.is_stranger(name, sender)}
        self.groups[creation.group_id] = ModelGroup(members, wanting)
        self.put_route(sender, creation.channel, Route(group_id=creation.group_id, relay=creation.relay))
        return GroupOutcome(None, self.notify(creation, named))

    def invite(self, invitation: InviteMember) -> Outcome:
        group = self.groups.get(invitation.group_id)
        reason = self.refuse_sender(invitation, group)
        name, role = invitation.device_id, granted(invitation.role)
        if reason is None and group is not None:
            if not below(role, group.members[invitation.sender]):
                reason = RefusalReason.NOT_ALLOWED
            elif name in group.members:
                reason = RefusalReason.ALREADY_MEMBER
            elif len(group.members) == MAX_MEMBERS:
                reason = RefusalReason.GROUP_FULL
            elif name not in self.inboxes:
                reason = RefusalReason.UNKNOWN_DEVICE
            else:
                reason = self.refuse_channel(invitation)
        if reason is not None or group is None:
            return GroupOutcome(reason)
        if not self.is_stranger(name, invitation.sender):
            group.wanting.add(name)
        group.members[name] = role
        return GroupOutcome(None, self.notify(invitation, set(group.members)))

    def change(self, change: ChangeGroup) -> Outcome:
        group = self.groups.get(change.group_id)
        reason = self.refuse_sender(change, group)
        name, role = change.device_id, change.role
        if reason is None and group is not None:
            own, theirs = group.members[change.sender], group.members.get(name)
            match change.action:
                case GroupAction.LEAVE:
                    allowed = own is not GroupRole.OWNER or len(group.members) == 1
                case GroupAction.TRANSFER:
                    allowed = own is GroupRole.OWNER and name != change.sender
                case GroupAction.REMOVE:
                    allowed = theirs is not None and below(theirs, own)
                case GroupAction.SET_ROLE:
                    assert role is not None
                    allowed = theirs is not None and below(theirs, own) and below(role, own)
            if theirs is None:
                reason = RefusalReason.NOT_MEMBER
            elif not allowed:
                reason = RefusalReason.NOT_ALLOWED
            else:
                reason = self.refuse_channel(change)
        if reason is not None or group is None:
            return GroupOutcome(reason)
        notice = self.notify(change, set(group.members))
        match change.action:
            case GroupAction.SET_ROLE:
                assert role is not None
                group.members[name] = role
            case GroupAction.TRANSFER:
                group.members |= {change.sender: GroupRole.CO_OWNER, name: GroupRole.OWNER}
            case _:
                del group.members[name]
                group.wanting.discard(name)
        if not group.members:
            del self.groups[change.group_id]
            for inbox in self.inboxes.values():
                inbox.routes = {
                    each: route for each, route in inbox.routes.items() if route.group_id != change.group_id
                }
        return GroupOutcome(None, notice)

    def refuse_sender(
        self, operation: InviteMember | ChangeGroup, group: ModelGroup | None
    ) -> RefusalReason | None:
        if operation.sender not in self.inboxes:
            return RefusalReason.UNKNOWN_DEVICE
        if group is None:
            return RefusalReason.GROUP_UNKNOWN
        return None if operation.sender in group.members else RefusalReason.NOT_MEMBER

    def refuse_channel(self, operation: InviteMember | ChangeGroup) -> RefusalReason | None:
        route = self.route(operation.sender, operation.channel)
        bound = route.group_id if route else None
        return None if bound in (None, operation.group_id) else RefusalReason.CHANNEL_CONFLICT

    def notify(
        self, operation: CreateGroup | InviteMember | ChangeGroup, members: set[str]
    ) -> SubmissionOutcome:
        message = Submission(
            operation.sender, operation.channel, operation.frame_type, operation.notice, operation.expires_at
        )
        named = tuple(sorted(members - {operation.sender}))
        return self.deliver(message, named, operation.group_id)

    def purge(self, now: int) -> tuple[int, set[ExpiredMessage]]:
        count = 0
        told = set()
        for name, inbox in self.inboxes.items():
            gone = {number: row for number, row in inbox.rows.items() if row.expires_at <= now}
            inbox.rows = {number: row for number, row in inbox.rows.items() if number not in gone}
            count += len(gone)
            told |= {
                ExpiredMessage(
                    sender=row.sender,
                    channel=row.channel,
                    device_id=row.target or name,
                    number=number,
                    reference=row.reference,
                )
                for number, row in gone.items()
                if row.report
            }
        return count, told


def home(name: str) -> str:
    """Whose inbox a message for this name is in."""
    domain = domain_of(name)
    return name if domain is None else outbox_of(domain)


def owner(name: str) -> str:
    return OWNERS.get(name, name)


def confirmed(row: ModelRow) -> ConfirmedMessage:
    return ConfirmedMessage(row.sender, row.channel, row.reference, row.expires_at)


def below(role: GroupRole, other: GroupRole) -> bool:
    return RANKS.index(role) < RANKS.index(other)


def granted(role: GroupRole) -> GroupRole:
    return GroupRole.ADMIN if role is GroupRole.OWNER else role


def size_of(rows: list[ModelRow]) -> int:
    return sum(len(row.payload) for row in rows)


def change_of(
    sender: str, channel: int, group_id: str, action: GroupAction, name: str, role: GroupRole, notice: bytes
) -> ChangeGroup:
    target = sender if action is GroupAction.LEAVE else name
    asked = role if action is GroupAction.SET_ROLE else None
    return ChangeGroup(sender, channel, group_id, action, target, asked, 12, notice, LATER)


names = st.sampled_from(NAMES)
channels = st.integers(1, 3)
devices = st.sampled_from(DEVICES)
groups = st.sampled_from(GROUPS)
group_roles = st.sampled_from(GroupRole)
notices = st.binary(max_size=6)
# The epoch is filled in when the batch runs; "foreign" stays as it is.
operations = st.one_of(
    st.builds(
        Submission,
        st.sampled_from((*NAMES, "")),
        channels,
        st.just(1),
        st.binary(max_size=20),
        st.sampled_from((SOON, LATER)),
        st.one_of(st.none(), st.lists(names, max_size=5).map(tuple)),
        st.booleans(),
        st.binary(max_size=2),
        st.booleans(),
    ),
    st.builds(Resolve, names, channels),
    st.builds(Confirm, names, st.sampled_from(("own", "own", "own", "foreign")), st.integers(0, 30)),
    st.builds(SetRoute, names, channels, st.builds(Route, members=st.frozensets(names), relay=st.booleans())),
    st.builds(SetRoute, names, channels, st.builds(Route, group_id=groups, relay=st.booleans())),
    st.builds(DropRoute, names, channels),
    st.builds(JoinRoom, names, channels, st.lists(names, max_size=2).map(tuple), st.booleans(), st.just(NOW)),
)
group_operations = st.one_of(
    st.builds(
        CreateGroup,
        devices,
        channels,
        groups,
        st.lists(st.tuples(names, group_roles), max_size=3).map(tuple),
        st.booleans(),
        st.just(10),
        notices,
        st.sampled_from((SOON, LATER)),
        st.just(NOW),
    ),
    st.builds(
        InviteMember, names, channels, groups, names, group_roles, st.just(11), notices, st.just(LATER)
    ),
    st.builds(change_of, names, channels, groups, st.sampled_from(GroupAction), names, group_roles, notices),
)
# All about one group that exists, on two channels.
A_GROUP = CreateGroup(
    "a", 1, "g", (("b", GroupRole.CO_OWNER), ("c", GroupRole.MEMBER)), True, 10, b"", LATER, NOW
)
busy = st.sampled_from((1, 2))
group_life = st.one_of(
    st.builds(Submission, devices, busy, st.just(1), notices, st.just(LATER)),
    st.builds(Resolve, devices, busy),
    st.builds(Confirm, devices, st.just("own"), st.integers(0, 9)),
    st.builds(SetRoute, devices, busy, st.just(Route(group_id="g"))),
    st.builds(
        InviteMember, devices, busy, st.just("g"), devices, group_roles, st.just(11), notices, st.just(SOON)
    ),
    st.builds(
        change_of, devices, busy, st.just("g"), st.sampled_from(GroupAction), devices, group_roles, notices
    ),
)
# All about one open room, and a group that is bound to its channel at times.
room_life = st.one_of(
    st.builds(JoinRoom, devices, busy, st.lists(names, max_size=2).map(tuple), st.booleans(), st.just(NOW)),
    st.builds(DropRoute, devices, busy),
    st.builds(Submission, devices, busy, st.just(1), notices, st.just(LATER)),
    st.builds(Resolve, devices, busy),
    st.builds(SetRoute, devices, busy, st.builds(Route, members=st.frozensets(devices))),
    st.builds(SetRoute, devices, busy, st.just(Route(group_id="g"))),
)
# All about one peer, and one that nobody knows.
ELSEWHERE = ("x@p", "y@P", "x@q")
peer_life = st.one_of(
    st.builds(
        Submission,
        st.sampled_from((*DEVICES, "", "x@p")),
        busy,
        st.just(1),
        st.binary(max_size=20),
        st.sampled_from((SOON, LATER)),
        st.lists(st.sampled_from((*NAMES, *ELSEWHERE, "@p")), max_size=6).map(tuple),
        st.booleans(),
        st.binary(max_size=2),
        st.booleans(),
        st.just(""),
        st.one_of(st.none(), st.builds(Once, st.just("s"), st.sampled_from("kl"), st.just(LATER))),
    ),
    st.builds(Submission, devices, busy, st.just(1), notices, st.just(LATER)),
    st.builds(Resolve, devices, busy),
    st.builds(Confirm, st.sampled_from((*DEVICES, "@p")), st.just("own"), st.integers(0, 12)),
    st.builds(
        SetRoute,
        devices,
        busy,
        st.builds(Route, members=st.frozensets(st.sampled_from((*NAMES, *ELSEWHERE)))),
    ),
    st.builds(SetRoute, devices, busy, st.just(Route(group_id="g"))),
)
batches = st.lists(st.one_of(operations, group_operations), min_size=1, max_size=6)
steps = st.lists(
    st.one_of(st.lists(batches, min_size=1, max_size=3), st.sampled_from(("purge", "reopen"))), max_size=12
)
group_batches = st.lists(group_life, min_size=1, max_size=8)
room_batches = st.lists(room_life, min_size=1, max_size=8)
peer_batches = st.lists(peer_life, min_size=1, max_size=8)


def steps_of(
    some: st.SearchStrategy[list[Operation]],
) -> st.SearchStrategy[list[list[list[Operation]] | str]]:
    return st.lists(
        st.one_of(st.lists(some, min_size=1, max_size=3), st.sampled_from(("purge", "reopen"))),
        min_size=1,
        max_size=8,
    )


group_steps, room_steps = steps_of(group_batches), steps_of(room_batches)
peer_steps = steps_of(peer_batches)


async def follow(opener: Opener, script: list[list[list[Operation]] | str]) -> None:
    async with opener() as storage:
        await add_devices(storage, *(name for name in DEVICES if name not in OWNERS))
        for name, first in OWNERS.items():
            await add_siblings(storage, first, name)
        states = {name: await storage.inbox_state(name) for name in DEVICES}
        await storage.set_outbox("p", open=True)
        epoch = (await outbox(storage, "@p")).epoch
    model = Model({name: state.epoch for name, state in states.items() if state is not None})
    model.inboxes["@p"] = ModelInbox(epoch)
    for stretch in stretches_of(script):
        async with opener() as storage:
            for step in stretch:
                await take(storage, model, step)
            await compare(storage, model)


async def take(storage: Storage, model: Model, step: list[list[Operation]] | str) -> None:
    if isinstance(step, str):
        purged = await storage.purge_expired(SOON)
        assert (purged.messages, set(purged.expired)) == model.purge(SOON)
        return
    told: list[tuple[int, object]] = []
    expected: list[tuple[int, tuple[Outcome, ...]]] = []
    kept_back: set[int] = set()
    for index, unbound in enumerate(step):
        batch = [
            Confirm(each.device_id, model.inboxes[each.device_id].epoch, each.number)
            if isinstance(each, Confirm) and each.epoch == "own" and each.device_id in model.inboxes
            else each
            for each in unbound
        ]
        expected.append((index, tuple(model.apply(each) for each in batch)))
        if all(isinstance(each, Confirm) for each in batch):
            kept_back.add(index)
        await storage.enqueue(batch, lambda result, index=index: told.append((index, result)))
    await storage.check()  # Behind the batches in the journal: all of them have been told.
    assert sorted(told, key=lambda each: each[0]) == expected
    # Questions pass by what may be kept back; everything else is told in its order.
    for kept in (kept_back, {index for index, batch in enumerate(step) if _only_asks(batch)}):
        indexes = [index for index, _ in told if index not in kept]
        assert indexes == sorted(indexes)


def _only_asks(batch: list[Operation]) -> bool:
    return all(isinstance(each, Resolve) for each in batch)


async def outbox(storage: Storage, name: str) -> OutboxPage:
    page = await storage.outbox_page(name[1:], 0, limit_rows=100, limit_bytes=1000, now=0)
    assert page is not None
    return page


def compare_outbox(page: OutboxPage, inbox: ModelInbox) -> None:
    assert page.complete
    assert (page.epoch, page.head, page.confirmed) == (inbox.epoch, inbox.next_number - 1, inbox.confirmed)
    found = {row.number: (row.sender, row.target, row.channel, row.payload, row.report) for row in page.rows}
    assert found == {
        number: (row.sender, row.target, row.channel, row.payload, row.report)
        for number, row in inbox.rows.items()
    }


async def compare(storage: Storage, model: Model) -> None:
    for name, inbox in model.inboxes.items():
        if name.startswith("@"):
            compare_outbox(await outbox(storage, name), inbox)
            continue
        state = await storage.inbox_state(name)
        assert state is not None
        assert (state.epoch, state.next_number, state.confirmed) == (
            inbox.epoch,
            inbox.next_number,
            inbox.confirmed,
        )
        page = await storage.read_after(name, 0, limit_rows=100, limit_bytes=1000, now=0)
        assert page.complete
        assert page.head == inbox.next_number - 1
        assert {row.number: (row.channel, row.payload) for row in page.rows} == {
            number: (row.channel, row.payload) for number, row in inbox.rows.items()
        }
        assert await storage.routes_of(name) == inbox.routes
    for channel in (1, 2, 3):
        assert await storage.load_group(room_id(channel)) is None
    for group_id in GROUPS:
        group = await storage.load_group(group_id)
        expected = model.groups.get(group_id)
        assert (group and group.members) == (expected and expected.members)


async def follow_with_a_group(opener: Opener, script: list[list[list[Operation]] | str]) -> None:
    await follow(opener, [[[A_GROUP]], *script])


@FRESH
def test_the_store_does_what_the_model_does(fresh: Fresh, postgres_databases: PostgresDatabases) -> None:
    check_scripts(fresh, postgres_databases, LIMITS, steps, follow)


@FRESH
def test_a_group_reaches_whom_the_model_says(fresh: Fresh, postgres_databases: PostgresDatabases) -> None:
    check_scripts(fresh, postgres_databases, LIMITS, group_steps, follow_with_a_group)


@FRESH
def test_a_room_reaches_whom_the_model_says(fresh: Fresh, postgres_databases: PostgresDatabases) -> None:
    check_scripts(fresh, postgres_databases, LIMITS, room_steps, follow_with_a_group)


@FRESH
def test_a_peer_gets_what_the_model_says(fresh: Fresh, postgres_databases: PostgresDatabases) -> None:
    check_scripts(fresh, postgres_databases, LIMITS, peer_steps, follow_with_a_group)
