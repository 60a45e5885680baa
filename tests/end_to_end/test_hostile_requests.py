"""Requests that try to be SQL, a path, a header or a line of the log, and tokens that are none.

Against the real server on both stores: each gets a documented refusal or is stored as the text that it
is, and nothing else happens.
"""

import json
import re
import secrets
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import trio

from commucat_cli.errors import CliError
from databases.postgres_databases import PostgresDatabases
from end_to_end.raw_people import device, device_id
from end_to_end.rest_site import Site, operations, running_site
from end_to_end.server_process import DEADLINE

HOSTILE = [
    "' OR '1'='1",
    "'; DROP TABLE app_user; --",
    "' UNION SELECT token_hash FROM session --",
    "$1); DELETE FROM user_device; --",
    "%s %d {0} {{7*7}} ${jndi:ldap://127.0.0.1/x}",
    "../keys/federation.seed",
    "..\\..\\keys\\federation.seed",
    "..%2f..%2fkeys%2ffederation.seed",
    "/etc/passwd",
    "file:///etc/passwd",
    "name\x00.png",
    'x\r\nset-cookie: stolen=1\r\n\r\n{"forged":true}',
    'x\n{"event":"forged","level":"info"}',
    'x\u2028{"event":"forged"}\u0085',
    "\x1b[2J\x1b[31mred",
    "\ufeff\u202etxt.exe",
    "long" * 2000,
]


@pytest.fixture(scope="module", params=["embedded", "postgres"])
def site(
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    postgres_databases: PostgresDatabases,
) -> Iterator[Site]:
    # At level debug most of what clients send is in some line.
    more = '[logging]\nlevel = "debug"\n'
    if request.param == "postgres":
        more += f'[storage]\npostgres_dsn = "{postgres_databases.empty()}"\n'
    with running_site(tmp_path_factory.mktemp("hostile"), more) as site:
        yield site


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def check_harmless(response: requests.Response) -> None:
    assert response.status_code < 500, response.text
    assert "set-cookie" not in response.headers
    assert "root:" not in response.text
    if response.headers.get("content-type") == "application/problem+json":
        assert response.json()["status"] == response.status_code


def check_nothing_happened(site: Site, name: str, token: str) -> None:
    """Somebody who was there before is still there, and the log has one object a line."""
    devices = site.ask("GET", "/api/devices", token)
    assert [each["device_id"] for each in devices.json()["devices"]] == [device_id(name)]
    assert site.ask("GET", "/readyz").text == "ready"
    events = [json.loads(line)["event"] for line in site.server.log.read_text().splitlines()]
    assert "forged" not in events
    assert not any(re.search(r"request failed|Traceback|broken", event) for event in events), events
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", site.server.log.read_text())


def test_hostile_paths_lead_nowhere(site: Site) -> None:
    name, token = site.someone()
    before = files_below(site.server.data_dir)
    for method, path in operations(site.document):
        if "{" not in path:
            continue
        for hostile in HOSTILE:
            for written in {quote(hostile, safe=""), quote(quote(hostile, safe=""), safe="")}:
                response = site.ask(method, re.sub(r"\{\w+\}", lambda _, w=written: w, path), token)
                check_harmless(response)
                if not (method == "POST" and "requests" in path):
                    assert response.status_code in (400, 403, 404), (method, path, hostile, response.text)
    assert files_below(site.server.data_dir) - before <= {"uploads", "attachments"}
    check_nothing_happened(site, name, token)


