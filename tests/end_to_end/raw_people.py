"""Devices that speak raw Msg frames over real TLS and HTTP/2, for tests that break things."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from commucat_cli.client import Connection, connect
from commucat_cli.transport import ServerAddress, Timeouts, Trust, Via, open_h2
from commucat_crypto import DeviceKeyPair, StaticKeyPair
from commucat_proto import DELIVERY_ACK, SEND_ONLY, ClientParameters, FrameType, UserHint
from end_to_end.server_process import ServerProcess

CHANNEL = 7


def device_id(name: str) -> str:
    """``name@domain``: of a device of another server."""
    return f"device-of-{name}"


@attrs.frozen
class Reach:
    """How to reach a server, and the key that it must have."""

    address: ServerAddress
    trust: Trust
    noise_public: bytes
    domain: str = "localhost"


async def reach(server: ServerProcess) -> Reach:
    address = ServerAddress(host="localhost", port=server.port)
    trust = Trust(ca_file=server.ca_file)
    async with open_h2(address, trust, Timeouts()) as client:
        response = await client.get("/api/server-info", [])
    info = json.loads(response.body)
    return Reach(address, trust, bytes.fromhex(info["noise_public"]), info["domain"])


@asynccontextmanager
async def device(
    where: Reach,
    name: str,
    *capabilities: str,
    handle: str | None = None,
    via: Via = Via.BINARY,
    code: str | None = None,
) -> AsyncIterator[Connection]:
    """A session of a device; of the user ``handle``, if it is not one of its own, let in by ``code``."""
    parameters = ClientParameters(
        domain=where.domain,
        server_static=where.noise_public,
        device_id=device_id(name),
        device_keys=DeviceKeyPair.from_seed(name.encode() * 32),
        static=StaticKeyPair.generate(),
        user=UserHint(handle=handle or name),
        capabilities=capabilities,
        code=code,
    )
    async with connect(where.address, where.trust, parameters, via=via) as connection:
        yield connection


@asynccontextmanager
async def sender(where: Reach, name: str, *members: str, via: Via = Via.BINARY) -> AsyncIterator[Connection]:
    """A send-only session with a route to ``members`` on CHANNEL."""
    async with device(where, name, SEND_ONLY, via=via) as connection:
        answer = await connection.join(CHANNEL, [device_id(member) for member in members])
        assert answer.error is None
        yield connection


@asynccontextmanager
async def receiver(
    where: Reach, name: str, *friends: str, via: Via = Via.BINARY
) -> AsyncIterator[Connection]:
    """A session that receives; ``friends`` may fill its inbox as strangers may not."""
    async with device(where, name, DELIVERY_ACK, via=via) as connection:
        if friends:
            await connection.join(CHANNEL, [device_id(friend) for friend in friends])
        yield connection


async def take(connection: Connection, count: int) -> list[tuple[int, bytes]]:
    """The next ``count`` messages as (inbox number, payload); nothing is confirmed."""
    got: list[tuple[int, bytes]] = []
    while len(got) < count:
        for frame in await connection.deliveries():
            if frame.type is FrameType.PRESENCE:
                continue  # that a friend has come may be told at any time
            assert frame.type is FrameType.MSG
            got.append((frame.sequence, frame.payload))
    assert len(got) == count
    return got
