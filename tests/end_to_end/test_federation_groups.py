"""A group with members on two real servers: made on one, joined on the other, and changed from there."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from commucat_cli.client import Connection, connect
from commucat_crypto import DeviceKeyPair, StaticKeyPair
from commucat_proto import DELIVERY_ACK, ClientParameters, Frame, FrameType, UserHint, json_text
from end_to_end.federated_servers import domain_of, federated
from end_to_end.raw_people import CHANNEL, device_id, reach
from end_to_end.server_process import ServerProcess

GROUP = {"group_id": "of-two-servers"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    with federated(tmp_path_factory.mktemp("servers"), "a.test", "b.test") as servers:
        yield servers


@asynccontextmanager
async def session(server: ServerProcess, name: str) -> AsyncIterator[Connection]:
    where = await reach(server)
    parameters = ClientParameters(
        domain=domain_of(server),
        server_static=where.noise_public,
        device_id=device_id(name),
        device_keys=DeviceKeyPair.from_seed(name.encode() * 32),
        static=StaticKeyPair.generate(),
        user=UserHint(handle=name),
        capabilities=(DELIVERY_ACK,),
    )
    async with connect(where.address, where.trust, parameters) as connection:
        yield connection


async def ask(connection: Connection, kind: FrameType, value: dict[str, Any]) -> None:
    answer = await connection.request(kind, CHANNEL, json_text.dumps(GROUP | value))
    assert answer.error is None, answer
    assert answer.refused == ()


async def until(connection: Connection, kind: FrameType, text: str = "") -> Frame:
    """The next frame of a type, with the text in it."""
    while True:
        for frame in await connection.deliveries():
            if frame.type is kind and text.encode() in frame.payload:
                return frame


async def test_a_group_of_two_servers(servers: list[ServerProcess]) -> None:
    a, b = servers
    bob = f"{device_id('bob')}@{domain_of(b)}"
    with trio.fail_after(60):
        async with session(a, "ann") as ann, session(b, "bob") as bobs:
            await ask(ann, FrameType.GROUP_CREATE, {"members": [bob], "roles": {bob: "admin"}})
            told = json.loads((await until(bobs, FrameType.GROUP_CREATE)).payload)
            assert told["group_id"] == GROUP["group_id"]

            await ask(bobs, FrameType.JOIN, {})
            await bobs.request(FrameType.MSG, CHANNEL, b"from bob")
            assert (await until(ann, FrameType.MSG)).payload == b"from bob"
            await ann.request(FrameType.MSG, CHANNEL, b"from ann")
            assert (await until(bobs, FrameType.MSG)).payload == b"from ann"

            # The other server cannot remove the owner; its word comes back.
            removal = {"event": "remove", "device": f"{device_id('ann')}@{domain_of(a)}"}
            await ask(bobs, FrameType.GROUP_EVENT, removal)
            refused = json.loads((await until(bobs, FrameType.GROUP_EVENT, "refused")).payload)
            assert refused == {**GROUP, "event": "group-change-refused", "reason": "not_allowed"}

            await ask(bobs, FrameType.GROUP_EVENT, {"event": "leave"})
            assert json.loads((await until(ann, FrameType.GROUP_EVENT)).payload)["event"] == "leave"
            alone = await ann.request(FrameType.MSG, CHANNEL, b"to nobody")
            assert alone.error is not None
