"""The OpenAPI document against the real server: random requests, and one of each kind that succeeds."""

import re
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings

from commucat_crypto import DeviceKeyPair, claim_statement, rotation_statement
from commucat_proto import Frame, FrameType, json_text
from commucat_proto.federation import Event, FriendEvent, FriendEventKind
from commucat_proto.json_text import JsonValue
from end_to_end.raw_people import device_id
from end_to_end.rest_site import PEER, PEER_KEYS, Site, operations, running_site

with warnings.catch_warnings():
    # Its own imports warn of what it has deprecated itself.
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
EXAMPLES = 20


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("rest")) as site:
        yield site


@pytest.mark.parametrize("with_token", [False, True], ids=["without a token", "with a valid token"])
def test_random_requests_get_only_documented_answers(site: Site, with_token: bool) -> None:
    schema = schemathesis.openapi.from_dict(site.document)
    for method, path in operations(site.document):
        # Somebody else each time: one of the operations ends the session.
        token = site.someone()[1] if with_token else "nonsense"
        ask_at_random(site, schema[path][method], token)
    assert site.server.running
    assert site.ask("GET", "/readyz").text == "ready"


def ask_at_random(site: Site, operation: Any, token: str) -> None:
    headers = {"authorization": f"Bearer {token}"}

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def holds(case: Any) -> None:
        response = case.call(
            base_url=site.server.url,
            session=site.http,
            headers=headers,
            verify=site.http.verify,
            timeout=30,
        )
        case.validate_response(response, checks=CHECKS)

    holds()


# -- each operation as it is meant -----------------------------------------------------------------------


def claim(site: Site, path: str) -> requests.Response:
    _, token = site.someone()
    code, keys, chosen = site.pairing_code(token), DeviceKeyPair.generate(), f"phone-{site.people}"
    statement = claim_statement(domain="localhost", code=code, device_id=chosen, public_key=keys.public)
    body = {
        "pair_code": code,
        "device_name": "phone",
        "device_id": chosen,
        "public_key": keys.public.hex(),
        "proof": keys.sign(statement).hex(),
    }
    return site.ask("POST", path, json=body)


def rotate(site: Site) -> requests.Response:
    name, token = site.someone()
    old, new = DeviceKeyPair.from_seed(name.encode() * 32), DeviceKeyPair.generate()
    expires_at = int(time.time()) + 60
    statement = rotation_statement(device_id(name), new.public, expires_at=expires_at, nonce=b"")
    body = {
        "public_key": new.public.hex(),
        "signature": old.sign(statement).hex(),
        "expires_at": datetime.fromtimestamp(expires_at, UTC).isoformat(),
    }
    return site.ask("POST", "/api/device/csr", token, json=body)


def decide(site: Site, action: str) -> requests.Response:
    _, token = site.someone()
    return site.ask("POST", f"/api/devices/{action}", token, json={"device_id": site.waiting_device(token)})


def revoke(site: Site) -> requests.Response:
    _, token = site.someone()
    waiting = site.waiting_device(token)
    site.ask("POST", "/api/devices/approve", token, json={"device_id": waiting})
    return site.ask("POST", "/api/devices/revoke", token, json={"device_id": waiting})


def of_device(site: Site, what: str) -> requests.Response:
    name, token = site.someone()
    return site.ask("GET", f"/api/devices/{device_id(name)}/{what}", token)


def with_token(method: str, path: str) -> Callable[[Site], requests.Response]:
    return lambda site: site.ask(method, path, site.someone()[1])


def plain(path: str) -> Callable[[Site], requests.Response]:
    return lambda site: site.ask("GET", path)


def admin(path: str) -> Callable[[Site], requests.Response]:
    return lambda site: site.ask("GET", path, "administrator-of-the-tests")


def befriend(site: Site) -> tuple[str, str, str]:
    """Two users that list each other: the token of one, the handle and the id of the other."""
    _, token = site.someone()
    name, other = site.someone()
    mine = site.ask("GET", "/api/devices", token)
    assert mine.status_code == 200
    asked = site.ask("POST", f"/api/friends/requests/{name}", token, json={"message": None})
    request = asked.json()["request"]
    accepted = site.ask("POST", f"/api/friends/requests/{request['from_user_id']}/accept", other)
    assert accepted.status_code == 200, accepted.text
    return token, name, str(request["to_user_id"])


def request_friend(site: Site) -> requests.Response:
    _, token = site.someone()
    name, _ = site.someone()
    return site.ask("POST", f"/api/friends/requests/{name}", token, json={"message": "hello"})


def answer_friend(site: Site, action: str) -> requests.Response:
    asker, token = site.someone()
    name, other = site.someone()
    assert site.ask("POST", f"/api/friends/requests/{name}", token).status_code == 201
    return site.ask("POST", f"/api/friends/requests/{asker}/{action}", other)


