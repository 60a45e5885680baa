"""The OpenAPI document, and what every answer has in common."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from litestar.handlers import HTTPRouteHandler

from commucat_server.api.application import all_handlers
from commucat_server.api.openapi import OPTION
from commucat_server.listener.problem import SECURITY_HEADERS
from server.connect_builders import Person
from server.rest_builders import Rest, running_rest

ROUTES = {
    ("GET", "/"),
    ("GET", "/index.html"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/openapi.json"),
    ("GET", "/api/server-info"),
    ("GET", "/api/server/info"),
    ("POST", "/api/pair"),
    ("POST", "/api/pairing"),
    ("POST", "/api/pair/claim"),
    ("POST", "/api/pairing/claim"),
    ("GET", "/api/devices"),
    ("POST", "/api/device/csr"),
    ("POST", "/api/devices/revoke"),
    ("POST", "/api/devices/approve"),
    ("POST", "/api/devices/reject"),
    ("GET", "/api/devices/{device_id}/certificate"),
    ("GET", "/api/devices/{device_id}/key-events"),
    ("DELETE", "/api/session"),
    ("GET", "/metrics"),
    ("GET", "/api/security-stats"),
    ("GET", "/api/account-links"),
    ("POST", "/api/account-links"),
    ("DELETE", "/api/account-links/{account}"),
    ("GET", "/api/inbox-offsets"),
    ("GET", "/api/friends"),
    ("PUT", "/api/friends"),
    ("DELETE", "/api/friends/{user_id}"),
    ("GET", "/api/friends/{user_id}/devices"),
    ("GET", "/api/friends/requests"),
    ("POST", "/api/friends/requests/{user_id}"),
    ("POST", "/api/friends/requests/{user_id}/accept"),
    ("POST", "/api/friends/requests/{user_id}/reject"),
    ("GET", "/api/p2p/assist"),
    ("POST", "/api/p2p/assist"),
}


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Rest]:
    async with running_rest(tmp_path) as rest:
        yield rest


async def test_the_document_has_every_route_and_each_says_what_it_answers(rest: Rest) -> None:
    answer = await rest.ask("GET", "/openapi.json")

    assert answer.status == 200
    document = answer.json
    assert document["openapi"] == "3.1.0"
    described = {
        (method.upper(), path) for path, operations in document["paths"].items() for method in operations
    }
    assert described == ROUTES
    operations = [each for operations in document["paths"].values() for each in operations.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    schemes = document["components"]["securitySchemes"]
    for operation in operations:
        assert any(status.startswith("2") for status in operation["responses"])
        for wanted in operation.get("security", []):
            assert set(wanted) <= set(schemes)


async def test_every_handler_documents_itself(rest: Rest) -> None:
    silent = [
        handler
        for handler in all_handlers(rest.context)
        if isinstance(handler, HTTPRouteHandler) and OPTION not in handler.opt
    ]

    assert silent == []


async def test_every_answer_has_security_headers(rest: Rest) -> None:
    alice = await rest.connect(Person(handle="alice"))
    for method, path, token in (
        ("GET", "/", None),
        ("GET", "/api/server-info", None),
        ("GET", "/api/devices", alice.token),
        ("GET", "/api/devices", None),
        ("GET", "/nowhere", None),
        ("POST", "/api/pair/claim", None),
        ("OPTIONS", "/api/pair", None),
    ):
        answer = await rest.ask(method, path, token=token)
        for name, value in SECURITY_HEADERS:
            assert answer.headers[name.decode()] == value.decode()


async def test_the_page_for_people_loads_nothing_and_cannot_be_framed(rest: Rest) -> None:
    for path in ("/", "/index.html"):
        answer = await rest.ask("GET", path)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert b'href="/healthz"' in answer.body
        assert b'href="/readyz"' in answer.body


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", ["/", "/index.html", "/healthz", "/readyz"])
async def test_pages_about_the_server_answer_any_method(rest: Rest, method: str, path: str) -> None:
    assert (await rest.ask(method, path)).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/pair"),
        ("PUT", "/api/pair"),
        ("OPTIONS", "/api/pair"),
        ("TRACE", "/api/pair"),
        ("CONNECT", "/api/pair"),
        ("BREW", "/api/pair"),
        ("POST", "/api/devices"),
        ("GET", "/api/session"),
        ("GET", "/nowhere"),
        ("POST", "/nowhere"),
        ("GET", "/api/Devices"),
        ("GET", "/api//devices"),
        ("GET", "/api/devices/x"),
    ],
)
async def test_an_unknown_path_and_a_wrong_method_are_the_same_problem(
    rest: Rest, method: str, path: str
) -> None:
    answer = await rest.ask(method, path)

    assert (answer.status, answer.json) == (404, {"type": "about:blank", "title": "Not Found", "status": 404})
    assert "allow" not in answer.headers


async def test_server_info_tells_how_to_pair_and_rotate(rest: Rest) -> None:
    info = (await rest.ask("GET", "/api/server-info")).json

    assert info["pairing"] == {
        "auto_approve": True,
        "max_auto_devices": 1,
        "pairing_ttl": 300,
        "require_approval": False,
    }
    assert info["device_rotation"] == {
        "enabled": True,
        "min_interval_seconds": 86_400,
        "proof_ttl_seconds": 600,
    }
