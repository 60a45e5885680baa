"""Speed of the SQLite journal: durable rows per second, latency, and CPU of the writer thread.

    .venv/bin/python benchmarks/storage_journal.py [--seconds 3] [--rows 1000000] [--directory DIR]

Prints one JSON object. Each scenario runs on a fresh store unless it says otherwise. Every
message of 256 bytes goes to one recipient and is confirmed, so it is inserted, numbered and
deleted again; ``cpu_us`` is the time of the writer's thread per message for all of that.
"""

import argparse
import json
import os
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

import trio

from commucat_storage import (
    Admission,
    AdmissionKind,
    Confirm,
    Device,
    DeviceStatus,
    SqliteSettings,
    SqliteStorage,
    Storage,
    Submission,
    SubmissionOutcome,
    User,
    open_sqlite,
)

PAYLOAD = os.urandom(256)
LATER = 2**40


async def add_devices(storage: Storage, count: int) -> dict[str, str]:
    """Admit ``count`` devices; their epochs by device id."""
    epochs: dict[str, str] = {}

    async def admit(index: int) -> None:
        device_id = f"{index:064x}"
        user = User(user_id=f"user-{index}", handle=f"user-{index}", domain="bench", created_at=0)
        device = Device(
            device_id=device_id,
            user_id=user.user_id,
            public_key=bytes(32),
            status=DeviceStatus.ACTIVE,
            created_at=0,
        )
        admission = Admission(kind=AdmissionKind.NEW_USER, device=device, user=user, now=0)
        epochs[device_id] = (await storage.admit(admission)).inbox.epoch

    async with trio.open_nursery() as nursery:
        for index in range(count):
            nursery.start_soon(admit, index)
    return epochs


class WriterClock:
    """CPU seconds of the journal's thread, read from the kernel's account of it."""

    def __init__(self) -> None:
        thread = next(each for each in threading.enumerate() if each.name == "commucat-journal")
        assert thread.ident is not None
        self._clock = time.pthread_getcpuclockid(thread.ident)

    def read(self) -> float:
        return time.clock_gettime(self._clock)


async def relay(
    storage: SqliteStorage,
    epochs: dict[str, str],
    *,
    tasks: int,
    batch: int,
    seconds: float,
    confirm: bool = True,
) -> dict[str, float]:
    """``tasks`` callers commit ``batch`` messages each, again and again, each to its own device."""
    devices = list(epochs)
    latencies: list[float] = []
    rows = 0
    clock = WriterClock()
    cpu = clock.read()
    started = time.perf_counter()
    ends = started + seconds

    async def sender(index: int) -> None:
        nonlocal rows
        device_id = devices[index % len(devices)]
        messages = [Submission("", 7, 1, PAYLOAD, LATER, (device_id,)) for _ in range(batch)]
        confirmed: list[Confirm] = []
        while time.perf_counter() < ends:
            before = time.perf_counter()
            outcomes = await storage.commit([*messages, *confirmed])
            latencies.append(time.perf_counter() - before)
            rows += batch
            if confirm:
                last = outcomes[batch - 1]
                assert isinstance(last, SubmissionOutcome)
                confirmed = [Confirm(device_id, epochs[device_id], last.accepted[0][1])]

    async with trio.open_nursery() as nursery:
        for index in range(tasks):
            nursery.start_soon(sender, index)
    elapsed = time.perf_counter() - started
    cpu = clock.read() - cpu
    latencies.sort()
    return {
        "rows_per_s": round(rows / elapsed),
        "cpu_us": round(cpu / rows * 1e6, 2),
        "p50_ms": round(statistics.median(latencies) * 1e3, 2),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1e3, 2),
        "worst_ms": round(latencies[-1] * 1e3, 2),
    }


