"""Where the server's time goes for each message or connect: CPU by thread, context switches, Python calls.

    .venv/bin/python benchmarks/budget.py relay --count 1000 --window 1
    .venv/bin/python benchmarks/budget.py fanout --count 30 --members 300
    .venv/bin/python benchmarks/budget.py connect --count 300 --window 4
    .venv/bin/python benchmarks/budget.py relay --rate 2000 --count 6000
    .venv/bin/python benchmarks/budget.py relay --count 1000 --against ../other-checkout --rounds 3
    .venv/bin/python benchmarks/budget.py relay --count 1000 --calls 40

With ``--against`` the servers of two checkouts run in turn under the same client, and the last line gives the
ratios; that is the only comparison that means anything on a machine with other work. ``--calls`` runs the
server under cProfile and prints its most expensive functions for each operation; counts of calls do not
depend on the load of the machine. Linux only: it reads /proc.
"""

import argparse
import gc
import json
import os
import pstats
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import trio

from commucat_cli.chaos.link import Target
from commucat_cli.client import Answer, Connection, connect
from commucat_crypto import DeviceKeyPair, StaticKeyPair
from commucat_proto import DELIVERY_ACK, SEND_ONLY, ClientParameters, FrameType, UserHint

CHANNEL = 7

HERE = Path(__file__).resolve().parent.parent
CONFIGURATION = """
[server]
bind = "127.0.0.1:0"
auto_approve_devices = true
[logging]
level = "warning"
[security.rate_limit]
http_burst = 1000000
[limits]
connects_per_second = 100000
new_devices_per_hour = 1000000
"""

# -- the server's side of a run --------------------------------------------------------------------


def usage(pid: int) -> dict[str, float]:
    """CPU of the event loop and of all other threads in microseconds; context switches so far."""
    used = {"loop_us": 0.0, "threads_us": 0.0, "switches": 0.0}
    for task in Path(f"/proc/{pid}/task").iterdir():
        nanoseconds = int((task / "schedstat").read_text().split()[0])
        used["loop_us" if task.name == str(pid) else "threads_us"] += nanoseconds / 1000
        for line in (task / "status").read_text().splitlines():
            if line.startswith(("voluntary_ctxt", "nonvoluntary_ctxt")):
                used["switches"] += int(line.split()[1])
    return used


