"""Chaos runs over two servers that are each other's peers."""

import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

from cli.chaos_builders import Story, chaos, message
from commucat_cli.chaos import FaultKind, judge
from commucat_cli.chaos.plan import stream_of
from commucat_cli.chaos.wire import Wire
from databases.postgres_cluster import PostgresCluster

ONE, TWO = message(1), message(2)
SIZE = ("--domains", "2", "--devices", "4", "--messages", "300", "--kills", "2", "--duration-limit", "200")


def faults(story: Story) -> list[FaultKind]:
    return [fault.kind for fault in judge(story.records).faults]


# -- the verdict ----------------------------------------------------------------------------------


def test_what_another_server_loses_is_lost() -> None:
    story = Story()
    story.sent_afar(ONE, "bob")
    assert faults(story) == [FaultKind.LOST]


def test_what_a_route_shuts_out_may_be_refused_by_another_server() -> None:
    story = Story()
    story.joined("bob", "carol")
    story.sent_afar(ONE, "bob")
    story.returned(ONE)
    verdict = judge(story.records)
    assert (verdict.holds, verdict.returned) == (True, 1)


def test_what_no_route_shuts_out_must_not_be_refused() -> None:
    story = Story()
    story.joined("bob", "alice")
    story.sent_afar(ONE, "bob")
    story.returned(ONE)
    assert faults(story) == [FaultKind.LOST]


def test_a_refusal_of_one_copy_is_none_of_the_other() -> None:
    story = Story()
    story.joined("bob", "carol")
    story.sent_afar(ONE, "bob", "dave")
    story.returned(ONE)
    assert faults(story) == [FaultKind.LOST]


def test_a_payload_of_nobody_that_is_refused_was_invented() -> None:
    story = Story()
    story.returned(None)
    assert faults(story) == [FaultKind.INVENTED]


def test_a_route_counts_when_the_message_arrives_not_when_it_is_acknowledged() -> None:
    story = Story()
    story.joined("bob", "carol")
    story.sent_afar(ONE, "bob")
    story.joined("bob", "alice")
    story.came(ONE, 1)
    assert faults(story) == []

    story.joined("bob", "carol")
    story.sent_afar(TWO, "bob")
    story.came(TWO, 2)
    assert faults(story) == [FaultKind.EXCLUDED]


# -- the wire -------------------------------------------------------------------------------------


@pytest.fixture
def echo_port(nursery: trio.Nursery) -> int:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async def listen() -> None:
        await trio.serve_listeners(echo, listeners)

    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(_listening()))]
    nursery.start_soon(listen)
    return int(listeners[0].socket.getsockname()[1])


def _listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


async def sends_until_cut(stream: trio.SocketStream) -> bool:
    try:
        await stream.send_all(b"three" * 10_000)
        while await stream.receive_some():
            await stream.send_all(b"three" * 10_000)
    except trio.BrokenResourceError:
        pass
    return True


async def test_a_wire_passes_on_what_comes_late_and_nothing_behind_a_cut(
    nursery: trio.Nursery, echo_port: int
) -> None:
    wire = Wire(lambda: echo_port, stream_of(1, "test"))
    await nursery.start(wire.serve)
    with trio.fail_after(30):
        async with await trio.open_tcp_stream("127.0.0.1", wire.port) as stream:
            await stream.send_all(b"one")
            assert await stream.receive_some() == b"one"
            async with trio.open_nursery() as faults:
                faults.start_soon(wire.swallow)
                faults.start_soon(wire.delay)
                await stream.send_all(b"two")
                assert await stream.receive_some() == b"two"
            await wire.cut()
            assert await sends_until_cut(stream)
        async with await trio.open_tcp_stream("127.0.0.1", wire.port) as stream:
            await stream.send_all(b"four")
            assert await stream.receive_some() == b"four"


# -- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--devices", "3"], "each domain needs two"),
        (["--dsn", "postgresql:///x"], "give 2, not 1"),
        (["--dsn", "postgresql:///x", "--dsn", "postgresql:///x"], "give 2, not 1"),
        (["--nodes", "2", "--dsn", "postgresql:///x", "--dsn", "postgresql:///y"], "no --nodes"),
        (["--redis", "redis://h"], "no --redis"),
    ],
)
def test_what_two_domains_cannot_have_is_told(tmp_path: Path, options: list[str], text: str) -> None:
    result = chaos(tmp_path, "--domains", "2", *options)
    assert result.returncode == 2
    assert text in result.stderr


def test_the_promise_holds_between_two_servers(tmp_path: Path) -> None:
    """The seed is drawn anew every time and stands in the output: that is what a failure is repeated with."""
    assert holding(tmp_path)["service_faults"] == {"wire cut": 2, "wire dead": 2, "wire slow": 2}
    assert list(tmp_path.iterdir()) == []


def test_the_promise_holds_between_two_servers_whose_databases_fail(
    tmp_path: Path, postgres_cluster: PostgresCluster
) -> None:
    databases = [postgres_cluster.dsn(postgres_cluster.new_database()) for _ in range(2)]
    options = [option for dsn in databases for option in ("--dsn", dsn)]
    figures = holding(tmp_path, *options, "--database-faults", "4")
    assert figures["full_disks"] == 0
    assert figures["service_faults"] == {"database cut": 4, "wire cut": 2, "wire dead": 2, "wire slow": 2}
    # Each server has a database of its own, with the name of its domain in it.
    domains = [postgres_cluster.sql("SELECT domain FROM cluster", dsn_name(dsn)) for dsn in databases]
    assert domains == ["chaos-0.test", "chaos-1.test"]


def holding(folder: Path, *options: str) -> dict[str, Any]:
    """The figures of a run that must be clean."""
    result = chaos(folder, *SIZE, *options, "--json")
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    figures: dict[str, Any] = json.loads(result.stdout)
    assert figures["holds"]
    assert (figures["domains"], figures["kills"], figures["lost"]) == (2, 2, 0)
    assert figures["delivered"] > 0
    return figures


def dsn_name(dsn: str) -> str:
    """The database that it names."""
    return urlsplit(dsn).path.removeprefix("/")
