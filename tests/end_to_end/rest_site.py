"""A running server with its REST interface and OpenAPI document, and somebody to ask it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import requests
import trio

from commucat_crypto import DeviceKeyPair
from commucat_proto import SEND_ONLY
from end_to_end.raw_people import Reach, device, reach
from end_to_end.server_process import ServerProcess, server_process

PEER = "other.test"
PEER_KEYS = DeviceKeyPair.from_seed(b"p" * 32)
CONFIG = f"""
[federation]
# Nobody listens there: what is sent to it waits.
peers = ["{PEER},https://127.0.0.1:9,{PEER_KEYS.public.hex()}"]
[server]
auto_approve_devices = true
[pairing]
require_approval = true
# Most random claims are guesses.
failures_per_hour = 100000
[admin]
token = "administrator-of-the-tests"
[security.rate_limit]
http_burst = 1000000
pairing_burst = 1000000
[limits]
new_devices_per_hour = 100000
[rotation.device]
min_interval = 0
"""


@attrs.define
class Site:
    """A running server, and an HTTP/1.1 client that trusts it."""

    server: ServerProcess
    where: Reach
    http: requests.Session
    document: dict[str, Any]
    people: int = 0

    def ask(self, method: str, path: str, token: str | None = None, **more: Any) -> requests.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return self.http.request(method, self.server.url + path, headers=headers, timeout=30, **more)

    def someone(self) -> tuple[str, str]:
        """A user nobody has seen before: name and token."""
        self.people += 1
        name = f"someone-{self.people}"
        return name, self.token_of(name)

    def token_of(self, name: str) -> str:
        async def log_in() -> str:
            async with device(self.where, name, SEND_ONLY) as connection:
                return connection.info.token

        return trio.run(log_in)

    def pairing_code(self, token: str) -> str:
        return str(self.ask("POST", "/api/pair", token, json={}).json()["pair_code"])

    def waiting_device(self, token: str) -> str:
        claimed = self.ask("POST", "/api/pair/claim", json={"pair_code": self.pairing_code(token)})
        return str(claimed.json()["device_id"])


@contextmanager
def running_site(home: Path, more: str = "") -> Iterator[Site]:
    """A site of its own; ``more`` is added to the configuration."""
    with server_process(home, CONFIG + more) as server, requests.Session() as http:
        # Not the proxies and authorities of whoever runs the tests.
        http.trust_env = False
        http.verify = str(server.ca_file)
        document = http.get(server.url + "/openapi.json", timeout=30).json()
        yield Site(server, trio.run(reach, server), http, document)


def operations(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
