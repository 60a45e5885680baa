"""Judges a history: was the promise kept? Pure; history in, verdict out.

Where clients cannot know what became of an attempt (the connection was lost before the
answer), the judge allows both outcomes. Everything else is strict.
"""

from collections import defaultdict
from collections.abc import Iterable
from sys import maxsize

import attrs

from commucat_cli.chaos.attempt import Attempt
from commucat_cli.chaos.faults import Fault, FaultKind, Verdict
from commucat_cli.chaos.history import (
    Answered,
    Confirmed,
    Delivered,
    Opened,
    Record,
    Returned,
    RouteAsked,
    RouteSet,
    Sent,
)
from commucat_cli.chaos.membership import Memberships
from commucat_cli.chaos.payload import Message
from commucat_cli.chaos.steps import GroupEvent


def judge(history: Iterable[Record], *, drained: bool = True) -> Verdict:
    """Judge a history.

    The records of one device must be in their order; those of several may be mixed in any way.
    ``drained`` is false when the devices were not given the time to fetch everything: then
    nothing counts as lost.
    """
    return _Judge(history).verdict(drained=drained)


@attrs.frozen
class _Route:
    """A route of a device that held for sure from ``start`` to ``end``."""

    start: int
    end: float
    members: tuple[str, ...] | None


