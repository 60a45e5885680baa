"""SIGKILL at random moments: every acknowledged message arrives, in order, none shown twice."""

import json
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from databases.postgres_cluster import PostgresCluster
from databases.redis_server import RedisServer
from end_to_end.server_process import BIN, DEADLINE, ServerProcess, clean_environment, run, server_process

MESSAGES = 10_000
KILLS = 20
ON_POSTGRESQL = 2_000
WITH_REDIS = 2_000


def login(server: ServerProcess, home: Path, handle: str) -> str:
    command = ["commucat-cli", "login", "--server", server.url, "--handle", handle, "--profile", handle]
    result = run([*command, "--tls-ca", str(server.ca_file)], home)
    assert result.returncode == 0, result.stderr
    return dict(line.split("=", 1) for line in result.stdout.splitlines())["device_id"]


@pytest.fixture
def randomness() -> random.Random:
    # A new seed every time: the moments shall differ. It is printed with a failure.
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


Strike = Callable[[], None]


async def test_no_acknowledged_message_is_lost_by_killing_the_server(
    tmp_path: Path, randomness: random.Random
) -> None:
    with server_process(tmp_path) as server:

        def kill() -> None:
            server.kill()
            server.start()

        shown = await converse(server, tmp_path, MESSAGES, [kill] * KILLS, randomness)
        assert server.stop() == 0

    texts = [text_of(number) for number in range(MESSAGES)]
    assert [one["text"] for one in shown] == texts, "in order, none lost, none twice"
    numbers = [one["sequence"] for one in shown]
    assert numbers == sorted(numbers)  # type: ignore[type-var]


async def test_no_acknowledged_message_is_lost_when_server_and_postgresql_end_in_turn(
    tmp_path: Path, randomness: random.Random, postgres_cluster: PostgresCluster
) -> None:
    dsn = postgres_cluster.dsn(postgres_cluster.new_database())
    config = f'[server]\nauto_approve_devices = true\n[storage]\npostgres_dsn = "{dsn}"\n'
    with server_process(tmp_path, config) as server:

        def kill() -> None:
            server.kill()
            server.start()

        def crash_database() -> None:
            postgres_cluster.restart(signal.SIGQUIT)

        def end_both() -> None:
            server.kill()
            postgres_cluster.restart()
            server.start()

        strikes = [kill, crash_database, end_both, crash_database, kill]
        shown = await converse(server, tmp_path, ON_POSTGRESQL, strikes, randomness)
        assert not server.database.exists()
        assert server.stop() == 0

    # A commit whose answer was lost is sent again, perhaps behind what came after it: in another order then.
    assert sorted(str(one["text"]) for one in shown) == sorted(map(text_of, range(ON_POSTGRESQL)))


async def test_no_acknowledged_message_is_lost_when_server_and_redis_end_in_turn(
    tmp_path: Path, randomness: random.Random, redis_server: RedisServer
) -> None:
    config = f'[server]\nauto_approve_devices = true\n[storage]\nredis_url = "{redis_server.url()}"\n'
    with server_process(tmp_path, config) as server:

        def kill() -> None:
            server.kill()
            server.start()

        def crash_redis() -> None:
            redis_server.restart(signal.SIGKILL)

        def both() -> None:
            redis_server.pause()
            kill()
            redis_server.resume()

        def forget() -> None:
            redis_server.run("FLUSHALL")
            redis_server.run("CLIENT", "KILL", "TYPE", "pubsub")
            redis_server.run("CLIENT", "KILL", "TYPE", "normal")

        strikes = [redis_server.pause, kill, redis_server.resume, crash_redis, both, forget, kill]
        shown = await converse(server, tmp_path, WITH_REDIS, strikes, randomness)
        assert server.stop() == 0

    texts = [text_of(number) for number in range(WITH_REDIS)]
    assert [one["text"] for one in shown] == texts, "in order, none lost, none twice"


def text_of(number: int) -> str:
    return f"message {number}"


async def converse(
    server: ServerProcess, home: Path, count: int, strikes: list[Strike], randomness: random.Random
) -> list[dict[str, object]]:
    """What bob is shown of alice's messages, while the strikes come at random moments."""
    bob = login(server, home, "bob")
    alice = login(server, home, "alice")
    # They know each other: strangers may fill only a small part of an inbox.
    greeting = ["commucat-cli", "send", "--profile", "bob", "--to", alice, "hello"]
    assert run(greeting, home).returncode == 0
    client = str(BIN / "commucat-cli")
    send = [client, "send", "--profile", "alice", "--to", bob, "--stdin", "--timeout", "300"]
    listen = [client, "listen", "--profile", "bob", "--json", "--timeout", "300", "--count", str(count)]
    listener = await open_process(listen, home)
    sender = await open_process(send, home)
    shown: list[dict[str, object]] = []
    # When the next strike is due, in messages shown; the moments before the first and after
    # the last message count too.
    due = sorted(randomness.randrange(count) for _ in strikes)
    left = list(strikes)
    with trio.fail_after(10 * DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed, sender, [text_of(number) for number in range(count)])
            async for line in lines(listener):
                shown.append(json.loads(line))
                while due and len(shown) > due[0]:
                    due.pop(0)
                    await trio.to_thread.run_sync(left.pop(0))
        codes = [await sender.wait(), await listener.wait()]
    print(f"{len(strikes)} strikes, {len(shown)} messages shown")
    assert codes == [0, 0], "send: all acknowledged; listen: all shown"
    assert left == []
    return shown


async def open_process(command: list[str], home: Path) -> trio.Process:
    return await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=home, env=clean_environment()
    )


async def feed(process: trio.Process, texts: list[str]) -> None:
    assert process.stdin is not None
    async with process.stdin as stdin:
        await stdin.send_all("".join(text + "\n" for text in texts).encode())


async def lines(process: trio.Process):  # type: ignore[no-untyped-def]
    assert process.stdout is not None
    buffer = b""
    async with process.stdout as stdout:
        async for data in stdout:
            *complete, buffer = (buffer + data).split(b"\n")
            for line in complete:
                yield line
    assert buffer == b""
