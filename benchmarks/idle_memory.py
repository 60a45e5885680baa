"""What a session that does nothing keeps in memory, part by part, and what one that has ended leaves.

    .venv/bin/python benchmarks/idle_memory.py --sessions 1000
    .venv/bin/python benchmarks/idle_memory.py --sessions 1000 --by part
    .venv/bin/python benchmarks/idle_memory.py --sessions 1000 --by line --rows 40
    .venv/bin/python benchmarks/idle_memory.py --sessions 1000 --by type
    .venv/bin/python benchmarks/idle_memory.py --ended 500

The server runs in this process, the sessions in another one. Without ``--by`` it prints KiB for each session:
resident memory, what ``malloc`` has given out (OpenSSL, SQLite, Python objects above 512 bytes) and what
Python's own allocator has. ``part``, ``file`` and ``line`` say where Python's memory was asked for, ``type``
which objects there are; tracing costs memory itself, so resident memory is not printed with them. ``--ended``
counts for each connect, in order and cut off, the objects that only the garbage collector could free. Linux
with glibc only.
"""

import argparse
import ctypes
import gc
import json
import os
import re
import resource
import sys
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import trio

from commucat_cli.bench.crew import ClientProcess
from commucat_cli.bench.jobs import HoldReport, HoldTask
from commucat_cli.bench.scenarios.connect import connect_all, connectors
from commucat_cli.bench.server_process import ServerUnderLoad, Store, configuration
from commucat_server.app import RunningServer, serve
from commucat_server.config import load_config
from commucat_server.listener import ShutdownSignal
from commucat_server.ops.collector import settle_collector
from commucat_server.ops.logs import configure_logs
from commucat_server.provision import prepare_data_dir

WARMUP = 50
STALL = 60.0
PARTS = (
    ("connection, TLS included (listener/)", r"commucat_server/listener|/ssl\.py"),
    ("HTTP/2 (h2, hpack, hyperframe)", r"site-packages/(h2|hpack|hyperframe)/"),
    ("session (connect/, routing/)", r"commucat_server/(connect|routing)"),
    ("frames and ciphers (proto, crypto)", r"commucat_(proto|crypto)|/(noise|cryptography)/"),
    ("tasks, scopes, waits (trio)", r"/trio/|trio\._"),
    ("rows and profiles (storage, identity)", r"commucat_(storage|ledger)|commucat_server"),
    ("other", ""),
)


_MALLINFO_FIELDS = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h."""

    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in _MALLINFO_FIELDS]


def malloc_bytes() -> int:
    """What malloc has given out and not got back."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _MallocInfo
    found = library.mallinfo2()
    return int(found.uordblks + found.hblkhd)


def python_bytes() -> int:
    """What Python's allocator for small objects has given out."""
    with tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        file.seek(0)
        found = re.search(rb"# bytes in allocated blocks\s*=\s*([\d,]+)", file.read())
    return int(found[1].replace(b",", b"")) if found else 0


