"""Who is revoked while a request's body is still on its way has asked in vain."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from commucat_server.blobs.attachments import AttachmentFolder
from commucat_server.blobs.avatars import AvatarFolder
from commucat_storage import DeviceStatus
from server.asgi_scopes import http_scope
from server.connect_builders import Person
from server.people_builders import Api, running_api
from server.test_api_attachments import LIMITS
from server.test_api_p2p import assistance

BY_HANDLE = {"join_by_handle": True, "max_auto_devices_per_user": 9}


class SlowRequest:
    """A request whose body stops after its first bytes."""

    def __init__(self, method: str, path: str, token: str, body: bytes) -> None:
        self._scope = http_scope(
            method,
            path,
            [(b"authorization", b"Bearer " + token.encode()), (b"upload-offset", b"0")],
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


BODIES: dict[tuple[str, str], bytes] = {
    ("POST", "/api/pair"): b'{"ttl": 60}',
    ("POST", "/api/pairing"): b'{"ttl": 60}',
    ("POST", "/api/device/csr"): b'{"public_key": ""}',
    ("POST", "/api/devices/revoke"): b'{"device_id": "tablet"}',
    ("POST", "/api/devices/approve"): b'{"device_id": "another"}',
    ("POST", "/api/devices/reject"): b'{"device_id": "another"}',
    ("PUT", "/api/friends"): b'{"friends": []}',
    ("POST", "/api/friends/requests/{user_id}"): b'{"message": "hello"}',
    ("POST", "/api/account-links"): b'{"account": "ann@elsewhere.example"}',
    ("POST", "/api/p2p/assist"): b'{"paths": []}',
    ("POST", "/api/users/me/avatar"): b"\x89PNG",
    ("POST", "/api/attachments"): b'{"size": 100}',
    ("PATCH", "/api/attachments/{attachment_id}/upload"): b"the whole file",
}
"""Of all requests that need a session and have a body."""


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(
        tmp_path,
        server_policy=BY_HANDLE,
        avatars=lambda server: AvatarFolder(tmp_path / "avatars", "https://localhost", server.storage),
        attachments=lambda server: AttachmentFolder(
            tmp_path / "attachments", LIMITS, server.storage, time.time
        ),
        assistance=assistance(),
    ) as api:
        yield api


async def test_no_request_with_a_session_and_a_body_is_left_out_here(api: Api) -> None:
    document = (await api.ask("GET", "/openapi.json")).json
    assert set(BODIES) == {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation and {"SessionToken": []} in operation.get("security", [])
    }


@pytest.mark.parametrize(("method", "path"), BODIES)
async def test_a_device_that_is_revoked_meanwhile_changes_nothing(api: Api, method: str, path: str) -> None:
    server, body = api.server, BODIES[method, path]
    owner = await server.connect(Person(handle="ann"))
    thief = await server.connect(Person(handle="ann", device_id="stolen"))
    await server.connect(Person(handle="ann", device_id="tablet"))
    bob = await server.connect(Person(handle="bob"))
    api.tokens |= {"owner": owner.token, "bob": bob.token}
    begun = await api.ask("POST", "/api/attachments", "owner", json={"size": len(body)})
    asked = path.format(attachment_id=begun.json["id"], user_id=bob.ack["user_id"])
    slow = SlowRequest(method, asked, thief.token, body)
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
    requests = (await api.ask("GET", "/api/friends/requests", "bob")).json
    assert requests["incoming"] == []
