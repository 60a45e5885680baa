"""Speed of the PostgreSQL journal: durable rows per second and latency of one caller.

    .venv/bin/python benchmarks/postgres_journal.py --dsn postgresql://... [--seconds 3]

The database must be empty or one of ours; it is left with the devices of the run. Every message of 256
bytes goes to one recipient and is confirmed, so it is inserted, numbered and deleted again.
"""

import argparse
import json
import os
import statistics
import time

import trio
from storage_journal import LATER, PAYLOAD, add_devices

from commucat_storage import Confirm, Storage, Submission, SubmissionOutcome
from commucat_storage.postgres import open_postgres

DEVICES = 64


async def relay(
    storage: Storage, epochs: dict[str, str], *, tasks: int, batch: int, seconds: float
) -> dict[str, float]:
    """``tasks`` callers send batches and confirm what came."""
    names = list(epochs)
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    sent = 0

    async def caller(index: int) -> None:
        nonlocal sent
        name = names[index % len(names)]
        confirm: tuple[Confirm, ...] = ()
        while time.perf_counter() < end:
            started = time.perf_counter()
            outcomes = await storage.commit(
                [Submission("", 7, 1, PAYLOAD, LATER, (name,))] * batch + [*confirm]
            )
            latencies.append(time.perf_counter() - started)
            sent += batch
            last = outcomes[batch - 1]
            assert isinstance(last, SubmissionOutcome)
            confirm = (Confirm(name, epochs[name], last.accepted[0][1]),)

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for index in range(tasks):
            nursery.start_soon(caller, index)
    took = time.perf_counter() - started
    return {
        "rows_per_second": round(sent / took),
        "p50_ms": round(statistics.median(latencies) * 1000, 2),
        "p99_ms": round(sorted(latencies)[int(len(latencies) * 0.99)] * 1000, 2),
    }


async def main(arguments: argparse.Namespace) -> None:
    async with open_postgres(arguments.dsn) as storage:
        epochs = await add_devices(storage, DEVICES)
        result = {}
        for tasks, batch in ((1, 1), (16, 1), (64, 10), (16, 200)):
            figures = await relay(storage, epochs, tasks=tasks, batch=batch, seconds=arguments.seconds)
            result[f"{tasks} callers, {batch} a batch"] = figures
    print(json.dumps({"cpus": os.cpu_count(), **result}, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    trio.run(main, parser.parse_args())
