"""A wrong configuration of Redis ends the start with one line; what may mend itself does not."""

import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from commucat_storage import StorageUnavailableError
from commucat_storage.redis import PairingCode, place_of
from commucat_storage.redis.address import AddressError, RedisAddress
from databases.redis_server import RedisServer, private_redis
from storage.redis_builders import Told, node, quick, settled, subscribed

PASSWORD = "hunter2-secret"


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://h", {"host": "h", "port": 6379, "db": 0}),
        ("redis://h:7/3", {"host": "h", "port": 7, "db": 3}),
        ("redis://h?db=3", {"host": "h", "db": 3}),
        ("redis://[::1]:7/", {"host": "::1", "port": 7}),
        ("redis://:p%40%2F@h", {"user": None, "password": "p@/"}),
        ("redis://me:p:q@h", {"user": "me", "password": "p:q"}),
        ("rediss://h/1", {"tls": True, "db": 1}),
        ("rediss://h?ssl_ca_certs=/ca.pem", {"ca_file": "/ca.pem"}),
        (
            "rediss://h?ssl_certfile=/c.pem&ssl_keyfile=/k.pem",
            {"cert_file": "/c.pem", "key_file": "/k.pem"},
        ),
        ("unix:///run/r.sock", {"path": "/run/r.sock", "db": 0}),
        ("unix://me:pw@/run/r.sock?db=2", {"path": "/run/r.sock", "db": 2, "user": "me", "password": "pw"}),
    ],
)
def test_addresses_are_read(url: str, wanted: dict[str, object]) -> None:
    address = RedisAddress.parse(url)
    assert {name: getattr(address, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "must begin with"),
        ("http://hunter2", "must begin with"),
        ("redis://", "names no host"),
        ("redis://:hunter2@", "names no host"),
        ("redis://h:0", "port 0"),
        ("redis://h:99999", "cannot be read"),
        ("redis://:hunter2/x@h", "cannot be read"),
        ("redis://:hunter2#x@h", "write %23"),
        ("redis://hunter2@h", "no password before it"),
        ("redis://me:@h", "no password before it"),
        ("redis://[::1", "cannot be read"),
        ("redis://h/hunter2", "the database is a number"),
        ("redis://h/-1", "the database is a number"),
        ("redis://h/1?db=2", "names the database twice"),
        ("redis://h?db=1&db=2", "gives an option twice"),
        ("redis://h?hunter2", "not name=value"),
        ("redis://h?hunter2=1", "unknown option"),
        ("rediss://h?ssl_cert_reqs=none", "unknown option"),
        ("redis://h?db=", "without a value"),
        ("redis://h?ssl_ca_certs=x", "begins with rediss://"),
        ("rediss://h?ssl_certfile=x", "together"),
        ("unix://", "by its whole path"),
        ("unix://hunter2/x", "by its whole path"),
        ("unix:///r.sock?ssl_ca_certs=x", "a Unix socket has no TLS"),
    ],
)
def test_what_is_no_address_is_refused_unseen(url: str, text: str) -> None:
    with pytest.raises(AddressError, match=text) as caught:
        RedisAddress.parse(url)
    with pytest.raises(StorageUnavailableError, match="it looks like redis://"):
        place_of(url)
    assert "hunter2" not in str(caught.value)


def test_the_place_shows_no_password() -> None:
    address = RedisAddress.parse(f"rediss://me:{PASSWORD}@[::1]:7/2")
    assert address.place == "Redis at [::1]:7, database 2"
    assert PASSWORD not in repr(address)


async def refused(url: str) -> str:
    """The line that the start ends with."""
    with pytest.raises(StorageUnavailableError) as caught:
        async with node(url):
            pass
    line = str(caught.value)
    assert "\n" not in line
    assert PASSWORD not in line
    return line


async def degraded(url: str, text: str) -> None:
    """The start goes on, and tells this."""
    told = Told()
    async with node(url, told=told, settings=quick(connect_timeout=0.2)) as redis:
        assert redis.bus.healthy() is not None
        assert await redis.bus.route_of(["d"]) == {}
    assert told.lines[0] is not None
    assert text in told.lines[0]


