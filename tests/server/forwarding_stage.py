"""People in a group call over the wire, and what they say in it."""

from collections.abc import Sequence
from typing import Any

import attrs

from commucat_media import encode_stream_packet
from commucat_proto import CALL_MEDIA, DELIVERY_ACK, FrameType
from server.connect_builders import Client, Person, Server
from server.forwarding_builders import picture, sound

CHANNEL = 7
CALL = "call-1"
PEOPLE = [Person(handle=name) for name in ("alice", "bob", "carol", "dave")]
ALICE, BOB, CAROL, DAVE = PEOPLE
NEW = (DELIVERY_ACK, CALL_MEDIA)
OLD = (DELIVERY_ACK,)


async def in_call(server: Server, *capabilities: Sequence[str]) -> list[Client]:
    """So many people as capabilities are given for, connected and in one group call that Alice began."""
    people = PEOPLE[: len(capabilities)]
    clients = [
        await server.connect(person, capabilities=tuple(each))
        for person, each in zip(people, capabilities, strict=True)
    ]
    alice, *others = clients
    names = [each.device_id for each in people[1:]]
    group = {"group_id": "group", "members": names, "roles": {}, "relay": True}
    assert "ack" in await alice.answer(alice.send(FrameType.GROUP_CREATE, CHANNEL, group))
    for each in others:
        assert "ack" in await each.answer(each.send(FrameType.JOIN, CHANNEL, {"group_id": "group"}))
    offer = {"call_id": CALL, "from": ALICE.device_id, "to": names}
    assert "ack" in await alice.answer(alice.send(FrameType.CALL_OFFER, CHANNEL, offer))
    for each in others:
        await each.next_of(FrameType.CALL_OFFER)
        assert "ack" in await say(each, FrameType.CALL_ANSWER, {"accept": True})
    for each in clients:
        # Everybody has read everything that the call's beginning brought.
        await each.answer(each.send(FrameType.LEAVE, CHANNEL + 1, {}))
        each.forget()
    return clients


async def say(client: Client, frame_type: FrameType, value: dict[str, Any]) -> dict[str, Any]:
    return await client.answer(client.send(frame_type, CHANNEL, {"call_id": CALL, **value}))


def voice(client: Client, stream: int, number: int = 0, **more: Any) -> bytes:
    payload = encode_stream_packet(sound(stream, number, **more))
    client.send(FrameType.VOICE_FRAME, CHANNEL, payload)
    return payload


def video(client: Client, stream: int, number: int = 0, **more: Any) -> bytes:
    payload = encode_stream_packet(picture(stream, number, **more))
    client.send(FrameType.VIDEO_FRAME, CHANNEL, payload)
    return payload


async def update(client: Client, name: str) -> dict[str, Any]:
    """The next TransportUpdate of this kind."""
    while True:
        value = (await client.next_of(FrameType.TRANSPORT_UPDATE)).control
        assert isinstance(value, dict)
        if value["update"] == name:
            assert value["call_id"] == CALL
            return value


@attrs.define
class Clock:
    """The forwarder's time, which stands still while the store's threads work."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now
