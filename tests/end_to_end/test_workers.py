"""``commucat-server --workers N``: several processes behind one address."""

import contextlib
import json
import os
import select
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import trio

from commucat_cli.errors import CliError
from commucat_cli.transport import Timeouts, Via, open_h2
from commucat_ledger import verify
from databases.postgres_databases import PostgresDatabases
from end_to_end.client_people import login
from end_to_end.raw_people import Reach, reach, receiver, sender, take
from end_to_end.server_process import DEADLINE, ServerProcess, run, server_process
from end_to_end.test_nodes import hear, say

WORKERS = 2


@pytest.fixture
def dsn(postgres_databases: PostgresDatabases) -> str:
    return postgres_databases.empty()


@pytest.fixture
def server(tmp_path: Path, dsn: str) -> Iterator[ServerProcess]:
    # Whoever asks again and again how they are must not be told to wait.
    config = (
        f'[server]\nauto_approve_devices = true\n[storage]\npostgres_dsn = "{dsn}"\n'
        "[security.rate_limit]\nhttp_burst = 1000000\n"
    )
    with server_process(tmp_path, config, options=("--workers", str(WORKERS))) as started:
        yield started


async def healths(where: Reach) -> dict[int, str]:
    """Worker to node, of connections that are made until every worker has answered one."""
    found: dict[int, str] = {}
    with trio.fail_after(DEADLINE):
        while set(found) != set(range(1, WORKERS + 1)):
            try:
                async with open_h2(where.address, where.trust, Timeouts()) as client:
                    body = json.loads((await client.get("/healthz", [])).body)
            except CliError:
                continue  # it came to a worker that was just killed
            found[body["worker"]] = body["node"]
    return found


def children(pid: int) -> list[int]:
    """Of all its threads: each starts processes of its own."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found += map(int, path.read_text().split())
    return found


async def test_messages_reach_devices_at_whichever_worker_they_are(server: ServerProcess) -> None:
    where = await reach(server)
    assert len(set((await healths(where)).values())) == WORKERS
    names = [f"cat{index}" for index in range(8)]
    async with trio.open_nursery() as nursery:
        received: dict[str, list[tuple[int, bytes]]] = {}
        ready = {name: trio.Event() for name in names}

        async def listen(name: str) -> None:
            async with receiver(where, name, "dora") as connection:
                ready[name].set()
                received[name] = await take(connection, 3)

        for name in names:
            nursery.start_soon(listen, name)
        with trio.fail_after(DEADLINE):
            for each in ready.values():
                await each.wait()
        async with sender(where, "dora", *names) as dora:
            for number in range(3):
                await say(dora, b"%d" % number)

    assert received == {name: [(1, b"0"), (2, b"1"), (3, b"2")] for name in names}


async def test_a_killed_worker_is_started_again_and_the_others_go_on(server: ServerProcess) -> None:
    where = await reach(server)
    before = await healths(where)
    [victim, *others] = children(server.pid)

    os.kill(victim, signal.SIGKILL)
    after = await healths(where)
    while after == before:
        after = await healths(where)

    assert len(set(after.items()) & set(before.items())) == WORKERS - 1
    assert set(others) < set(children(server.pid))
    assert server.stop() == 0


async def test_sighup_renews_every_worker_in_turn(server: ServerProcess) -> None:
    where = await reach(server)
    before = await healths(where)

    os.kill(server.pid, signal.SIGHUP)
    with trio.fail_after(DEADLINE):
        while set((await healths(where)).values()) & set(before.values()):
            pass

    assert server.stop() == 0


def test_sigterm_drains_all_and_every_worker_leaves_a_whole_ledger(server: ServerProcess) -> None:
    async def come_and_go() -> None:
        async with receiver(await reach(server), "bob"):
            pass

    trio.run(come_and_go)

    assert server.stop() == 0

    ledgers = sorted(path.name for path in server.data_dir.glob("ledger*.jsonl"))
    assert ledgers == ["ledger-1.jsonl", "ledger-2.jsonl"]
    assert sum(verify(server.data_dir / name).lines for name in ledgers) > 0


def test_workers_end_when_their_parent_was_killed(server: ServerProcess) -> None:
    # Handles of the processes, and not of others that might get their numbers.
    workers = [os.pidfd_open(pid) for pid in children(server.pid)]
    assert len(workers) == WORKERS

    server.kill()

    for worker in workers:
        ended, _, _ = select.select([worker], [], [], DEADLINE)
        os.close(worker)
        assert ended


def test_a_second_server_is_refused_while_workers_run(server: ServerProcess, tmp_path: Path) -> None:
    command = ["commucat-server", "--data-dir", str(server.data_dir), "--bind", "127.0.0.1:0"]

    done = run(command, tmp_path)

    assert done.returncode == 1
    assert f"(pid {server.pid})" in done.stderr


def test_the_embedded_store_has_one_worker(tmp_path: Path) -> None:
    done = run(["commucat-server", "--data-dir", "data", "--workers", "2"], tmp_path)

    assert done.returncode == 2
    assert done.stderr == (
        "error: several workers need PostgreSQL: set storage.postgres_dsn, or leave --workers out\n"
    )


def test_what_keeps_workers_from_starting_is_told_once(tmp_path: Path) -> None:
    dsn = "postgresql://me:hunter2@127.0.0.1:1/cats"

    done = run(
        ["commucat-server", "--data-dir", "data", "--bind", "127.0.0.1:0", "--workers", "3"],
        tmp_path,
        COMMUCAT_PG_DSN=dsn,
    )

    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "database cats: cannot be reached" in errors[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("via", [Via.SSE_POSTS_HTTP1, Via.LONG_POLL_POSTS_HTTP1, Via.SSE_POSTS])
async def test_posts_reach_their_stream_at_whichever_worker_they_arrive(
    server: ServerProcess, via: Via
) -> None:
    """Over HTTP/1.1 each request has a connection of its own, and any worker may take it."""
    where = await reach(server)
    # Enough sessions that it would be a miracle if each had all its requests at one worker.
    for turn in range(4):
        texts = [b"%d of turn %d" % (number, turn) for number in range(5)]
        async with receiver(where, "bob", via=via) as bob, sender(where, "cat", "bob", via=via) as cat:
            for text in texts:
                await say(cat, text)
            got: list[bytes] = []
            while texts[-1] not in got:
                got += [text for _, text in await hear(bob, 1)]
        # What was not confirmed in an earlier turn comes again.
        assert [text for text in got if text in texts] == texts


@contextlib.contextmanager
def stopped(pids: Iterable[int]) -> Iterator[None]:
    """Whoever is stopped takes no connection."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_device_that_meets_one_worker_after_the_other_is_not_alarmed(server: ServerProcess) -> None:
    """Each worker has a ledger, and a name of its own for it: none looks like another one begun anew."""
    workers = children(server.pid)
    with stopped(workers[1:]):
        tom, kit = login(server, "tom"), login(server, "kit")
    # The first that comes to the others is a device that knows where a ledger stands.
    for worker in workers:
        with stopped([other for other in workers if other != worker]):
            sent = tom.send(kit, "hello")
        assert (sent.returncode, sent.stderr) == (0, "")
    for number in range(1, WORKERS + 1):
        assert tom.device_id in (server.data_dir / f"ledger-{number}.jsonl").read_text()
