"""Who is revoked while a request's body is still on its way has asked in vain."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
import trio.testing

from commucat_storage import DeviceStatus
from server.asgi_scopes import http_scope
from server.connect_builders import Person
from server.people_builders import Api, running_api

BY_HANDLE = {"join_by_handle": True, "max_auto_devices_per_user": 9}


class SlowRequest:
    """A request whose body stops after its first bytes."""

    def __init__(self, method: str, path: str, token: str, body: bytes) -> None:
        self._scope = http_scope(
            method,
            path,
            [(b"authorization", b"Bearer " + token.encode()), (b"content-type", b"application/json")],
        )
        self._pieces = [body[:3], body[3:]]
        self.goes_on = trio.Event()
        self.waits = trio.Event()
        self.status = 0

    async def run(self, api: Api) -> None:
        await api.application(self._scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if len(self._pieces) == 1:
            self.waits.set()
            await self.goes_on.wait()
        if not self._pieces:
            await trio.sleep_forever()
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/devices/revoke", {"device_id": "tablet"}),
        ("POST", "/api/devices/approve", {"device_id": "another"}),
        ("POST", "/api/devices/reject", {"device_id": "another"}),
        ("PUT", "/api/friends", {"friends": []}),
        ("POST", "/api/account-links", {"account": "ann@elsewhere.example"}),
    ],
)
async def test_a_device_that_is_revoked_meanwhile_changes_nothing(
    tmp_path: Path, method: str, path: str, body: dict[str, Any]
) -> None:
    async with running_api(tmp_path, server_policy=BY_HANDLE) as api:
        server = api.server
        owner = await server.connect(Person(handle="ann"))
        thief = await server.connect(Person(handle="ann", device_id="stolen"))
        await server.connect(Person(handle="ann", device_id="tablet"))
        api.tokens["owner"] = owner.token
        slow = SlowRequest(method, path, thief.token, orjson.dumps(body))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow.run, api)
            await slow.waits.wait()
            revoked = await api.ask("POST", "/api/devices/revoke", "owner", json={"device_id": "stolen"})
            assert revoked.status == 200
            slow.goes_on.set()

        assert slow.status in (401, 403)
        tablet = await server.storage.load_device("tablet")
        assert tablet is not None
        assert tablet.status is DeviceStatus.ACTIVE