async def never_idle() -> None:
    """What a saturated event loop does: small system calls and computing, without a pause."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        while True:
            ours.send(PAYLOAD)
            theirs.recv(len(PAYLOAD))
            sum(range(5000))
            await trio.lowlevel.checkpoint()


async def fan_out(storage: SqliteStorage, epochs: dict[str, str], *, seconds: float) -> dict[str, float]:
    """One sender, one payload at a time, to every device; every device confirms each."""
    devices = tuple(epochs)
    clock = WriterClock()
    cpu = clock.read()
    started = time.perf_counter()
    rows = number = 0
    while time.perf_counter() < started + seconds:
        [outcome] = await storage.commit([Submission("", 7, 1, PAYLOAD, LATER, devices)])
        assert isinstance(outcome, SubmissionOutcome)
        rows += len(outcome.accepted)
        number = outcome.accepted[0][1]
        await storage.commit([Confirm(each, epochs[each], number) for each in devices])
    elapsed = time.perf_counter() - started
    return {
        "deliveries_per_s": round(rows / elapsed),
        "ms_per_message": round(elapsed / number * 1e3, 2),
        "cpu_us": round((clock.read() - cpu) / rows * 1e6, 2),
    }


async def drain(storage: SqliteStorage, device_id: str, epoch: str) -> dict[str, float]:
    """Read and confirm a whole inbox in pages of 256."""
    started = time.perf_counter()
    number = rows = 0
    while True:
        page = await storage.read_after(device_id, number, limit_rows=256, limit_bytes=2**20, now=0)
        if not page.rows:
            break
        number = page.rows[-1].number
        rows += len(page.rows)
        await storage.enqueue([Confirm(device_id, epoch, number)], lambda outcomes: None)
    elapsed = time.perf_counter() - started
    return {"rows": rows, "rows_per_s": round(rows / elapsed)}


async def run(arguments: argparse.Namespace, directory: Path) -> dict[str, object]:
    seconds: float = arguments.seconds
    report: dict[str, object] = {}
    for tasks, batch in ((1, 1), (16, 1), (256, 1), (4, 16), (4, 200)):
        async with open_sqlite(directory / f"relay-{tasks}-{batch}.db") as storage:
            epochs = await add_devices(storage, min(tasks, 50))
            report[f"{tasks} tasks x {batch}"] = await relay(
                storage, epochs, tasks=tasks, batch=batch, seconds=seconds
            )
    async with open_sqlite(directory / "busy.db") as storage, trio.open_nursery() as nursery:
        epochs = await add_devices(storage, 16)
        nursery.start_soon(never_idle)
        report["16 tasks x 16, loop never idle"] = await relay(
            storage, epochs, tasks=16, batch=16, seconds=seconds
        )
        nursery.cancel_scope.cancel()
    async with open_sqlite(directory / "fan-out.db") as storage:
        epochs = await add_devices(storage, 1000)
        report["fan-out to 1000"] = await fan_out(storage, epochs, seconds=seconds)
    settings = SqliteSettings(max_rows=2 * arguments.rows + 1, max_bytes=2**40)
    async with open_sqlite(directory / "full.db", settings=settings) as storage:
        epochs = await add_devices(storage, 10)
        fill = [Submission("", 7, 1, PAYLOAD, LATER, (each,)) for each in epochs for _ in range(20)]
        before = time.perf_counter()
        for _ in range(arguments.rows // len(fill)):
            await storage.commit(fill)
        report["fill"] = {
            "rows": arguments.rows,
            "rows_per_s": round(arguments.rows / (time.perf_counter() - before)),
        }
        # Inserts only: a confirmation would delete what was filled in.
        report["full, 4 tasks x 200, no confirmation"] = await relay(
            storage, epochs, tasks=4, batch=200, seconds=seconds, confirm=False
        )
        device_id = next(iter(epochs))
        report["drain"] = await drain(storage, device_id, epochs[device_id])
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each scenario runs")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows stored before the last scenarios")
    parser.add_argument("--directory", help="where the databases are made (default: a temporary directory)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        print(json.dumps(trio.run(run, arguments, Path(directory)), indent=2))


if __name__ == "__main__":
    main()
