"""A server of several processes on PostgreSQL and another one: one process carries for all, and another one
takes over when it is killed."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from commucat_cli.errors import CliError
from commucat_proto import FrameType
from databases.postgres_databases import PostgresDatabases
from end_to_end.federated_servers import configuration, domain_of, federate
from end_to_end.raw_people import CHANNEL, Reach, reach, receiver, sender, take
from end_to_end.server_process import DEADLINE, ServerProcess
from end_to_end.test_workers import children

PEOPLE = [f"cat{number}" for number in range(6)]
"""Their connections come to either worker."""


@pytest.fixture
def servers(tmp_path: Path, postgres_databases: PostgresDatabases) -> Iterator[list[ServerProcess]]:
    database = f'[storage]\npostgres_dsn = "{postgres_databases.empty()}"\n'
    with ExitStack() as stack:
        servers = []
        for domain, more, options in (("a.test", database, ("--workers", "2")), ("b.test", "", ())):
            folder = tmp_path / domain
            folder.mkdir()
            # What is of federation comes last: more is put behind it.
            server = ServerProcess(folder, config=more + configuration(domain), options=options)
            stack.callback(server.close)
            server.start()
            servers.append(server)
        federate(servers, tmp_path)
        yield servers


async def say(where: Reach, name: str, to: str, text: str) -> None:
    with trio.fail_after(DEADLINE):
        while True:
            try:
                async with sender(where, name, to) as connection:
                    answer = await connection.request(FrameType.MSG, CHANNEL, text.encode())
            except CliError:
                continue  # it came to a worker that was just killed
            assert (answer.error, answer.refused) == (None, ())
            return


async def test_one_worker_carries_and_another_takes_over(servers: list[ServerProcess]) -> None:
    a, b = servers
    here, there = await reach(a), await reach(b)
    to = f"dora@{domain_of(b)}"
    names = [f"{name}@{domain_of(a)}" for name in PEOPLE]
    async with receiver(there, "dora", *names) as dora:
        async with trio.open_nursery() as nursery:
            for name in PEOPLE:
                nursery.start_soon(say, here, name, to, f"first {name}")
            with trio.fail_after(DEADLINE):
                first = await take(dora, len(PEOPLE))
        # Whichever of them carries: what is sent meanwhile waits for the other one.
        for worker in children(a.pid):
            os.kill(worker, signal.SIGKILL)
            for name in PEOPLE[:2]:
                await say(here, name, to, f"after {worker} {name}")
        with trio.fail_after(DEADLINE):
            rest = await take(dora, 4)

    assert sorted(payload.decode() for _, payload in first) == [f"first {name}" for name in PEOPLE]
    assert sorted(payload.decode().split()[-1] for _, payload in rest) == ["cat0", "cat0", "cat1", "cat1"]
    log = a.log.read_text()
    assert "Traceback" not in log
