"""Client and server sessions for tests, joined in memory."""

import os
from typing import Any

import attrs

from commucat_crypto import DeviceKeyPair, NoisePattern, StaticKeyPair
from commucat_proto import (
    AuthReceived,
    ClientParameters,
    ClientProved,
    ClientSession,
    Established,
    HelloReceived,
    ServerKey,
    ServerParameters,
    ServerSession,
)

DOMAIN = "example.org"
SERVER_KEYS = StaticKeyPair.from_private(bytes(range(32)))
DEVICE_KEYS = DeviceKeyPair.from_seed(b"s" * 32)
CLIENT_STATIC = StaticKeyPair.from_private(bytes(range(1, 33)))


def server_parameters(**changes: Any) -> ServerParameters:
    values: dict[str, Any] = {"domain": DOMAIN, "keys": [ServerKey(version=1, keys=SERVER_KEYS)]}
    return ServerParameters(**(values | changes))


def new_server(**changes: Any) -> ServerSession:
    return ServerSession(server_parameters(**changes), ephemeral=StaticKeyPair.generate())


def client_parameters(**changes: Any) -> ClientParameters:
    values: dict[str, Any] = {
        "domain": DOMAIN,
        "server_static": SERVER_KEYS.public,
        "device_id": "device-1",
        "device_keys": DEVICE_KEYS,
        "static": CLIENT_STATIC,
    }
    return ClientParameters(**(values | changes))


def new_client(**changes: Any) -> ClientSession:
    return ClientSession(
        client_parameters(**changes),
        ephemeral=StaticKeyPair.generate(),
        proof_randomness=os.urandom(64),
    )


@attrs.frozen
class Pair:
    """Two established sessions."""

    client: ClientSession
    server: ServerSession


def send_auth(server: ServerSession) -> bytes:
    return server.send_auth(session="token", user_id="user-1", user={"id": "user-1"})


def established_pair(
    pattern: NoisePattern = NoisePattern.XK, *, client: dict[str, Any] | None = None, **server: Any
) -> Pair:
    pair = Pair(new_client(pattern=pattern, **(client or {})), new_server(**server))
    [hello] = pair.server.receive_data(pair.client.start())
    assert isinstance(hello, HelloReceived)
    [auth] = pair.client.receive_data(send_auth(pair.server))
    assert isinstance(auth, AuthReceived)
    [proved] = pair.server.receive_data(auth.reply)
    assert isinstance(proved, ClientProved)
    [done] = pair.client.receive_data(pair.server.establish({}))
    assert isinstance(done, Established)
    return pair