@contextmanager
def guarded() -> Iterator[RedisServer]:
    with private_redis() as server:
        server.run("ACL", "SETUSER", "cat", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        server.run("ACL", "SETUSER", "mouse", "on", f">{PASSWORD}", "~*", "&*", "+@all", "-publish")
        server.run("CONFIG", "SET", "requirepass", PASSWORD)
        yield server


async def test_a_password_or_a_user_with_one_opens_the_door() -> None:
    with guarded() as server:
        for credentials in (f":{PASSWORD}@", f"cat:{PASSWORD}@"):
            async with node(server.url(credentials=credentials, db=3)) as redis:
                redis.bus.note_session("d", "h")
                await settled(redis)
                assert await redis.bus.route_of(["d"]) == {"d": "n1"}


@pytest.mark.parametrize("credentials", ["", ":wrong@", "cat:wrong@", f"dog:{PASSWORD}@"])
async def test_a_wrong_password_or_user_ends_the_start(credentials: str) -> None:
    with guarded() as server:
        line = await refused(server.url(credentials=credentials))
    assert "refuses the user or the password" in line


async def test_a_password_for_a_server_without_one_ends_the_start(redis_server: RedisServer) -> None:
    line = await refused(redis_server.url(credentials=f":{PASSWORD}@"))
    assert "refuses the user or the password" in line


async def test_a_server_that_repeats_the_password_in_its_answer_is_not_quoted() -> None:
    with private_redis("--rename-command", "AUTH", "") as server:
        line = await refused(server.url(credentials=f"me:{PASSWORD}@"))
    assert "refuses the user or the password" in line
    assert "***" in line


async def test_missing_rights_end_the_start() -> None:
    with guarded() as server:
        line = await refused(server.url(credentials=f"mouse:{PASSWORD}@"))
    assert "does not let its user do that" in line
    assert "publish" in line.lower()


async def test_the_documented_rights_are_enough(redis_server: RedisServer) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations-redis.md").read_text()
    [rule] = [line.split() for line in text.splitlines() if line.startswith("    ACL SETUSER commucat ")]
    redis_server.run(*(f">{PASSWORD}" if word == ">password" else word for word in rule))
    told = Told()
    async with (
        node(redis_server.url(credentials=f"commucat:{PASSWORD}@", db=1), told=told) as redis,
        redis.bus.hints() as hints,
    ):
        await hints.receive()
        await subscribed(redis_server.url(), 1)
        redis.bus.note_session("d", "h")
        await settled(redis)
        assert await redis.bus.route_of(["d"]) == {"d": "n1"}
        assert await redis.buckets.take("connect", "x", burst=1, period=1.0) == 0.0
        redis.buckets.give_back("connect", "x", burst=1)
        redis.pairing.remember("C", PairingCode(user_id="u", issuer_device_id="d", expires_at=2**31))
        await settled(redis)
        assert await redis.pairing.find("C") is not None
        redis.pairing.forget("C")
        redis.bus.publish("n2", b"hint")
        redis.bus.forget_session("d", "h")
        await settled(redis)
        assert await redis.bus.route_of(["d"]) == {}
    assert told.lines == []


async def test_a_wrong_database_ends_the_start(redis_server: RedisServer) -> None:
    assert "database 99: Redis" not in (line := await refused(redis_server.url(db=99)))
    assert "has no database of this number" in line


async def test_an_unknown_host_is_tried_again() -> None:
    await degraded("redis://host.invalid", "cannot be found")


async def test_nobody_listening_is_tried_again(tmp_path: Path) -> None:
    await degraded(f"unix://{tmp_path}/redis.sock", "cannot be reached")


async def test_silence_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        await degraded(f"redis://127.0.0.1:{silent.getsockname()[1]}", "does not answer in time")


async def test_something_else_than_redis_ends_the_start() -> None:
    async with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert "is no Redis" in await refused(f"redis://127.0.0.1:{port}")


async def test_tls_where_there_is_none_ends_the_start() -> None:
    async with answering(b"-ERR unknown command\r\n") as port:
        assert "does not speak TLS" in await refused(f"rediss://localhost:{port}")


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """The port of a server that says always the same."""

    async def say(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, say, 0, host="127.0.0.1"))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@contextmanager
def with_tls(folder: Path) -> Iterator[tuple[str, Path]]:
    """A server with TLS; its URL without options, and its certificate."""
    certificate, key = folder / "redis.crt", folder / "redis.key"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"--tls-port {port} --bind 127.0.0.1 --tls-auth-clients no --tls-cert-file {certificate}"
    with private_redis(*options.split(), "--tls-key-file", str(key)):
        yield f"rediss://localhost:{port}/1", certificate


async def test_tls_with_a_trusted_certificate(tmp_path: Path) -> None:
    with with_tls(tmp_path) as (url, certificate):
        async with node(f"{url}?ssl_ca_certs={certificate}") as redis:
            redis.bus.note_session("d", "h")
            await settled(redis)
            assert await redis.bus.route_of(["d"]) == {"d": "n1"}


async def test_certificates_that_are_not_trusted_end_the_start(tmp_path: Path) -> None:
    with with_tls(tmp_path) as (url, certificate):
        assert "has a certificate that is not trusted" in await refused(url)
        wrong_name = url.replace("localhost", "127.0.0.1")
        line = await refused(f"{wrong_name}?ssl_ca_certs={certificate}")
        assert "has a certificate that is not trusted" in line
        (tmp_path / "empty.pem").write_text("")
        for name in ("absent.pem", "empty.pem"):
            assert f"cannot be used ({tmp_path}/{name})" in await refused(
                f"{url}?ssl_ca_certs={tmp_path}/{name}"
            )