def unfriend(site: Site) -> requests.Response:
    token, _, friend = befriend(site)
    return site.ask("DELETE", f"/api/friends/{friend}", token)


def friend_devices(site: Site) -> requests.Response:
    token, _, friend = befriend(site)
    return site.ask("GET", f"/api/friends/{friend}/devices", token)


def put_friends(site: Site) -> requests.Response:
    _, token = site.someone()
    return site.ask("PUT", "/api/friends", token, json={"friends": [{"user_id": "u", "alias": "friend"}]})


PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(64)


def set_avatar(site: Site) -> requests.Response:
    return site.ask("POST", "/api/users/me/avatar", site.someone()[1], data=PICTURE)


def see_avatar(site: Site) -> requests.Response:
    return site.ask("GET", f"/uploads/{set_avatar(site).json()['filename']}")


def begin_upload(site: Site) -> tuple[str, str]:
    """A token, and the id of an attachment of four bytes that waits for them."""
    _, token = site.someone()
    begun = site.ask("POST", "/api/attachments", token, json={"size": 4})
    assert begun.status_code == 201, begun.text
    return token, str(begun.json()["id"])


def upload(site: Site) -> tuple[requests.Response, str, str]:
    token, identity = begin_upload(site)
    headers = {"authorization": f"Bearer {token}", "upload-offset": "0"}
    headers["content-type"] = "application/offset+octet-stream"
    url = f"{site.server.url}/api/attachments/{identity}/upload"
    return site.http.patch(url, data=b"four", headers=headers, timeout=30), token, identity


def offset_of(site: Site) -> requests.Response:
    token, identity = begin_upload(site)
    return site.ask("GET", f"/api/attachments/{identity}/upload", token)


def drop_attachment(site: Site) -> requests.Response:
    token, identity = begin_upload(site)
    return site.ask("DELETE", f"/api/attachments/{identity}", token)


def download(site: Site, span: str | None = None) -> requests.Response:
    _, _, identity = upload(site)
    headers = {} if span is None else {"range": span}
    return site.http.get(f"{site.server.url}/api/attachments/{identity}", headers=headers, timeout=30)


def event(site: Site, payload: JsonValue) -> bytes:
    """Of a server that this one knows."""
    return (
        Event(
            event_id=secrets.token_hex(8),
            origin=PEER,
            created_at=time.time_ns(),
            payload=payload,
            scope="localhost",
        )
        .sign(PEER_KEYS)
        .encode()
    )


def message_event(site: Site) -> bytes:
    name, _ = site.someone()
    frame = Frame(FrameType.MSG, 7, 1, b"sealed").encode().hex()
    return event(site, {"payload": frame, "sender": "theirs", "target": f"{device_id(name)}@localhost"})


def take_event(site: Site) -> requests.Response:
    return site.ask("POST", "/federation/events", data=message_event(site))


def take_event_again(site: Site) -> requests.Response:
    told = message_event(site)
    assert site.ask("POST", "/federation/events", data=told).status_code == 202
    return site.ask("POST", "/federation/events", data=told)


def take_friend_event(site: Site) -> requests.Response:
    name, _ = site.someone()
    asked = FriendEvent(
        kind=FriendEventKind.REQUEST,
        request_id=secrets.token_hex(8),
        sender=f"theirs-{site.people}@{PEER}",
        recipient=f"{name}@localhost",
        timestamp=datetime.now(UTC).isoformat(),
    )
    body = json_text.dumps(asked.sign(PEER_KEYS).to_wire())
    return site.ask("POST", "/federation/friend-request", data=body)


def answer_question(site: Site) -> requests.Response:
    name, _ = site.someone()
    question: JsonValue = {"type": "certificate", "device": device_id(name)}
    return site.ask("POST", "/federation/query", data=event(site, question))


def ask_afar(site: Site) -> requests.Response:
    _, token = site.someone()
    return site.ask("POST", f"/api/friends/requests/theirs@{PEER}", token, json={"message": "hello"})


def declare_link(site: Site, token: str) -> requests.Response:
    return site.ask("POST", "/api/account-links", token, json={"account": f"mine@{PEER}"})


def end_link(site: Site) -> requests.Response:
    _, token = site.someone()
    assert declare_link(site, token).status_code == 202
    [link] = site.ask("GET", "/api/account-links", token).json()["links"]
    return site.ask("DELETE", f"/api/account-links/{link['account']}", token)


