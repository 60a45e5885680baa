"""The parent of several workers: opens the address, starts them, and keeps them running.

The listening sockets are opened once and inherited, rather than opened by each with SO_REUSEPORT: there
is one queue of connections that wait, so a worker that dies or drains loses none of them, one that is
busy takes fewer, and port 0 and privileged ports need nothing special.
"""

import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import attrs
import structlog
import trio

from commucat_server.config import ConfigError, ServerConfig
from commucat_server.connect.relay import WorkerRelay
from commucat_server.listener import ListenerError, open_tcp
from commucat_server.nat.udp import open_stun
from commucat_server.ops.notify import READY, STOPPING, notify, reloading
from commucat_server.provision import DataDir, ProvisionError
from commucat_server.workers.inheritance import Inheritance

log = structlog.get_logger("commucat.workers")

FIRST_DELAY = 0.2
LONGEST_DELAY = 10.0
"""Seconds before a worker that died is started again; doubled for one that dies soon after."""
HEALTHY_AFTER = 30.0
"""Seconds after which a worker has proved itself: its next death is a first one again."""
PATIENCE = 15.0
"""Seconds beyond the configured drain that a worker has to end before it is killed."""
_LONGEST_LINE = 4096


class WorkerFailedError(Exception):
    """A worker ended before it was ready, at the start of all; it has said why on stderr."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a worker ended with {code} before it was ready")
        self.code = code


@attrs.define(eq=False)
class _Worker:
    number: int
    relay: socket.socket | None = None
    process: trio.Process | None = None
    ready: trio.Event = attrs.Factory(trio.Event)
    renewing: bool = False
    """It was asked to end, to be started again at once."""


class Supervisor:
    """Runs ``config.server.workers`` processes of ``command`` until SIGTERM or SIGINT.

    SIGHUP renews the workers one after another: each drains, and is started again with what the
    configuration, the certificate and the program are by then. Before that ``check`` is called: if it
    raises, all workers stay. One that comes meanwhile renews all of them once more.
    """

    def __init__(
        self,
        config: ServerConfig,
        data_dir: DataDir,
        command: Sequence[str],
        check: Callable[[], None] | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        """``sockets`` listen already; without them the configured address is opened."""
        self._check = check
        self._given = sockets
        self._config = config
        self._data_dir = data_dir
        self._command = tuple(command)
        self._sockets: tuple[int, ...] = ()
        self._workers = [_Worker(number) for number in range(1, config.server.workers + 1)]
        self._folder = Path()
        self._datagrams: socket.socket | None = None
        self._stop = trio.Event()
        self._renewal_wanted = False

    async def run(self) -> None:
        """Returns when all workers have drained.

        Raises:
            WorkerFailedError: the first ones cannot even start.
            OSError: the address cannot be bound.
            StunBindError: that of the STUN responder cannot.
        """
        bind = self._config.server.bind
        listeners = await open_tcp(bind.host, bind.port, given=self._given)
        with ExitStack() as stack:
            for listener in listeners:
                stack.callback(listener.socket.close)
            self._sockets = tuple(listener.socket.fileno() for listener in listeners)
            # Short, as addresses of local sockets must be, and closed to others.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="commucat-")))
            for worker in self._workers:
                worker.relay = stack.enter_context(
                    _local_socket(WorkerRelay.socket_of(folder, worker.number))
                )
            self._folder = folder
            if self._config.ice.lite_enabled:
                # Shared, as the listening sockets are: whoever is free takes the next datagram.
                self._datagrams = stack.enter_context(open_stun(self._config.ice.lite_bind))
            async with trio.open_nursery() as nursery:
                signals = await nursery.start(self._obey)
                async with trio.open_nursery() as keepers:
                    # One first: what keeps one from starting keeps all, and is told once.
                    for worker in self._workers:
                        await keepers.start(self._keep, worker)
                    if not self._stop.is_set():
                        self._announce(*listeners[0].socket.getsockname()[:2])
                signals.cancel()

    def _announce(self, host: str, port: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        # The one line on stdout that scripts wait for.
        print(f"listening on https://{shown}:{port}", flush=True)
        log.info("commucat listening", port=port, workers=len(self._workers))
        notify(READY)

    # -- signals --------------------------------------------------------------------------------------

    async def _obey(
        self, *, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED
    ) -> None:
        obeyed = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        with trio.CancelScope() as scope, trio.open_signal_receiver(*obeyed) as signals:
            task_status.started(scope)
            async with trio.open_nursery() as renewals:
                async for number in signals:
                    log.info("signal", number=signal.Signals(number).name)
                    if number == signal.SIGHUP:
                        self._renewal_wanted = True
                        if not (self._stop.is_set() or renewals.child_tasks):
                            renewals.start_soon(self._renew)
                        continue
                    notify(STOPPING)
                    self._stop.set()
                    renewals.cancel_scope.cancel()
                    self._end_all()

    def _end_all(self) -> None:
        for worker in self._workers:
            if worker.process is not None:
                worker.process.terminate()

    def _may_renew(self) -> bool:
        """Whether workers that are started now will find a configuration with which they can start."""
        try:
            if self._check is not None:
                self._check()
        except (ConfigError, ProvisionError, ListenerError, OSError) as exc:
            log.error("configuration not reloaded, the old one stays", reason=str(exc))
            return False
        return True

    async def _renew(self) -> None:
        # What has changed meanwhile is for the workers, too, that were renewed before it did.
        while self._renewal_wanted:
            self._renewal_wanted = False
            if self._may_renew():
                notify(reloading())
                await self._renew_each()
                notify(READY)

    async def _renew_each(self) -> None:
        for worker in self._workers:
            process = worker.process
            if process is None:
                continue  # It waits to be started anyway.
            worker.renewing = True
            worker.ready = trio.Event()
            process.terminate()
            with trio.move_on_after(self._config.timeouts.drain + PATIENCE):
                await worker.ready.wait()
                continue
            log.error("a worker does not end and is killed", pid=process.pid)
            process.kill()
            await worker.ready.wait()

    # -- workers --------------------------------------------------------------------------------------

    async def _keep(
        self, worker: _Worker, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Start the worker again and again; ``started`` when it is ready for the first time."""
        delay = FIRST_DELAY
        up = False
        while not self._stop.is_set():
            began = trio.current_time()
            code, ready = await self._run_one(worker, trio.TASK_STATUS_IGNORED if up else task_status)
            up = up or ready
            if self._stop.is_set():
                break
            if not up:
                self._stop.set()
                self._end_all()
                raise WorkerFailedError(code)
            if worker.renewing:
                worker.renewing = False
                continue
            if trio.current_time() - began > HEALTHY_AFTER:
                delay = FIRST_DELAY
            log.error("a worker has died", worker=worker.number, code=code, again_after=delay)
            with trio.move_on_after(delay):
                await self._stop.wait()
            delay = min(2 * delay, LONGEST_DELAY)
        if not up:
            task_status.started()  # told to end before it was up

    async def _run_one(self, worker: _Worker, task_status: trio.TaskStatus[None]) -> tuple[int, bool]:
        """The exit code of one process, and whether it was ready before."""
        assert worker.relay is not None
        inheritance = Inheritance(
            worker=worker.number,
            lock=self._data_dir.lock_handle,
            sockets=self._sockets,
            relay=worker.relay.fileno(),
            datagrams=-1 if self._datagrams is None else self._datagrams.fileno(),
            folder=self._folder,
        )
        process = await trio.lowlevel.open_process(
            [*self._command, "--worker", inheritance.to_argument()],
            # It ends with this process: then the worker ends too.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=inheritance.descriptors,
        )
        worker.process = process
        if self._stop.is_set():
            process.terminate()  # It was started while the others were told to end.
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._kill_late, process)
                ready = await _is_ready(process)
                if ready:
                    log.info("worker ready", worker=worker.number, pid=process.pid)
                    worker.ready.set()
                    task_status.started()
                code = await process.wait()
                nursery.cancel_scope.cancel()
            return code, ready
        finally:
            worker.process = None
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with trio.CancelScope(shield=True):
                        await trio.aclose_forcefully(pipe)

    async def _kill_late(self, process: trio.Process) -> None:
        """When it was told to end and does not, also at its start, it is killed."""
        await self._stop.wait()
        await trio.sleep(self._config.timeouts.drain + PATIENCE)
        log.error("a worker does not end and is killed", pid=process.pid)
        process.kill()


async def _is_ready(process: trio.Process) -> bool:
    """Wait for its line; False if it ends without."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
        data = await process.stdout.receive_some(1024)
        if not data:
            return False
        line += data
    return line.startswith(b"listening on ")


def _local_socket(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen(128)
    return listening


def worker_command(arguments: Sequence[str]) -> list[str]:
    """How a worker is started: as its parent was."""
    return [sys.executable, "-m", "commucat_server.main", *arguments]
