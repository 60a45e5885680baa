"""What one message costs PostgreSQL: statements, rows and log bytes for 1,000 messages, and our own CPU.

    .venv/bin/python benchmarks/postgres_statements.py [--messages 1000] [--fsync]
    .venv/bin/python benchmarks/postgres_statements.py --dsn postgresql://...

Without ``--dsn`` a private server is started and deleted again. Another server must have pg_stat_statements
among its ``shared_preload_libraries``, and the role must be allowed to reset it; the database is left with
the devices of the run. Every message of 256 bytes is inserted, numbered, confirmed and deleted again.
Statements, rows and log bytes are the database's own counts, and hold on a busy machine too.
"""

import argparse
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from storage_journal import LATER, PAYLOAD, add_devices

from commucat_storage import Admission, AdmissionKind, Confirm, SessionRow, Storage, Submission
from commucat_storage.postgres import open_postgres
from databases.postgres_cluster import private_cluster, run_sql

DEVICES = 64
EXTENSION = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"
RESET = "SELECT pg_stat_statements_reset(); SELECT pg_stat_reset()"
WRITTEN = "SELECT sum(calls), sum(rows), sum(wal_bytes), round(sum(total_exec_time)::numeric, 1) {0}"
OWN = "FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_%' AND query NOT LIKE '%pg_current_wal%'"
LARGEST = (
    "SELECT calls || '|' || rows || '|' || left(regexp_replace(query, '\\s+', ' ', 'g'), 60) {0} "
    "ORDER BY calls DESC LIMIT 12"
)


@attrs.frozen
class Bench:
    """A store with devices in it, and a look at what its database has done."""

    dsn: str
    storage: Storage
    epochs: dict[str, str]

    async def measure(self, count: int, work: Callable[[], Awaitable[None]], *, show: bool) -> dict[str, Any]:
        """Do ``work``, which is about ``count`` messages; figures per 1,000 of them."""
        await work()  # What is remembered is remembered, what is prepared is prepared.
        await trio.to_thread.run_sync(run_sql, self.dsn, RESET)
        started, cpu = time.perf_counter(), time.process_time()
        await work()
        took, spent = time.perf_counter() - started, time.process_time() - cpu
        [line] = (await trio.to_thread.run_sync(run_sql, self.dsn, WRITTEN.format(OWN))).splitlines()
        calls, rows, wal, executed = line.split("|")
        figures: dict[str, Any] = {
            "statements": round(int(calls) * 1000 / count),
            "rows": round(int(rows) * 1000 / count),
            "wal_kib": round(float(wal) / 1024 * 1000 / count),
            "database_ms": round(float(executed) * 1000 / count, 1),
            "own_cpu_ms": round(spent * 1000 * 1000 / count, 1),
            "per_second": round(count / took),
        }
        if show:
            listed = await trio.to_thread.run_sync(run_sql, self.dsn, LARGEST.format(OWN))
            figures["largest"] = listed.splitlines()
        return figures

    async def relay(self, messages: int, callers: int, batch: int) -> None:
        """``callers`` send batches, each to a device of its own, and confirm what came."""
        names = list(self.epochs)

        async def caller(index: int) -> None:
            name = names[index % len(names)]
            confirm: tuple[Confirm, ...] = ()
            for _ in range(max(1, messages // callers // batch)):
                outcomes = await self.storage.commit(
                    [Submission("", 7, 1, PAYLOAD, LATER, (name,))] * batch + [*confirm]
                )
                confirm = (Confirm(name, self.epochs[name], outcomes[batch - 1].accepted[0][1]),)  # type: ignore[union-attr]

        async with trio.open_nursery() as nursery:
            for index in range(callers):
                nursery.start_soon(caller, index)

    async def fan_out(self, messages: int) -> None:
        """One sender to all devices, which confirm."""
        names = tuple(self.epochs)
        confirms: list[Confirm] = []
        for _ in range(messages):
            outcomes = await self.storage.commit([Submission("", 7, 1, PAYLOAD, LATER, names), *confirms])
            confirms = [Confirm(name, self.epochs[name], number) for name, number in outcomes[0].accepted]  # type: ignore[union-attr]

    async def connect(self, count: int) -> None:
        """What a connect of a known device reads and writes."""
        names = list(self.epochs)
        for index in range(count):
            known = await self.storage.known_device(names[index % len(names)])
            assert known is not None
            await self.storage.admit(
                Admission(
                    kind=AdmissionKind.KNOWN_DEVICE,
                    device=known.device,
                    session=session_of(known.device.device_id, known.device.user_id, index),
                    now=index,
                )
            )
            await self.storage.read_after(known.device.device_id, 0, limit_rows=100, limit_bytes=2**20, now=0)


def session_of(device_id: str, user_id: str, index: int) -> SessionRow:
    return SessionRow(
        token_hash=f"{time.time_ns()}-{index}",
        user_id=user_id,
        device_id=device_id,
        created_at=index,
        refreshed_at=index,
        ttl_seconds=3600,
        tls_fingerprint="",
    )


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Bench]:
    """The store at ``dsn`` with its devices."""
    await trio.to_thread.run_sync(run_sql, dsn, EXTENSION)
    async with open_postgres(dsn) as storage:
        yield Bench(dsn, storage, await add_devices(storage, DEVICES))


async def main(arguments: argparse.Namespace, dsn: str) -> None:
    count, show = arguments.messages, arguments.statements
    results: dict[str, Any] = {}
    async with opened(dsn) as bench:
        for callers, batch in ((1, 1), (16, 1), (64, 10), (16, 200)):
            messages = max(count, callers * batch * 4)
            figures = await bench.measure(
                messages,
                partial(bench.relay, messages, callers, batch),
                show=show,
            )
            results[f"{callers} callers, {batch} a batch"] = figures
        results[f"1 to {DEVICES}"] = await bench.measure(count, lambda: bench.fan_out(count), show=show)
        results["connects"] = await bench.measure(count, lambda: bench.connect(count), show=show)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dsn", help="an existing server instead of a private one")
    parser.add_argument("--messages", type=int, default=1_000)
    parser.add_argument("--fsync", action="store_true", help="the private server waits for its disk")
    parser.add_argument("--statements", action="store_true", help="list the most frequent statements too")
    given = parser.parse_args()
    with ExitStack() as stack:
        address = given.dsn
        if address is None:
            cluster = stack.enter_context(private_cluster("fsync = on" if given.fsync else ""))
            address = cluster.dsn(cluster.new_database())
        trio.run(main, given, address)
