"""One device that sends a frame of every type, after something was prepared against it."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from commucat_media import AudioCodec, AudioPacket, MediaSource, encode_packet
from commucat_proto import FrameType
from commucat_storage import SqliteSettings
from server.connect_builders import Client, Person, Server, running_server

ALICE, BOB, CAROL, DAVE = (Person(handle=name) for name in ("alice", "bob", "carol", "dave"))
PLAIN, GROUPED, OTHER = 7, 8, 9
"""Channels: a route to bob; the group that alice is in; a group that alice has made."""
GROUP = "hikers"
MEDIA = encode_packet(AudioPacket(source=MediaSource.ENCODED, codec=AudioCodec.OPUS, data=b"v"))


@attrs.define(eq=False)
class Stage:
    """Alice, whose frames are looked at, with bob and carol; all of them in a group and in a call.

    The attributes say what alice's next frames are about; a situation may change them.
    """

    server: Server
    path: Path
    alice: Client
    bob: Client
    carol: Client
    channel: int = GROUPED
    group: str = GROUP
    joined: str = GROUP
    created: str = "new"
    created_members: tuple[str, ...] = ()
    invited: str = DAVE.device_id
    call: str = f"call-{GROUPED}"
    offered: str = "offer"
    acked: int = 0
    media: bytes = MEDIA
    update: dict[str, Any] = attrs.field(
        factory=lambda: {"update": "candidate", "candidate": {"address": "192.0.2.7", "port": 4000}}
    )
    change: dict[str, str] = attrs.field(
        factory=lambda: {"event": "role", "device": CAROL.device_id, "role": "member"}
    )

    def frames(self) -> Iterable[tuple[FrameType, int, Any]]:
        """(type, channel, payload) of every type that a session has a use for; what ends things is last."""
        call = {"call_id": self.call}
        yield FrameType.PRESENCE, 0, {"state": "away"}
        yield FrameType.ACK, 0, {"ack": self.acked}
        yield FrameType.MSG, self.channel, b"message"
        yield FrameType.KEY_UPDATE, self.channel, {}
        yield FrameType.TYPING, self.channel, {}
        yield FrameType.VOICE_FRAME, self.channel, self.media
        yield FrameType.VIDEO_FRAME, self.channel, self.media
        yield FrameType.GROUP_EVENT, self.channel, {"group_id": self.group, "event": "note"}
        yield FrameType.CALL_OFFER, self.channel, {"call_id": self.offered, "from": ALICE.device_id, "to": []}
        yield FrameType.CALL_STATS, self.channel, {**call, "direction": "send"}
        yield FrameType.TRANSPORT_UPDATE, self.channel, {**call, **self.update}
        yield FrameType.CALL_ANSWER, self.channel, {**call, "accept": True}
        yield FrameType.CALL_END, self.channel, {**call, "reason": "hangup"}
        yield FrameType.GROUP_INVITE, self.channel, {"group_id": self.group, "device": self.invited}
        yield FrameType.GROUP_EVENT, self.channel, {"group_id": self.group, **self.change}
        yield FrameType.GROUP_CREATE, 32, {"group_id": self.created, "members": list(self.created_members)}
        yield FrameType.JOIN, 30, {"group_id": self.joined}
        yield FrameType.JOIN, 31, {"members": [BOB.device_id]}
        yield FrameType.LEAVE, 31, {}

    async def answers(self) -> list[tuple[FrameType, dict[str, Any]]]:
        """Send everything; what each frame was answered, for those that were."""
        sent = {self.alice.send(kind, channel, payload): kind for kind, channel, payload in self.frames()}
        answers: list[tuple[FrameType, dict[str, Any]]] = []
        # Leave is the last: the journal answers in order, and what is refused at once came before.
        for value in await self.collect(max(sent)):
            number = value.get("ack", value.get("ref"))
            if number in sent:
                answers.append((sent[number], value))
        return answers

    async def collect(self, last: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while not found or last not in (found[-1].get("ack"), found[-1].get("ref")):
            frame = await self.alice.next_frame()
            assert frame is not None, "the session ended"
            if frame.type in (FrameType.ACK, FrameType.ERROR):
                assert isinstance(frame.control, dict)
                found.append(frame.control)
        return found


async def ask(client: Client, frame_type: FrameType, channel: int, value: Any) -> dict[str, Any]:
    """Send what must be accepted."""
    answer = await client.answer(client.send(frame_type, channel, value))
    assert "ack" in answer, answer
    return answer


@asynccontextmanager
async def stage(path: Path, *, max_frame_len: int = 2**20, **limits: int) -> AsyncIterator[Stage]:
    async with running_server(path, sqlite=SqliteSettings(**limits), max_frame_len=max_frame_len) as server:
        bob, carol = await server.connect(BOB), await server.connect(CAROL)
        await server.connect(DAVE)
        alice = await server.connect(ALICE)
        await alice.join(PLAIN, BOB.device_id)
        await bob.join(PLAIN, ALICE.device_id)
        members = {"members": [ALICE.device_id, CAROL.device_id], "roles": {ALICE.device_id: "admin"}}
        await ask(bob, FrameType.GROUP_CREATE, GROUPED, {"group_id": GROUP, **members})
        await ask(alice, FrameType.JOIN, GROUPED, {"group_id": GROUP})
        await ask(alice, FrameType.GROUP_CREATE, OTHER, {"group_id": "other", "members": [BOB.device_id]})
        for channel in (PLAIN, GROUPED):
            call = {"call_id": f"call-{channel}", "from": BOB.device_id, "to": []}
            await ask(bob, FrameType.CALL_OFFER, channel, call)
        yield Stage(server, path, alice, bob, carol)