def resident_bytes() -> int:
    """Resident memory of this process, exactly."""
    found = re.search(r"^Rss:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def reading() -> dict[str, int]:
    return {"resident": resident_bytes(), "malloc": malloc_bytes(), "python": python_bytes()}


def objects() -> tuple[Counter[str], Counter[str]]:
    """Numbers and bytes of all objects that the collector knows, by type."""
    numbers: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for each in gc.get_objects():
        name = f"{type(each).__module__}.{type(each).__qualname__}"
        numbers[name] += 1
        sizes[name] += sys.getsizeof(each)
    return numbers, sizes


@asynccontextmanager
async def running_server() -> AsyncIterator[ServerUnderLoad]:
    """A fresh server in this process."""
    with tempfile.TemporaryDirectory(prefix="commucat-memory-") as name:
        folder = Path(name)
        limits = {
            "connects_per_second": 100_000,
            "new_devices_per_hour": 1_000_000,
            "max_connections": 100_000,
        }
        (folder / "c.toml").write_text(configuration(limits, Store()), "utf-8")
        data = folder / "data"
        config = load_config(config_path=folder / "c.toml", data_dir=data, bind=None, environ={}, cwd=folder)
        configure_logs(config.logging.level)
        shutdown = ShutdownSignal()
        with prepare_data_dir(config) as data_dir:
            async with trio.open_nursery() as nursery:
                running: RunningServer = await nursery.start(serve, config, data_dir, shutdown)
                settle_collector()
                yield ServerUnderLoad(folder, running.url, data / "tls" / "cert.pem")
                shutdown.request()


async def hold(process: ClientProcess, sessions: int) -> None:
    await process.do(HoldTask(count=sessions), HoldReport)


async def idle(options: argparse.Namespace) -> None:
    sessions: int = options.sessions
    async with (
        running_server() as server,
        connectors(server, sessions + WARMUP, 1, STALL) as [process],
    ):
        await hold(process, WARMUP)
        gc.collect()
        if options.by in ("part", "file", "line"):
            tracemalloc.start()
            before = tracemalloc.take_snapshot()
            await hold(process, sessions)
            await trio.sleep(options.settle)
            show_traces(tracemalloc.take_snapshot(), before, options)
        elif options.by == "type":
            numbers, sizes = objects()
            await hold(process, sessions)
            await trio.sleep(options.settle)
            numbers_after, sizes_after = objects()
            numbers_after.subtract(numbers)
            sizes_after.subtract(sizes)
            for name, size in sizes_after.most_common(options.rows):
                print(f"{size / sessions:8.0f} B {numbers_after[name] / sessions:7.2f}  {name}")
        else:
            start = reading()
            await hold(process, sessions)
            await trio.sleep(options.settle)
            end = reading()
            found = {f"{name}_kib": round((end[name] - start[name]) / sessions / 1024, 2) for name in end}
            print(json.dumps({"sessions": sessions, **found}))
        await hold(process, 0)


def show_traces(
    after: tracemalloc.Snapshot, before: tracemalloc.Snapshot, options: argparse.Namespace
) -> None:
    grown: Counter[str] = Counter()
    blocks: Counter[str] = Counter()
    for each in after.compare_to(before, "lineno" if options.by == "line" else "filename"):
        place = each.traceback[0]
        name = f"{place.filename}:{place.lineno}" if options.by == "line" else place.filename
        if options.by == "part":
            # An installed package and a checkout have different folders above it.
            short = name.replace("commucat_server/src/", "").replace("\\", "/")
            name = next(part for part, pattern in PARTS if re.search(pattern, short))
        grown[name] += each.size_diff
        blocks[name] += each.count_diff
    for name, size in grown.most_common(options.rows):
        print(f"{size / options.sessions:8.0f} B {blocks[name] / options.sessions:7.2f}  {name[-90:]}")
    print(f"{sum(grown.values()) / options.sessions / 1024:8.2f} KiB in all")


async def ended(connects: int) -> None:
    """Sessions that come and go while the collector is off, and what it finds then."""
    at_once = 4
    async with running_server() as server, connectors(server, 16, 1, STALL) as people:
        for cut in (False, True):
            await connect_all(people, WARMUP, at_once, cut=cut)
            await trio.sleep(1)
            gc.collect()
            gc.disable()
            await connect_all(people, connects, at_once, cut=cut)
            await trio.sleep(1)
            found = gc.collect()
            gc.enable()
            print(json.dumps({"cut": cut, "connects": connects, "objects_in_cycles": found / connects}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=1_000, help="that are compared with none")
    parser.add_argument("--settle", type=float, default=3.0, help="seconds before the second reading")
    parser.add_argument("--by", choices=["part", "file", "line", "type"])
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--ended", type=int, default=0, help="connects and disconnects instead")
    options = parser.parse_args()
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    if options.ended:
        trio.run(ended, options.ended)
    else:
        trio.run(idle, options)


if __name__ == "__main__":
    main()
