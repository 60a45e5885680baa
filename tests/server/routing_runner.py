"""Plays a script against a whole server and against :mod:`server.routing_model`, and compares."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs
import trio

from commucat_crypto import NoisePattern
from commucat_media import AudioCodec, AudioPacket, MediaSource, encode_packet
from commucat_proto import DELIVERY_ACK, SEND_ONLY, Frame, FrameType, Resume, json_text
from server.connect_builders import NOW, Client, Person, Server
from server.routing_model import Answer, ModelDevice, ModelRoute, Passed, RoutingModel

USERS = {"a": "alice", "a2": "alice", "b": "bob", "c": "carol", "m": "mallory", "r": "rita"}
PEOPLE = {name: Person(handle=user, device_id=name) for name, user in USERS.items()}
SPARE_CHANNEL = 99
DURABLE = {FrameType.MSG, FrameType.KEY_UPDATE}
STORED = DURABLE | {FrameType.GROUP_CREATE, FrameType.GROUP_INVITE, FrameType.GROUP_EVENT}
POLICY = {"join_by_handle": True, "max_auto_devices_per_user": 4}


@attrs.define(eq=False)
class Line:
    """One connection of a device; a task of its own reads everything."""

    device_id: str
    client: Client
    receives: bool
    expected_from: int
    """Inbox number below the first one that this connection may be sent."""
    acks: bool = True
    """It confirms what it receives; else its transport does, at its own time."""
    asked: list[tuple[int, int]] = attrs.Factory(list)
    """(sequence, channel) of every frame that must be answered."""
    expected: list[tuple[int, Answer]] = attrs.Factory(list)
    answers: list[Frame] = attrs.Factory(list)
    stored: list[Frame] = attrs.Factory(list)
    live: list[Passed] = attrs.Factory(list)
    expected_live: list[Passed] = attrs.Factory(list)
    last_words: list[str] = attrs.Factory(list)
    ended: bool = False
    changed: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)

    @property
    def name(self) -> str:
        """Each session of a device has an order of its own."""
        return self.device_id if self.receives else f"{self.device_id}/2"

    async def read(self) -> None:
        while (frame := await self.client.next_frame()) is not None:
            self._take(frame)
            self.changed.unpark_all()
        self.ended = True
        self.changed.unpark_all()

    def _take(self, frame: Frame) -> None:
        value: Any = None if frame.type.is_opaque else frame.control
        if frame.type in STORED:
            self.stored.append(frame)
        elif frame.type is FrameType.ACK or "ref" in (value or {}):
            self.answers.append(frame)
        elif frame.type is FrameType.ERROR:
            self.last_words.append(value["error"])
        else:
            self.live.append(Passed(frame.type, frame.channel, value if value is not None else frame.payload))

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert not self.ended, f"{self.device_id} was cut off: {self.last_words}"
            await self.changed.park()

    def send(self, frame_type: FrameType, channel: int, payload: Any, answer: Answer) -> None:
        sequence = self.client.send(frame_type, channel, payload)
        self.asked.append((sequence, channel))
        self.expected.append((sequence, answer))

    async def answered(self) -> None:
        await self.until(lambda: len(self.answers) >= len(self.asked))

    async def settle(self) -> None:
        """Whatever was committed for this device before has come, and what nobody expects, too."""
        for _ in range(2):
            self.send(FrameType.LEAVE, SPARE_CHANNEL, {}, Answer())
            await self.answered()


def value_of(frame: Frame) -> Any:
    """As the model has it: control frames that the server rewrites by their object."""
    return frame.payload if frame.type in DURABLE else dict(frame.control)  # type: ignore[arg-type]


@attrs.define(eq=False)
class Runner:
    """A server, its model, and who is connected. Every script leads to the same checks."""

    server: Server
    nursery: trio.Nursery
    model: RoutingModel = attrs.Factory(
        lambda: RoutingModel({name: ModelDevice(user) for name, user in USERS.items()})
    )
    main: dict[str, Line] = attrs.Factory(dict)
    second: dict[str, Line] = attrs.Factory(dict)
    tags: Iterator[int] = attrs.Factory(itertools.count)
    volley: int = 0
    """Number of the volley that is being sent, if one is."""
    epochs: dict[str, str] = attrs.Factory(dict)
    by_transport: set[str] = attrs.Factory(set)
    """Devices whose last session left confirming to its transport."""

    # -- connections

    async def connect(self, name: str, *, ik: bool = False, resume: bool = False, acks: bool = True) -> None:
        """A receiving session; an older one is told and ends."""
        device = self.model.devices[name]
        old = self.main.pop(name, None)
        point = None
        if resume and name in self.epochs:
            point = Resume(epoch=self.epochs[name], ack=len(device.stored))
        client = await self.server.connect(
            PEOPLE[name],
            pattern=NoisePattern.IK if ik else NoisePattern.XK,
            resume=point,
            capabilities=(DELIVERY_ACK,) if acks else (),
        )
        if device.revoked:
            assert client.refused is not None
            assert client.refused["detail"] == "invalid request"
            if old is not None:
                self.main[name] = old
            return
        if old is not None:
            await old.until(lambda: bool(old.last_words))
            assert old.last_words == ["replaced"]
            self.compare(old)
        if point is not None:
            device.confirmed = max(device.confirmed, point.ack)
        inbox = client.ack["inbox"]
        assert inbox["next"] == len(device.stored) + 1
        assert device.confirmed <= inbox["confirmed"] <= len(device.stored)
        if name not in self.by_transport:
            assert inbox["confirmed"] == device.confirmed
        device.confirmed = inbox["confirmed"]
        self.by_transport.discard(name)
        if not acks:
            self.by_transport.add(name)
        self.epochs[name] = inbox["epoch"]
        line = Line(name, client, receives=True, expected_from=device.confirmed, acks=acks)
        self.nursery.start_soon(line.read)
        self.main[name] = line
        await self.caught_up(line)

    async def open_second(self, name: str) -> None:
        """A session that only sends; opened again, the one before it is left in order."""
        if name in self.second or self.model.devices[name].revoked:
            return
        client = await self.server.connect(PEOPLE[name], capabilities=(DELIVERY_ACK, SEND_ONLY))
        line = Line(name, client, receives=False, expected_from=0)
        self.nursery.start_soon(line.read)
        self.second[name] = line

    async def drop(self, name: str, *, polite: bool) -> None:
        """End the receiving session from the client's side."""
        line = self.main.pop(name, None)
        if line is None:
            return
        if polite:
            line.client.stream.close()
        else:
            line.client.stream.lose()
        while not line.ended:
            await line.changed.park()
        while self.server.context.registry.receiver(name) is not None:
            await trio.lowlevel.checkpoint()

    async def confirm(self, name: str) -> None:
        line, device = self.main.get(name), self.model.devices[name]
        if line is not None and line.acks:
            line.client.send(FrameType.ACK, 0, {"ack": len(device.stored)})
            await line.settle()
            device.confirmed = len(device.stored)

    async def revoke(self, name: str) -> None:
        await self.server.storage.revoke_device(name, NOW)
        self.model.devices[name].revoked = True

    # -- frames

    def send(self, name: str, via_second: bool, frame: tuple[Any, ...]) -> None:
        """Send one frame and let the model say what comes of it; nothing if the device is not connected."""
        line = self.second.get(name) if via_second else None
        line = line or self.main.get(name) or self.second.get(name)
        if line is not None:
            kind, *arguments = frame
            getattr(self, f"_{kind}")(line, *arguments)
            self.model.note_acquaintances()

    def send_together(self, frames: Iterable[tuple[str, bool, tuple[Any, ...]]]) -> None:
        """Send frames of several devices at once."""
        self.volley = next(self.tags) + 1
        for name, via_second, frame in frames:
            self.send(name, via_second, frame)
        self.volley = 0

    def _join(self, line: Line, channel: int, members: list[str]) -> None:
        answer = self.model.join(line.device_id, channel, ModelRoute(frozenset(members)))
        line.send(FrameType.JOIN, channel, {"members": members}, answer)

    def _join_group(self, line: Line, channel: int, group_id: str) -> None:
        answer = self.model.join(line.device_id, channel, ModelRoute(group=group_id))
        line.send(FrameType.JOIN, channel, {"group_id": group_id}, answer)

    def _leave(self, line: Line, channel: int) -> None:
        line.send(FrameType.LEAVE, channel, {}, self.model.leave(line.device_id, channel))

    def _message(self, line: Line, channel: int, frame_type: FrameType) -> None:
        payload = json_text.dumps({"from": line.name, "tag": next(self.tags)})
        answer, accepted = self.model.send(line.device_id, channel, frame_type, payload)
        self.model.store(accepted, Passed(frame_type, channel, payload, self.volley))
        line.send(frame_type, channel, payload, answer)

    def _typing(self, line: Line, channel: int) -> None:
        value = {"from": line.name, "tag": next(self.tags)}
        self._live(line, FrameType.TYPING, channel, value, {**value, "device": line.device_id})

    def _voice(self, line: Line, channel: int) -> None:
        data = f"{line.name} {next(self.tags)}".encode()
        packet = encode_packet(AudioPacket(source=MediaSource.ENCODED, codec=AudioCodec.OPUS, data=data))
        self._live(line, FrameType.VOICE_FRAME, channel, packet, packet)

    def _live(self, line: Line, frame_type: FrameType, channel: int, payload: Any, passed: Any) -> None:
        answer, accepted = self.model.send(line.device_id, channel, frame_type, passed)
        for receiver in accepted:
            if receiver in self.main:
                self.main[receiver].expected_live.append(Passed(frame_type, channel, passed))
        line.send(frame_type, channel, payload, answer)

    def _create(self, line: Line, channel: int, group_id: str, roles: dict[str, str]) -> None:
        value = {"group_id": group_id, "members": list(roles), "roles": roles, "name": next(self.tags)}
        answer = self.model.create(line.device_id, channel, group_id, roles, value)
        line.send(FrameType.GROUP_CREATE, channel, value, answer)

    def _invite(self, line: Line, channel: int, group_id: str, device_id: str, role: str) -> None:
        value = {"group_id": group_id, "device": device_id, "role": role, "tag": next(self.tags)}
        answer = self.model.invite(line.device_id, channel, group_id, device_id, role, value)
        line.send(FrameType.GROUP_INVITE, channel, value, answer)

    def _event(self, line: Line, channel: int, group_id: str, event: str, device_id: str, role: str) -> None:
        value = {"group_id": group_id, "event": event, "device": device_id, "tag": next(self.tags)}
        if event == "free":
            sender = line.device_id
            answer = self.model.free_event(sender, channel, group_id)
            if answer is None:
                answer, accepted = self.model.send(sender, channel, FrameType.GROUP_EVENT, value)
                self.model.store(accepted, Passed(FrameType.GROUP_EVENT, channel, value))
        else:
            value["role"] = role
            target = line.device_id if event == "leave" else device_id
            answer = self.model.change(line.device_id, channel, group_id, event, target, role, value)
        line.send(FrameType.GROUP_EVENT, channel, value, answer)

    def _presence(self, line: Line, state: str) -> None:
        line.client.send(FrameType.PRESENCE, 0, {"state": state})

    # -- checks

    async def caught_up(self, line: Line) -> None:
        if line.receives:
            wanted = len(self.model.devices[line.device_id].stored) - line.expected_from
            await line.until(lambda: len(line.stored) >= wanted)

    async def settle(self) -> None:
        """Wait for everything that the model expects, then for what it does not, and compare."""
        lines = [*self.main.values(), *self.second.values()]
        for line in lines:
            await line.answered()
        for line in lines:
            await self.caught_up(line)
            await line.settle()
        for line in lines:
            self.compare(line)

    def compare(self, line: Line) -> None:
        self._compare_answers(line)
        if not line.receives:
            assert (line.stored, line.live, line.client.presence) == ([], [], [])
            return
        device = self.model.devices[line.device_id]
        start = line.expected_from
        found = [Passed(f.type, f.channel, value_of(f)) for f in line.stored]
        assert [f.sequence for f in line.stored] == list(range(start + 1, len(device.stored) + 1))
        learn_order(device.stored, found)
        assert found == device.stored[start:]
        assert by_sender(line.live) == by_sender(line.expected_live)
        for notice in line.client.presence:
            entity = notice.control["entity"]  # type: ignore[index, call-overload]
            assert frozenset((entity, line.device_id)) in self.model.acquainted

    def _compare_answers(self, line: Line) -> None:
        assert len(line.answers) <= len(line.asked)
        for frame, (sequence, channel), (_, answer) in zip(
            line.answers, line.asked, line.expected, strict=False
        ):
            value: dict[str, Any] = dict(frame.control)  # type: ignore[arg-type]
            assert frame.channel == channel
            named = tuple(
                (each["device"], each["reason"]) for each in value.pop("refused", ()) if each["device"]
            )
            assert named == answer.refused
            if answer.error is None:
                assert (frame.type, value) == (FrameType.ACK, {"ack": sequence, **answer.extra})
            else:
                assert (frame.type, value["ref"], value["error"]) == (FrameType.ERROR, sequence, answer.error)


def learn_order(stored: list[Passed], found: list[Passed]) -> None:
    """Put each volley in ``stored`` into the order in which it was found, where that is an allowed one."""
    start = len(stored) - len(found)
    for volley in {each.volley for each in stored[start:]} - {0}:
        places = [place for place, each in enumerate(stored) if each.volley == volley]
        seen = [found[place - start] for place in places if place >= start]
        unseen = [stored[place] for place in places]
        for each in seen:
            assert each in unseen
            unseen.remove(each)
        order = [*unseen, *seen]
        assert by_sender(order) == by_sender(stored[place] for place in places)
        for place, each in zip(places, order, strict=True):
            stored[place] = attrs.evolve(each, volley=volley)


def by_sender(passed: Iterable[Passed]) -> dict[str, list[Passed]]:
    """The frames of each session, in their order."""
    found: dict[str, list[Passed]] = {}
    for each in passed:
        found.setdefault(_sender_of(each.payload), []).append(each)
    return found


def _sender_of(payload: Any) -> str:
    if isinstance(payload, dict):
        return str(payload["from"])
    if payload.startswith(b"{"):
        return str(json_text.loads(payload)["from"])
    return bytes(payload[3:]).split()[0].decode()  # voice, behind its header