class _Judge:
    def __init__(self, history: Iterable[Record]) -> None:
        self._attempts: dict[Message, dict[int, Attempt]] = {}
        self._deliveries: dict[str, list[Delivered]] = defaultdict(list)
        self._asked: dict[tuple[str, int], list[RouteAsked]] = defaultdict(list)
        self._set: dict[tuple[str, int], list[RouteSet]] = defaultdict(list)
        self._opened: dict[tuple[str, int], Opened] = {}
        self._sessions: dict[str, list[Opened | Confirmed]] = defaultdict(list)
        self._faults: list[Fault] = []
        self._returned: dict[tuple[Message | None, str], list[Returned]] = defaultdict(list)
        answers: list[Answered] = []
        for position, record in enumerate(history):
            match record:
                case Sent():
                    attempts = self._attempts.setdefault(record.message, {})
                    attempts[record.attempt] = Attempt(record, position)
                case Answered():
                    answers.append(record)
                case Delivered():
                    self._deliveries[record.device].append(record)
                case RouteAsked():
                    self._asked[record.device, record.channel].append(record)
                case RouteSet():
                    self._set[record.device, record.channel].append(record)
                case Opened():
                    self._opened[record.device, record.session] = record
                    self._sessions[record.device].append(record)
                case Returned():
                    self._returned[record.message, record.device].append(record)
                case Confirmed():
                    self._sessions[record.device].append(record)
        for answer in answers:
            self._attempts[answer.message][answer.attempt].answer = answer
        every = [attempt for attempts in self._attempts.values() for attempt in attempts.values()]
        memberships = Memberships((attempt.sent, attempt.answer) for attempt in every)
        for attempt in every:
            attempt.settle(memberships)
        self._give_back()

    def verdict(self, *, drained: bool) -> Verdict:
        had = {device: self._check_device(device, came) for device, came in self._deliveries.items()}
        self._check_watermarks()
        self._check_routes()
        self._check_returned()
        if drained:
            self._check_lost(had)
        every = [attempt for attempts in self._attempts.values() for attempt in attempts.values()]
        answers = [attempt.answer for attempt in every if attempt.answer is not None]
        changed = {
            message
            for message, attempts in self._attempts.items()
            if next(iter(attempts.values())).sent.change is not None
        }
        notices = sum(len(messages & changed) for messages in had.values())
        pairs = sum(len(messages) for messages in had.values())
        return Verdict(
            acknowledged=sum(
                any(attempt.accepted for attempt in attempts.values())
                for message, attempts in self._attempts.items()
                if message not in changed
            ),
            delivered=pairs - notices,
            group_changes=sum(
                attempt.answer is not None and attempt.answer.error is None
                for message in changed
                for attempt in self._attempts[message].values()
            ),
            notices=notices,
            redelivered=sum(len(came) for came in self._deliveries.values()) - pairs,
            resent=sum(attempt.sent.attempt > 1 for attempt in every),
            refused=sum(1 if answer.error is not None else len(answer.refused) for answer in answers),
            returned=sum(map(len, self._returned.values())),
            faults=tuple(self._faults),
        )

    def _give_back(self) -> None:
        """What another server refused is not lost: which of the attempts it was, nobody can tell."""
        for (message, device), letters in self._returned.items():
            attempts = self._attempts.get(message, {}).values() if message is not None else ()
            accepted = [attempt for attempt in attempts if device in attempt.accepted]
            if len(letters) >= len(accepted):
                for attempt in accepted:
                    attempt.give_back(device)

    def _fault(self, kind: FaultKind, text: str) -> None:
        self._faults.append(Fault(kind, text))

    # -- one receiver -----------------------------------------------------------------------------

    def _check_device(self, device: str, came: list[Delivered]) -> set[Message]:
        """Everything that can be said about one device's deliveries; the messages it has."""
        under: dict[tuple[str, int], Message] = {}
        places: dict[Message, set[tuple[str, int]]] = defaultdict(set)
        highest: dict[int, int] = {}
        latest: dict[tuple[str, int], tuple[int, Message]] = {}
        for one in came:
            message = one.message
            where = f"{device} session {one.session} number {one.number}"
            self._check_number(one, highest, where)
            if message is None or message not in self._attempts:
                self._fault(FaultKind.INVENTED, f"{where}: {_named(message)} was never sent")
                continue
            if one.channel != message.channel:
                self._fault(FaultKind.INVENTED, f"{where}: {_named(message)} came on channel {one.channel}")
            if one.frame != self._sent(message).frame:
                self._fault(FaultKind.INVENTED, f"{where}: {_named(message)} came as type {one.frame}")
            place = one.epoch, one.number
            before = under.setdefault(place, message)
            if before != message:
                self._fault(FaultKind.RENUMBERED, f"{where}: first {_named(before)}, then {_named(message)}")
            if message not in places:
                self._check_addressed(device, message, where)
                self._check_order(device, message, latest, where)
            places[message].add(place)
        for message, where_stored in places.items():
            self._check_copies(device, message, where_stored)
        self._check_told(device, under)
        return set(places)

    def _sent(self, message: Message) -> Sent:
        """Any attempt; they differ in nothing that counts here."""
        return next(iter(self._attempts[message].values())).sent

    def _check_number(self, one: Delivered, highest: dict[int, int], where: str) -> None:
        above = highest.get(one.session)
        if above is not None and one.number == above:
            self._fault(FaultKind.DUPLICATE, f"{where}: delivered twice in one session")
        elif above is not None and one.number < above:
            self._fault(FaultKind.OUT_OF_ORDER, f"{where}: after number {above}")
        highest[one.session] = max(one.number, above or 0)
        opened = self._opened.get((one.device, one.session))
        if opened is not None and one.number <= opened.watermark:
            self._fault(FaultKind.BELOW_WATERMARK, f"{where}: the session began at {opened.watermark}")
        if opened is not None and not opened.receives:
            self._fault(FaultKind.EXCLUDED, f"{where}: the session is send-only")

    def _check_order(
        self, device: str, message: Message, latest: dict[tuple[str, int], tuple[int, Message]], where: str
    ) -> None:
        """Against everything from the same sender and channel that came before.

        A message is late if it was accepted in an attempt that was sent before any attempt of
        another one that is here already. An attempt without an answer proves nothing: its commit may
        have failed while that of the next message succeeded.
        """
        attempts = self._attempts[message].values()
        flow = message.sender, message.channel
        newest = latest.get(flow)
        accepted = min((one.position for one in attempts if device in one.accepted), default=None)
        if newest is not None and accepted is not None and accepted < newest[0]:
            self._fault(FaultKind.OUT_OF_ORDER, f"{where}: {_named(message)} after {_named(newest[1])}")
        first = min((one.position for one in attempts if one.may_be_stored_for(device)), default=-1)
        if newest is None or first > newest[0]:
            latest[flow] = first, message

    def _check_told(self, device: str, under: dict[tuple[str, int], Message]) -> None:
        """After the notice of its removal nothing of a group may come until that of an invitation.

        The numbers of an inbox are the order of commits, so this knows what no clock can tell.
        """
        out: set[str] = set()
        for (epoch, number), message in sorted(under.items(), key=lambda item: item[0]):
            sent = self._sent(message)
            change, group = sent.change, sent.group
            if group is None:
                continue
            if change is not None and device in change.devices:
                if change.event == GroupEvent.REMOVE.value:
                    out.add(group)
                    continue
                if change.event in (GroupEvent.CREATE.value, GroupEvent.INVITE.value):
                    out.discard(group)
            if group in out:
                where = f"{device} number {number} of inbox {epoch}"
                self._fault(FaultKind.EXCLUDED, f"{where}: {_named(message)} after its removal from {group}")

    def _check_addressed(self, device: str, message: Message, where: str) -> None:
        attempts = self._attempts[message].values()
        if any(device in attempt.accepted for attempt in attempts):
            return
        if any(attempt.may_be_stored_for(device) and not attempt.excluded(device) for attempt in attempts):
            return
        open_attempts = [attempt for attempt in attempts if attempt.answer is None]
        if open_attempts and self._routed_later(message, device, open_attempts[0].sent.at):
            return
        if all(attempt.excluded(device) for attempt in attempts):
            self._fault(FaultKind.EXCLUDED, f"{where}: {_named(message)} is not for it")
        else:
            self._fault(FaultKind.INVENTED, f"{where}: {_named(message)} was refused")

    def _routed_later(self, message: Message, device: str, since: int) -> bool:
        # A forgotten copy in a dead connection's buffers takes the route that it finds.
        routes = self._asked[message.sender, message.channel]
        return any(route.at >= since and device in (route.members or ()) for route in routes)

    def _check_copies(self, device: str, message: Message, places: set[tuple[str, int]]) -> None:
        possible = sum(attempt.may_be_stored_for(device) for attempt in self._attempts[message].values())
        if len(places) <= max(1, possible):
            return
        numbers = sorted(number for _, number in places)
        kind = FaultKind.RENUMBERED if len(self._attempts[message]) == 1 else FaultKind.DUPLICATE
        self._fault(
            kind, f"{device}: {_named(message)} came under {numbers}, sent {possible} time(s) at most"
        )

    # -- everything together ----------------------------------------------------------------------

    def _check_lost(self, had: dict[str, set[Message]]) -> None:
        for message, attempts in self._attempts.items():
            accepted = frozenset[str]().union(*(attempt.accepted for attempt in attempts.values()))
            for device in sorted(accepted):
                if message not in had.get(device, ()):
                    self._fault(FaultKind.LOST, f"{_named(message)} never reached {device}")

    def _check_watermarks(self) -> None:
        for device, records in self._sessions.items():
            confirmed = 0
            for record in records:
                if isinstance(record, Confirmed):
                    confirmed = max(confirmed, record.number)
                    continue
                if not record.delivery_ack:
                    break  # its transport confirms; nobody here can know what
                confirmed = max(confirmed, record.resume or 0)
                if record.watermark > confirmed:
                    text = f"{device} session {record.session}: watermark {record.watermark}"
                    self._fault(FaultKind.UNCONFIRMED, f"{text}, confirmed up to {confirmed}")

    def _check_returned(self) -> None:
        """Another server may refuse a message for good only where a route of the receiver shuts it out."""
        for (message, device), letters in self._returned.items():
            if message is None or message not in self._attempts:
                self._fault(FaultKind.INVENTED, f"a payload of nobody was refused for {device}")
                continue
            routes = self._asked[device, message.channel]
            if not any(message.sender not in (route.members or ()) for route in routes):
                text = f"{_named(message)} was refused for {device}, which lets it in: {letters[0].reason}"
                self._fault(FaultKind.LOST, text)

    def _check_routes(self) -> None:
        """Nothing may be accepted for a device whose own route shuts the sender out all the while."""
        certain: dict[tuple[str, int], list[_Route]] = {}
        for key, changes in self._set.items():
            asked = sorted(route.at for route in self._asked[key])
            certain[key] = [
                _Route(
                    change.at,
                    next((at for at in asked if at > change.at), float("inf")),
                    change.members,
                )
                for change in changes
                if change.group is None  # the members decide who is heard there, not this device
            ]
        arrived: dict[tuple[str, Message | None], int] = {}
        for device, came in self._deliveries.items():
            for one in came:
                arrived.setdefault((device, one.message), one.at)
        for message, attempts in self._attempts.items():
            for attempt in attempts.values():
                if attempt.answer is None:
                    continue
                for device in attempt.accepted:
                    decided = attempt.answer.at
                    if device in attempt.sent.afar:
                        # Its own server decides, some time before it has the message.
                        decided = arrived.get((device, message), maxsize)
                    for route in certain.get((device, message.channel), ()):
                        if (
                            route.members is not None
                            and message.sender not in route.members
                            and route.start < attempt.sent.at
                            and decided < route.end
                        ):
                            text = f"{_named(message)} was accepted for {device}, whose route shuts it out"
                            self._fault(FaultKind.EXCLUDED, text)


def _named(message: Message | None) -> str:
    if message is None:
        return "a payload of nobody"
    return f"{message.sender}'s message {message.sequence} on channel {message.channel} ({message.id})"