@pytest.mark.parametrize(
    "target",
    [
        "/uploads/../keys/federation.seed",
        "/uploads/..%2fkeys%2ffederation.seed",
        "/uploads//etc/passwd",
        "/uploads/%2e%2e/%2e%2e/etc/passwd",
        "/uploads/.lock",
        "/api/attachments/../../keys/federation.seed",
        "/api/../openapi.json/../../etc/passwd",
    ],
)
def test_a_path_that_no_client_library_would_send_shows_no_file(site: Site, target: str) -> None:
    answer = raw(site, f"GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    status = int(answer.split(b" ", 2)[1])
    assert status in (400, 403, 404), answer
    seed = (site.server.data_dir / "keys" / "federation.seed").read_bytes()
    assert seed not in answer
    assert b"root:" not in answer


def raw(site: Site, request: str) -> bytes:
    """The answer to a request written by hand."""
    context = ssl.create_default_context(cafile=str(site.server.ca_file))
    with (
        socket.create_connection(("127.0.0.1", site.server.port), timeout=DEADLINE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(request.encode())
        return b"".join(iter(lambda: tls.recv(65536), b""))


def bodies_of(site: Site, method: str, path: str, hostile: str) -> Iterator[Any]:
    """As described, with the text in place of each member in turn; and as the name of one."""
    operation = site.document["paths"][path][method.lower()]
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    if schema is None:
        return
    names = list(schema.get("properties", {}))
    for name in names:
        yield {name: hostile}
        yield {name: [hostile]}
        yield {name: {hostile: hostile}}
    yield dict.fromkeys(names, hostile)
    yield {hostile: hostile}
    yield {"friends": [{"user_id": hostile, "alias": hostile}]}


def test_hostile_members_of_bodies_are_refused_or_stay_text(site: Site) -> None:
    name, token = site.someone()
    for method, path in operations(site.document):
        if path == "/api/session":
            continue
        for hostile in HOSTILE:
            for body in bodies_of(site, method, path, hostile):
                target = re.sub(r"\{\w+\}", name, path)
                check_harmless(site.ask(method, target, token, json=body))
    friends = site.ask("GET", "/api/friends", token).json()["friends"]
    assert {each["user_id"] for each in friends} <= set(HOSTILE)
    assert site.ask("PUT", "/api/friends", token, json={"friends": []}).status_code == 200
    check_nothing_happened(site, name, token)


def test_hostile_headers_are_refused_or_stay_text(site: Site) -> None:
    name, token = site.someone()
    names = ["user-agent", "x-forwarded-for", "forwarded", "traceparent", "range", "if-range", "referer"]
    for header in names:
        for hostile in HOSTILE:
            # What HTTP itself forbids never gets out of a client.
            value = re.sub(r"[\x00-\x1f\x7f-\uffff]", "", hostile)
            headers = {"authorization": f"Bearer {token}", header: value}
            url = f"{site.server.url}/api/devices"
            check_harmless(site.http.get(url, headers=headers, timeout=DEADLINE))
    check_nothing_happened(site, name, token)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_device_with_a_hostile_name_is_refused_or_called_so(site: Site, hostile: str) -> None:
    name, token = site.someone()

    async def connect() -> str:
        try:
            async with device(site.where, hostile, handle=hostile) as connection:
                found = await connection.get("/api/devices")
                return "".join(each["device_id"] for each in found["devices"])
        except CliError as exc:
            return f"error: {exc}"

    told = trio.run(connect)
    assert told == device_id(hostile) or (told.startswith("error: ") and told.isprintable())
    check_nothing_happened(site, name, token)


# -- tokens -----------------------------------------------------------------------------------------------


def secured(site: Site) -> list[tuple[str, str, str]]:
    """Method, path and scheme of the operations that need a token."""
    return [
        (method, re.sub(r"\{\w+\}", "x", path), next(iter(wanted)))
        for method, path in operations(site.document)
        for wanted in site.document["paths"][path][method.lower()].get("security", [])
    ]


def test_no_operation_takes_a_token_that_is_none(site: Site, tmp_path: Path) -> None:
    name, token = site.someone()
    with running_site(tmp_path) as other:
        _, foreign = other.someone()
    wrong = {
        "another one": secrets.token_hex(32),
        "of another server": foreign,
        "cut short": token[:-1],
        "too long": f"{token}0",
        "with a zero byte": f"{token}%00",
        "of another case": token.upper(),
        "empty": "",
        "two": f"{token}, {token}",
        "hashed": "' OR '1'='1",
        "the operator's": "administrator-of-the-tests",
        "a huge one": "a" * 6000,
    }
    found = secured(site)
    assert len(found) > 15
    for method, path, scheme in found:
        for what, value in wanted_for(scheme, wrong, token).items():
            answer = site.ask(method, path, value, json={} if method in ("POST", "PUT") else None)
            assert answer.status_code == 401, (method, path, what, answer.text)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert value[:8] not in answer.text or not value
        twice = requests_with_two_tokens(site, method, path, token)
        assert twice == 401 or scheme != "SessionToken", (method, path)
        without = site.http.request(method, f"{site.server.url}{path}?token={token}", timeout=DEADLINE)
        assert without.status_code in (401, 403), (method, path)
        basic = {"authorization": f"Basic {token}"}
        refused = site.http.request(method, site.server.url + path, headers=basic, timeout=DEADLINE)
        assert refused.status_code in (401, 403), (method, path)
    check_nothing_happened(site, name, token)
    assert token not in site.server.log.read_text()


def requests_with_two_tokens(site: Site, method: str, path: str, token: str) -> int:
    """Status of a request whose header comes twice, which is a way past proxies that look at one of them."""
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n"
    tokens = f"authorization: Bearer {token}\r\nauthorization: Bearer {token}\r\n\r\n"
    return int(raw(site, head + tokens).split(b" ", 2)[1])


def wanted_for(scheme: str, wrong: dict[str, str], token: str) -> dict[str, str]:
    if scheme == "SessionToken":
        return wrong
    return {what: value for what, value in wrong.items() if what != "the operator's"} | {"a user's": token}


def test_an_expired_token_is_one_no_more(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        _, token = site.someone()
        assert site.ask("GET", "/api/devices", token).status_code == 200
        database = sqlite3.connect(site.server.data_dir / "commucat.db", timeout=DEADLINE)
        with database:
            database.execute("UPDATE session SET created_at = 1, refreshed_at = 1")
        database.close()
        for method, path, scheme in secured(site):
            if scheme == "SessionToken":
                assert site.ask(method, path, token).status_code == 401, (method, path)
