"""Devices that come and go, or come and stay. Several connect at once, each in a thread of its own:
a handshake waits for the server most of the time.
"""

import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from commucat_cli.bench.clients.devices import Watch, find_server, new_device, undisturbed
from commucat_cli.bench.jobs import ConnectorJob, ConnectorReport, ConnectTask, HoldReport, HoldTask, Ready
from commucat_cli.bench.load_session import LoadLostError, LoadSession
from commucat_cli.errors import CliError
from commucat_proto import ClientParameters

REGISTERING = 8
"""Threads that bring new devices."""


class Connector:
    """The devices of one process."""

    def __init__(self, job: ConnectorJob) -> None:
        """Make the devices and register them: each connects once.

        Raises:
            CliError: the load cannot begin.
        """
        self._target = find_server(job.server)
        self._devices = [
            new_device(self._target, f"bench-visitor-{secrets.token_hex(8)}") for _ in range(job.devices)
        ]
        self._held: list[LoadSession] = []
        self._stall = job.server.stall
        with ThreadPoolExecutor(min(REGISTERING, job.devices)) as pool:
            list(pool.map(self._register, self._devices))

    def _register(self, device: ClientParameters) -> None:
        LoadSession.open(self._target, device).close()

    def ready(self) -> Ready:
        return Ready()

    def prepare(self, task: ConnectTask | HoldTask) -> Callable[[], ConnectorReport | HoldReport]:
        """The result connects."""
        if isinstance(task, HoldTask):
            return lambda: self._hold(task)
        return lambda: self._connect(task)

    def close(self) -> None:
        for session in self._held:
            session.close(orderly=False)

    # -- come and go --------------------------------------------------------------------------------

    def _connect(self, task: ConnectTask) -> ConnectorReport:
        watch = Watch(self._stall)
        with undisturbed(), ThreadPoolExecutor(task.at_once) as pool:
            rounds = list(pool.map(lambda index: self._visit(task, index), range(task.at_once)))
            watch.progress()
        problems = [problem for one in rounds for problem in one.problems]
        watch.problem = problems[0] if problems else None
        durations = [seconds for one in rounds for seconds in one.durations]
        return ConnectorReport(effort=watch.effort(), failed=len(problems), durations=durations)

    def _visit(self, task: ConnectTask, index: int) -> "_Visits":
        """The share of one thread: every ``at_once``-th connect, by devices that no other thread uses."""
        visits = _Visits()
        devices = self._devices[index :: task.at_once]
        for turn, _ in enumerate(range(index, task.count, task.at_once)):
            began = time.monotonic()
            try:
                session = LoadSession.open(self._target, devices[turn % len(devices)])
            except CliError as exc:
                visits.problems.append(f"a device cannot connect: {exc}")
                continue
            visits.durations.append(time.monotonic() - began)
            session.close(orderly=not (task.cut and turn % 2))
        return visits

    # -- come and stay ------------------------------------------------------------------------------

    def _hold(self, task: HoldTask) -> HoldReport:
        watch = Watch(self._stall)
        new = self._devices[len(self._held) :][: task.count]
        if new:
            with ThreadPoolExecutor(REGISTERING) as pool:
                try:
                    self._held += pool.map(lambda device: LoadSession.open(self._target, device), new)
                except CliError as exc:
                    watch.problem = f"a device cannot connect: {exc}"
        alive = sum(_is_alive(session) for session in self._held)
        watch.progress()
        return HoldReport(effort=watch.effort(), alive=alive)


class _Visits:
    """What one thread did."""

    def __init__(self) -> None:
        self.durations: list[float] = []
        self.problems: list[str] = []


def _is_alive(session: LoadSession) -> bool:
    try:
        session.receive()
    except LoadLostError:
        return False
    return True