@contextmanager
def server(tree: Path, profile: Path | None) -> Iterator[tuple[int, str, str]]:
    """A fresh server of a checkout, by its pid, address and certificate."""
    sources = ":".join(str(path) for path in sorted(tree.glob("commucat_*/src")))
    with tempfile.TemporaryDirectory(prefix="commucat-budget-") as name:
        folder = Path(name)
        (folder / "c.toml").write_text(CONFIGURATION)
        command = [sys.executable, *(["-m", "cProfile", "-o", str(profile)] if profile else [])]
        command += ["-m", "commucat_server.main", "--config", str(folder / "c.toml")]
        command += ["--data-dir", str(folder / "data")]
        environment = {**os.environ, "PYTHONPATH": sources}
        with subprocess.Popen(  # noqa: S603
            command, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                if not line.startswith("listening on "):
                    raise SystemExit(f"the server of {tree} does not start")
                yield process.pid, line.split()[-1], str(folder / "data" / "tls" / "cert.pem")
            finally:
                process.terminate()
                process.wait(60)


def run(tree: Path, options: argparse.Namespace, profile: Path | None = None) -> dict[str, float]:
    with server(tree, profile) as (pid, url, certificate):
        load = Load(url, certificate, options)
        before: dict[str, float] = {}

        def begin() -> None:
            gc.collect()
            gc.freeze()
            before.update(usage(pid))

        operations, latencies = trio.run(load.run, begin)
        after = usage(pid)
    result = {name: (after[name] - before[name]) / operations for name in after}
    for name, values in latencies.items():
        ordered = sorted(values)
        result[f"{name}_p50_ms"] = 1000 * ordered[len(ordered) // 2]
        result[f"{name}_p99_ms"] = 1000 * ordered[len(ordered) * 99 // 100]
    return result


# -- the client's side -----------------------------------------------------------------------------


def new_device(target: Target, name: str, capability: str) -> ClientParameters:
    """A user with one device."""
    return ClientParameters(
        domain=target.domain,
        server_static=target.noise_public,
        device_id=name,
        device_keys=DeviceKeyPair.generate(),
        static=StaticKeyPair.generate(),
        user=UserHint(handle=name),
        capabilities=(capability,),
    )


def session(target: Target, device: ClientParameters) -> AbstractAsyncContextManager[Connection]:
    return connect(target.addresses[0], target.trust, device)


class Load:
    """All clients of a run, in this process; its own CPU does not count."""

    def __init__(self, url: str, certificate: str, options: argparse.Namespace) -> None:
        self._url, self._certificate, self._options = url, certificate, options
        self._lot = trio.lowlevel.ParkingLot()
        self._due: list[float] = []
        self._on_the_way = 0
        self._answered: list[float] = []
        self._delivered: list[float] = []
        self._missing: list[int] = []

    async def run(self, begin: Any) -> tuple[int, dict[str, list[float]]]:
        """Operations done, and how long they took by name, in seconds."""
        target = await Target.find((self._url,), self._certificate)
        if self._options.scenario == "connect":
            return await self._connect(target, begin)
        return await self._send(target, begin)

    async def _connect(self, target: Target, begin: Any) -> tuple[int, dict[str, list[float]]]:
        run = secrets.token_hex(4)
        devices = [new_device(target, f"c{run}{i}", DELIVERY_ACK) for i in range(self._options.count)]
        left = iter(devices)
        took: list[float] = []

        async def work() -> None:
            for device in left:
                started = time.monotonic()
                async with session(target, device):
                    took.append(time.monotonic() - started)

        begin()
        async with trio.open_nursery() as nursery:
            for _ in range(self._options.window):
                nursery.start_soon(work)
        return len(devices), {"connect": took}

    async def _send(self, target: Target, begin: Any) -> tuple[int, dict[str, list[float]]]:
        options, run = self._options, secrets.token_hex(4)
        members = options.members if options.scenario == "fanout" else 1
        self._missing = [members] * options.count
        names = [f"r{run}{index}" for index in range(members)]
        async with AsyncExitStack() as stack:
            receivers = []
            for name in names:
                device = new_device(target, name, DELIVERY_ACK)
                receivers.append(await stack.enter_async_context(session(target, device)))
                await receivers[-1].join(CHANNEL, [f"s{run}"])
            device = new_device(target, f"s{run}", SEND_ONLY)
            sender = await stack.enter_async_context(session(target, device))
            joined = await sender.join(CHANNEL, names)
            if joined.error is not None:
                raise SystemExit(joined.text)
            begin()
            async with trio.open_nursery() as nursery:
                for receiver in receivers:
                    nursery.start_soon(self._receive, receiver)
                await self._send_all(sender)
                nursery.cancel_scope.cancel()
        return options.count * members, {"ack": self._answered, "last_delivery": self._delivered}

    async def _send_all(self, sender: Connection) -> None:
        count, started = self._options.count, time.monotonic()
        payload = secrets.token_bytes(self._options.size - 8)
        for number in range(count):
            await self._turn(number, started)
            self._on_the_way += 1
            sender.send_frame(FrameType.MSG, CHANNEL, number.to_bytes(8, "big") + payload, self._answer)
        while len(self._answered) < count or len(self._delivered) < count:
            await self._lot.park()

    async def _turn(self, number: int, started: float) -> None:
        """Wait until the message may be sent, and note since when its time counts."""
        if self._options.rate:
            at = started + number / self._options.rate
            await trio.sleep(max(0.0, at - time.monotonic()))
            self._due.append(at)
            return
        while max(self._on_the_way, number - len(self._delivered)) >= self._options.window:
            await self._lot.park()
        self._due.append(time.monotonic())

    def _answer(self, answer: Answer) -> None:
        if answer.error is not None or answer.refused:
            raise SystemExit(f"refused: {answer.text}")
        # Answers come in the order of the messages.
        self._answered.append(time.monotonic() - self._due[len(self._answered)])
        self._on_the_way -= 1
        self._lot.unpark_all()

    async def _receive(self, connection: Connection) -> None:
        while True:
            frames = await connection.deliveries()
            now = time.monotonic()
            for frame in frames:
                if frame.type is FrameType.MSG:
                    number = int.from_bytes(frame.payload[:8], "big")
                    self._missing[number] -= 1
                    if not self._missing[number]:
                        self._delivered.append(now - self._due[number])
            connection.confirm(frames[-1].sequence)
            self._lot.unpark_all()


# -- reports ---------------------------------------------------------------------------------------


def compare(trees: list[Path], options: argparse.Namespace) -> None:
    results: dict[Path, list[dict[str, float]]] = {tree: [] for tree in trees}
    for number in range(options.rounds):
        for tree in trees if number % 2 == 0 else trees[::-1]:
            results[tree].append(run(tree, options))
    medians = [
        {name: statistics.median(each[name] for each in results[tree]) for name in results[tree][0]}
        for tree in trees
    ]
    for tree, found in zip(trees, medians, strict=True):
        print(json.dumps({"tree": tree.name, **{name: round(value, 3) for name, value in found.items()}}))
    if len(medians) == 2:
        ours, theirs = medians
        print(json.dumps({"ratio": {name: round(ours[name] / theirs[name], 2) for name in ours}}))


def calls(options: argparse.Namespace) -> None:
    """What a run adds to one of a tenth of its size, so that start and end of the server drop out."""
    counts = (options.count // 10, options.count)
    members = options.members if options.scenario == "fanout" else 1
    found: list[Any] = []
    with tempfile.TemporaryDirectory() as name:
        for count in counts:
            profile = Path(name) / str(count)
            run(HERE, argparse.Namespace(**{**vars(options), "count": count}), profile)
            # Any: pstats does not declare what its tables hold.
            found.append(pstats.Stats(str(profile)).stats)  # type: ignore[attr-defined]
    operations = (counts[1] - counts[0]) * members
    rows = []
    for function, (_, number, own, _, _) in found[1].items():
        fewer = found[0].get(function, (0, 0, 0.0, 0.0, {}))
        rows.append(((own - fewer[2]) / operations * 1e6, (number - fewer[1]) / operations, function))
    print(f"{sum(row[1] for row in rows):.0f} calls for each operation")
    for own_us, number, (file, line, function) in sorted(rows, reverse=True)[: options.calls]:
        print(f"{own_us:8.1f} us {number:8.2f} calls  {'/'.join(file.split('/')[-2:])}:{line} {function}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scenario", choices=["relay", "fanout", "connect"])
    parser.add_argument("--count", type=int, default=1_000, help="messages or connects")
    parser.add_argument("--window", type=int, default=1, help="how many at a time")
    parser.add_argument("--rate", type=float, default=0, help="messages per second, whatever the server does")
    parser.add_argument("--size", type=int, default=256, help="bytes of a payload")
    parser.add_argument("--members", type=int, default=100, help="receivers of each message of fanout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--calls", type=int, default=0, help="so many functions of a profile")
    options = parser.parse_args()
    if options.calls:
        calls(options)
    else:
        compare([HERE, *([options.against.resolve()] if options.against else [])], options)


if __name__ == "__main__":
    main()
