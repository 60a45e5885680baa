"""The real server beside a real Redis: what it keeps there, and what it says without it."""

import json
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from databases.redis_server import RedisServer, private_redis
from end_to_end.server_process import DEADLINE, ServerProcess, run, server_process
from end_to_end.test_kill import login

# Whoever asks again and again how it is must not be told to wait.
CONFIG = """[server]
auto_approve_devices = true
[limits]
presence_ttl = 1
[security.rate_limit]
http_burst = 1000000
[storage]
redis_url = "{url}"
"""


@pytest.fixture
def server(tmp_path: Path, redis_server: RedisServer) -> Iterator[ServerProcess]:
    with server_process(tmp_path, CONFIG.format(url=redis_server.url())) as server:
        yield server


def get(server: ServerProcess, path: str) -> tuple[int, str]:
    context = ssl.create_default_context(cafile=str(server.ca_file))
    with urllib.request.urlopen(server.url + path, context=context, timeout=DEADLINE) as response:
        return response.status, response.read().decode()


async def until_ready_says(server: ServerProcess, text: str) -> None:
    with trio.fail_after(DEADLINE):
        while await trio.to_thread.run_sync(get, server, "/readyz") != (200, text):
            pass


async def test_readiness_names_redis_while_it_is_away_and_goes_on(
    server: ServerProcess, redis_server: RedisServer, tmp_path: Path
) -> None:
    assert get(server, "/readyz") == (200, "ready")
    redis_server.stop()
    await until_ready_says(server, "ready\ndegraded: Redis cannot be reached\n")
    # Whoever comes now is let in as fast as ever.
    login(server, tmp_path, "alice")
    assert json.loads(get(server, "/healthz")[1])["redis"]["errors"] >= 1
    redis_server.start()
    await until_ready_says(server, "ready")

    log = [json.loads(line) for line in server.log.read_text().splitlines()]
    told = [line["event"] for line in log if line["event"].startswith("redis ")]
    assert told[:2] == ["redis is not used for now", "redis is used again"]


def described(redis_server: RedisServer, device: str) -> str:
    """What is said of a device that is present; its route comes a moment before its user."""
    found = redis_server.run("GET", f"presence:{device}")
    return found if found and json.loads(found)["user"] else ""


async def test_a_listening_device_is_found_in_redis_and_gone_after_it(
    server: ServerProcess, redis_server: RedisServer, tmp_path: Path
) -> None:
    device = login(server, tmp_path, "bob")
    command = ["commucat-cli", "listen", "--profile", "bob", "--timeout", "60", "--count", "1"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, lambda: run(command, tmp_path))
        route = await until(lambda: redis_server.run("GET", f"route:{device}"))
        presence = json.loads(await until(lambda: described(redis_server, device)))
        redis_server.run("FLUSHALL")
        assert await until(lambda: redis_server.run("GET", f"route:{device}")) == route
        login(server, tmp_path, "alice")
        sent = run(["commucat-cli", "send", "--profile", "alice", "--to", device, "hello"], tmp_path)
        assert sent.returncode == 0, sent.stderr

    node, _, session = route.rpartition(":")
    assert (len(node), len(session)) == (16, 64)
    assert (presence["entity"], presence["state"]) == (device, "online")
    assert presence["user"]["handle"] == "bob"
    # The session has ended; what is left says so.
    await until(lambda: str(redis_server.run("EXISTS", f"route:{device}") == "0" or ""))


async def until(look: Callable[[], str]) -> str:
    """Look again and again until there is something."""
    with trio.fail_after(DEADLINE):
        while True:
            found = await trio.to_thread.run_sync(look)
            if found:
                return found


def test_a_server_that_stops_leaves_no_route_behind(
    server: ServerProcess, redis_server: RedisServer, tmp_path: Path
) -> None:
    login(server, tmp_path, "bob")
    assert server.stop() == 0
    assert redis_server.run("KEYS", "route:*") == ""


def test_limits_of_newcomers_count_for_all_servers(tmp_path: Path, redis_server: RedisServer) -> None:
    config = CONFIG.format(url=redis_server.url()).replace("[limits]", "[limits]\nnew_devices_per_hour = 2")
    homes = [tmp_path / name for name in ("one", "two")]
    for home in homes:
        home.mkdir()
    with server_process(homes[0], config) as one, server_process(homes[1], config) as two:
        login(one, homes[0], "alice")
        login(two, homes[1], "bob")
        for server, home in zip((one, two), homes, strict=True):
            where = ["--server", server.url, "--tls-ca", str(server.ca_file)]
            names = ("carol", "dave", "erin")
            # A server that Redis does not answer in time decides by itself, and has room for one more.
            tries = (
                run(["commucat-cli", "login", "--handle", name, "--profile", name, *where], home)
                for name in names
            )
            assert any(refused.returncode == 1 for refused in tries)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://:hunter2#@h", "holds a #; in a password write %23"),
        ("redis://h/x", "the database is a number"),
        ("unix://{socket}?db=99", "has no database of this number"),
        ("unix://:hunter2@{socket}?db=0", "refuses the user or the password"),
    ],
)
def test_a_wrong_configuration_ends_the_start_with_one_line(tmp_path: Path, url: str, text: str) -> None:
    with private_redis() as redis_server:
        (tmp_path / "bad.toml").write_text(CONFIG.format(url=url.format(socket=redis_server.socket)))
        done = run(["commucat-server", "--config", "bad.toml", "--bind", "127.0.0.1:0"], tmp_path)

    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert text in line
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "status", "text"),
    [
        ("unix://{socket}?db=3", "ok", "takes our commands"),
        ("unix://{socket}.absent?db=0", "warn", "cannot be reached"),
        ("unix://{socket}?db=99", "fail", "has no database of this number"),
    ],
)
def test_diagnose_says_whether_redis_can_be_used(
    tmp_path: Path, redis_server: RedisServer, url: str, status: str, text: str
) -> None:
    (tmp_path / "c.toml").write_text(CONFIG.format(url=url.format(socket=redis_server.socket)))
    done = run(["commucat-cli", "diagnose", "--config", "c.toml", "--json"], tmp_path)

    assert "Traceback" not in done.stderr
    [found] = [each for each in json.loads(done.stdout)["checks"] if each["name"] == "redis"]
    assert found["status"] == status
    assert text in found["text"]