MEANT: dict[tuple[str, str], Callable[[Site], requests.Response]] = {
    ("GET", "/"): plain("/"),
    ("GET", "/index.html"): plain("/index.html"),
    ("GET", "/healthz"): plain("/healthz"),
    ("GET", "/readyz"): plain("/readyz"),
    ("GET", "/openapi.json"): plain("/openapi.json"),
    ("GET", "/api/server-info"): plain("/api/server-info"),
    ("GET", "/api/server/info"): plain("/api/server/info"),
    ("POST", "/api/pair"): with_token("POST", "/api/pair"),
    ("POST", "/api/pairing"): with_token("POST", "/api/pairing"),
    ("POST", "/api/pair/claim"): lambda site: claim(site, "/api/pair/claim"),
    ("POST", "/api/pairing/claim"): lambda site: claim(site, "/api/pairing/claim"),
    ("GET", "/api/devices"): with_token("GET", "/api/devices"),
    ("POST", "/api/device/csr"): rotate,
    ("POST", "/api/devices/revoke"): revoke,
    ("POST", "/api/devices/approve"): lambda site: decide(site, "approve"),
    ("POST", "/api/devices/reject"): lambda site: decide(site, "reject"),
    ("GET", "/api/devices/{device_id}/certificate"): lambda site: of_device(site, "certificate"),
    ("GET", "/api/devices/{device_id}/key-events"): lambda site: of_device(site, "key-events"),
    ("DELETE", "/api/session"): with_token("DELETE", "/api/session"),
    ("GET", "/metrics"): admin("/metrics"),
    ("GET", "/api/security-stats"): admin("/api/security-stats"),
    ("GET", "/api/friends"): with_token("GET", "/api/friends"),
    ("PUT", "/api/friends"): put_friends,
    ("DELETE", "/api/friends/{user_id}"): unfriend,
    ("GET", "/api/friends/{user_id}/devices"): friend_devices,
    ("GET", "/api/friends/requests"): with_token("GET", "/api/friends/requests"),
    ("POST", "/api/friends/requests/{user_id}"): request_friend,
    ("POST", "/api/friends/requests/{user_id}/accept"): lambda site: answer_friend(site, "accept"),
    ("POST", "/api/friends/requests/{user_id}/reject"): lambda site: answer_friend(site, "reject"),
    ("GET", "/api/account-links"): with_token("GET", "/api/account-links"),
    ("POST", "/api/account-links"): lambda site: declare_link(site, site.someone()[1]),
    ("DELETE", "/api/account-links/{account}"): end_link,
    ("GET", "/api/inbox-offsets"): with_token("GET", "/api/inbox-offsets"),
    ("POST", "/api/users/me/avatar"): set_avatar,
    ("GET", "/uploads/{filename}"): see_avatar,
    ("POST", "/api/attachments"): lambda site: site.ask(
        "POST", "/api/attachments", site.someone()[1], json={"size": 4}
    ),
    ("DELETE", "/api/attachments/{attachment_id}"): drop_attachment,
    ("GET", "/api/attachments/{attachment_id}"): download,
    ("GET", "/api/attachments/{attachment_id}/upload"): offset_of,
    ("PATCH", "/api/attachments/{attachment_id}/upload"): lambda site: upload(site)[0],
    ("GET", "/api/p2p/assist"): with_token("GET", "/api/p2p/assist"),
    ("POST", "/api/p2p/assist"): lambda site: site.ask(
        "POST", "/api/p2p/assist", site.someone()[1], json={"fec": {}, "paths": [{"address": "192.0.2.1"}]}
    ),
    ("POST", "/federation/events"): take_event,
    ("POST", "/federation/friend-request"): take_friend_event,
    ("POST", "/federation/query"): answer_question,
    ("GET", "/.well-known/commucat-federation"): plain("/.well-known/commucat-federation"),
    ("GET", "/api/federation/peers"): admin("/api/federation/peers"),
}
"""For each operation, a request that succeeds. Whoever adds an operation adds it here."""
ALSO: dict[tuple[str, str], Callable[[Site], requests.Response]] = {
    ("GET", "/api/attachments/{attachment_id}"): lambda site: download(site, "bytes=1-2"),
    ("POST", "/api/friends/requests/{user_id}"): ask_afar,
    ("POST", "/federation/events"): take_event_again,
}
"""Further ones, where an operation has more than one documented success."""


def test_each_operation_reaches_its_documented_success(site: Site) -> None:
    schema = schemathesis.openapi.from_dict(site.document)
    assert set(operations(site.document)) == set(MEANT)
    for (method, path), request in MEANT.items():
        operation = site.document["paths"][path][method.lower()]
        documented = {status for status in operation["responses"] if status.startswith("2")}
        wanted = [request, *([ALSO[method, path]] if (method, path) in ALSO else [])]

        responses = [each(site) for each in wanted]

        told = [response.text for response in responses]
        assert {str(response.status_code) for response in responses} == documented, (method, path, told)
        names = re.findall(r"\{(\w+)\}", path)
        case = schema[path][method].Case(path_parameters=dict.fromkeys(names, "x") if names else None)
        for response in responses:
            case.validate_response(response, checks=CHECKS)
