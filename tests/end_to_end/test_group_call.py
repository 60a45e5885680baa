"""Eight devices in one group call of a real server, over TLS and HTTP/2."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from commucat_cli.client import Connection
from commucat_media import (
    AudioCodec,
    MediaSource,
    StreamPacket,
    VideoCodec,
    decode_audio_any,
    decode_video_any,
    encode_stream_packet,
)
from commucat_proto import CALL_MEDIA, DELIVERY_ACK, Frame, FrameType, json_text
from end_to_end.raw_people import CHANNEL, Reach, device, device_id, reach
from end_to_end.server_process import server_process

NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
CALL = "call-of-eight"
PATIENCE = 60.0


@attrs.define(eq=False)
class Party:
    """One device in the call, and everything it was sent, as it came."""

    name: str
    connection: Connection
    frames: list[Frame] = attrs.Factory(list)
    came: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)
    reading: trio.Event = attrs.Factory(trio.Event)

    async def read(self) -> None:
        while True:
            await self.reading.wait()
            self.frames += await self.connection.deliveries()
            self.came.unpark_all()

    async def until(self, count: int, frame_type: FrameType, *streams: int) -> list[Frame]:
        """The frames of this type (of these streams) once there are so many."""
        with trio.fail_after(PATIENCE):
            while True:
                found = [
                    each
                    for each in self.frames
                    if each.type is frame_type and (not streams or stream_of(each) in streams)
                ]
                if len(found) >= count:
                    return found
                await self.came.park()

    @property
    def stream(self) -> int:
        return NAMES.index(self.name) + 1

    async def say(self, frame_type: FrameType, value: dict[str, Any]) -> None:
        answer = await self.connection.request(frame_type, CHANNEL, json_text.dumps(value))
        assert answer.error is None, answer.error

    def speak(self, number: int, stream: int | None = None) -> bytes:
        packet = StreamPacket(
            source=MediaSource.ENCODED,
            codec=AudioCodec.OPUS,
            data=b"%s says %d" % (self.name.encode(), number),
            stream=stream or self.stream,
            number=number,
            timestamp=number * 960,
            level=20,
        )
        payload = encode_stream_packet(packet)
        self.connection.send_frame(FrameType.VOICE_FRAME, CHANNEL, payload)
        return payload

    def show(self, number: int, *, key: bool, size: int = 100) -> bytes:
        packet = StreamPacket(
            source=MediaSource.ENCODED,
            codec=VideoCodec.VP8,
            data=bytes(size),
            stream=100 + self.stream,
            number=number,
            timestamp=number * 3000,
            key_frame=key,
        )
        payload = encode_stream_packet(packet)
        self.connection.send_frame(FrameType.VIDEO_FRAME, CHANNEL, payload)
        return payload


def stream_of(frame: Frame) -> int:
    read = decode_audio_any if frame.type is FrameType.VOICE_FRAME else decode_video_any
    packet = read(frame.payload)
    assert isinstance(packet, StreamPacket)
    return packet.stream


@pytest.fixture
async def where(tmp_path: Path) -> AsyncIterator[Reach]:
    with server_process(tmp_path) as server:
        yield await reach(server)
        assert "Traceback" not in server.log.read_text()


@asynccontextmanager
async def call_of_eight(where: Reach) -> AsyncIterator[list[Party]]:
    """Everybody connected, in one group, and in the call that Alice began."""
    async with AsyncExitStack() as stack:
        parties = [
            Party(name, await stack.enter_async_context(device(where, name, DELIVERY_ACK, CALL_MEDIA)))
            for name in NAMES
        ]
        async with trio.open_nursery() as nursery:
            for party in parties:
                party.reading.set()
                nursery.start_soon(party.read)
            await begin_call(parties)
            yield parties
            nursery.cancel_scope.cancel()


async def begin_call(parties: list[Party]) -> None:
    alice, *others = parties
    names = [device_id(each.name) for each in others]
    await alice.say(FrameType.GROUP_CREATE, {"group_id": "eight", "members": names, "relay": True})
    for each in others:
        await each.say(FrameType.JOIN, {"group_id": "eight"})
    await alice.say(FrameType.CALL_OFFER, {"call_id": CALL, "from": device_id("alice"), "to": names})
    for each in others:
        await each.until(1, FrameType.CALL_OFFER)
        await each.say(FrameType.CALL_ANSWER, {"call_id": CALL, "accept": True})


def updates(party: Party, name: str) -> list[dict[str, Any]]:
    found = [each.control for each in party.frames if each.type is FrameType.TRANSPORT_UPDATE]
    return [each for each in found if isinstance(each, dict) and each["update"] == name]


async def test_eight_hear_each_other_choose_and_lose_only_media(where: Reach) -> None:
    async with call_of_eight(where) as parties:
        alice, bob, carol, *_ = parties

        # Each gets the streams of the seven others, byte for byte and in order, and knows whose they are.
        sent = {party.stream: [party.speak(number) for number in range(20)] for party in parties}
        for party in parties:
            await party.until(7 * 20, FrameType.VOICE_FRAME)
            for stream, payloads in sent.items():
                got = await party.until(0, FrameType.VOICE_FRAME, stream)
                assert [each.payload for each in got] == ([] if stream == party.stream else payloads)
            owners = {
                each["device"]: [stream["stream"] for stream in each["streams"]]
                for each in updates(party, "streams")
            }
            assert owners == {device_id(each.name): [each.stream] for each in parties if each is not party}

        # Bob pauses Alice's video, and takes it up again with a key frame.
        key = alice.show(0, key=True)
        assert [each.payload for each in await bob.until(1, FrameType.VIDEO_FRAME)] == [key]
        await bob.say(FrameType.TRANSPORT_UPDATE, {"call_id": CALL, "update": "receive", "video": []})
        alice.show(1, key=False)
        await carol.until(2, FrameType.VIDEO_FRAME)
        await bob.say(FrameType.TRANSPORT_UPDATE, {"call_id": CALL, "update": "receive"})
        alice.show(2, key=False)
        await carol.until(3, FrameType.VIDEO_FRAME)
        key = alice.show(3, key=True)
        assert [each.payload for each in await bob.until(2, FrameType.VIDEO_FRAME)][1:] == [key]

        # Heidi stops reading: what she misses is media, and not one message.
        heidi = parties[-1]
        heidi.reading = trio.Event()
        for number in range(4, 204):
            alice.show(number, key=number % 50 == 4, size=40_000)
            await carol.until(number + 1, FrameType.VIDEO_FRAME)
            if number % 20 == 0:
                await alice.connection.request(FrameType.MSG, CHANNEL, b"message %d" % number)
        heidi.reading.set()
        messages = await heidi.until(10, FrameType.MSG)
        assert [each.payload for each in messages] == [b"message %d" % each for each in range(20, 204, 20)]
        numbers = [each.sequence for each in messages]
        assert numbers == list(range(numbers[0], numbers[0] + 10))
        assert len(await heidi.until(0, FrameType.VIDEO_FRAME)) < 200
        assert updates(alice, "congestion")

        # Dave is removed from the group, and neither hears nor is heard any more.
        dave = parties[3]
        gone = {"group_id": "eight", "event": "remove", "device": device_id("dave")}
        await alice.say(FrameType.GROUP_EVENT, gone)
        heard = len(await dave.until(0, FrameType.VOICE_FRAME))
        answer = await dave.connection.request(FrameType.VOICE_FRAME, CHANNEL, dave.speak(20))
        assert answer.error == "not_member"
        for number in range(20, 40):
            carol.speak(number)
        await bob.until(40, FrameType.VOICE_FRAME, carol.stream)
        assert len(await bob.until(0, FrameType.VOICE_FRAME, dave.stream)) == 20
        await dave.connection.request(FrameType.LEAVE, CHANNEL + 1, b"{}")
        assert len(await dave.until(0, FrameType.VOICE_FRAME)) == heard
