"""The program of a client process: ``python -m commucat_cli.chaos.worker``.

Started by the coordinator, which speaks to it over standard input and output.
"""

import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import attrs
import trio

from commucat_cli.chaos.device import Device
from commucat_cli.chaos.history import HistoryWriter
from commucat_cli.chaos.jobs import Job, Report, decode_line, encode_line
from commucat_cli.chaos.link import Target
from commucat_cli.chaos.plan import Plan, make_plan
from commucat_cli.errors import CliError
from commucat_cli.terminal import report_error

REPORT_INTERVAL = 0.02
"""Seconds between two reports; how exactly the server's faults are timed."""


class _Troupe:
    """The devices of one process."""

    def __init__(self, source: BinaryIO, target: BinaryIO) -> None:
        self._source = source
        self._target = target
        self._devices: list[Device] = []
        self._finished = 0
        self._sent = False

    async def run(self) -> None:
        job = decode_line(await self._line(), Job)
        plan = make_plan(
            seed=job.seed, devices=job.devices, messages=job.messages, kills=job.kills, domains=job.domains
        )
        targets = await _targets(plan, job)
        # Written at every report: what happened before this process was ended is not lost.
        with Path(job.history).open("wb") as file:  # noqa: ASYNC230 - a local file, written without waiting
            history = HistoryWriter(file)
            async with trio.open_nursery() as nursery:
                self._devices = [
                    Device(
                        plan.devices[index],
                        job.seed,
                        targets[plan.devices[index].domain],
                        history,
                        nursery,
                        self._count,
                    )
                    for index in job.mine
                ]
                await _all(device.register for device in self._devices)
                self._say()
                await self._line()
                nursery.start_soon(self._report, history)
                await _all(device.act for device in self._devices)
                self._sent = True
                await self._line()
                await _all(device.drain for device in self._devices)
                nursery.cancel_scope.cancel()
        self._say(done=True)

    def _count(self) -> None:
        self._finished += 1

    async def _report(self, history: HistoryWriter) -> None:
        while True:
            history.flush()
            self._say()
            await trio.sleep(REPORT_INTERVAL)

    def _say(self, *, done: bool = False) -> None:
        failures = (device.last_failure for device in self._devices)
        report = Report(
            finished=self._finished,
            reconnects=sum(device.reconnects for device in self._devices),
            sent=self._sent,
            done=done,
            failure=next((failure for failure in failures if failure is not None), None),
        )
        self._target.write(encode_line(report))
        self._target.flush()

    async def _line(self) -> bytes:
        # In a thread: sessions that are open stay alive meanwhile.
        line = await trio.to_thread.run_sync(self._source.readline, abandon_on_cancel=True)
        if not line:
            raise CliError("the run was given up")
        return line


async def _targets(plan: Plan, job: Job) -> list[Target]:
    """The servers of all domains, each with the names of everybody else's devices."""
    found = [await Target.find(servers, job.tls_ca) for servers in job.servers]
    addresses = {
        device.name: (device.domain, f"{device.name}@{found[device.domain].domain}")
        for device in plan.devices
    }
    return [
        attrs.evolve(
            target, afar={name: address for name, (domain, address) in addresses.items() if domain != index}
        )
        for index, target in enumerate(found)
    ]


async def _all(works: Iterable[Callable[[], Awaitable[None]]]) -> None:
    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(work)


def main(source: BinaryIO, target: BinaryIO) -> int:
    """Play one part; returns the exit status."""
    status = 0
    try:
        trio.run(_Troupe(source, target).run)
    except* CliError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        report_error(str(error))
        status = 1
    except* KeyboardInterrupt:
        status = 130
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.stdin.buffer, sys.stdout.buffer))
