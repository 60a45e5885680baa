"""What ``commucat-server`` does, from its options to its exit code."""

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import attrs
import structlog
import trio

from commucat_ledger import LedgerError
from commucat_server.app import RunningServer, serve
from commucat_server.config import ConfigError, FlagError, ServerConfig, load_config
from commucat_server.connect.relay import WorkerRelay
from commucat_server.listener import ListenerError, ShutdownSignal, activated_sockets
from commucat_server.ops.collector import settle_collector
from commucat_server.ops.logs import configure_logs
from commucat_server.ops.notify import READY, STOPPING, notify, reloading
from commucat_server.ops.reload import Reload, check_configuration
from commucat_server.provision import DataDir, ProvisionError, prepare_data_dir
from commucat_server.provision.open_files import allow_connections
from commucat_server.workers.inheritance import Inheritance, request_at_end_of_parent
from commucat_server.workers.supervisor import Supervisor, WorkerFailedError, worker_command
from commucat_storage import StorageError

log = structlog.get_logger("commucat")


@attrs.frozen(kw_only=True)
class Options:
    """The command line."""

    arguments: Sequence[str]
    """As it was given, for the workers' own command lines."""
    config: Path | None
    data_dir: Path | None
    bind: str | None
    workers: int | None
    worker: str | None
    """What a worker inherits; of its parent's making."""


def start(options: Options) -> int:
    """Run the server; returns the exit code: 0 after a drained stop, 1 on failure, 2 on wrong usage."""
    exit_code = 0
    cwd = Path.cwd()

    def load() -> ServerConfig:
        return load_config(
            config_path=options.config,
            data_dir=options.data_dir,
            bind=options.bind,
            environ=os.environ,
            cwd=cwd,
            workers=options.workers,
        )

    try:
        config = load()
        if config.server.workers > 1 and config.storage.postgres_dsn is None:
            by_flag = options.workers is not None
            name = "--workers" if by_flag else "server.workers"
            return _failed(
                f"several workers need PostgreSQL: set storage.postgres_dsn, or leave {name} out",
                code=2 if by_flag else 1,
            )
        configure_logs(config.logging.level)
        inherited = None
        if options.worker is not None:
            inherited = _inherited(options.worker)
            config = config.of_worker(inherited.worker)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # A terminal sends it to all; it is the parent's.
            structlog.contextvars.bind_contextvars(worker=inherited.worker)
        with prepare_data_dir(
            config, inherited_lock=None if inherited is None else inherited.lock
        ) as data_dir:
            if inherited is None:
                _announce(config, data_dir)
            sockets = activated_sockets(os.environ) if inherited is None else inherited.open_sockets()
            if inherited is None and config.server.workers > 1:
                command = worker_command(options.arguments)
                trio.run(
                    Supervisor(config, data_dir, command, lambda: check_configuration(load()), sockets).run
                )
            else:
                trio.run(_run, config, data_dir, inherited, sockets, load)
    except* WorkerFailedError as group:
        failed = _first(group)
        assert isinstance(failed, WorkerFailedError)
        exit_code = failed.code if failed.code in (1, 2) else 1
    except* FlagError as group:
        exit_code = _failed(str(_first(group)), code=2)
    except* (ConfigError, ProvisionError, StorageError, LedgerError, ListenerError) as group:
        exit_code = _failed(str(_first(group)))
    except* OSError as group:
        exit_code = _failed(_explain(_first(group), options.bind))
    except* KeyboardInterrupt:
        exit_code = 130  # a second Ctrl-C, while draining
    return exit_code


def _inherited(argument: str) -> Inheritance:
    try:
        return Inheritance.from_argument(argument)
    except ValueError:
        raise FlagError("--worker is given by a server to its own processes only") from None


def _announce(config: ServerConfig, data_dir: DataDir) -> None:
    for line in config.summary():
        log.info("configuration", line=line)
    shortage = allow_connections(config.server.max_connections)
    for warning in (*config.warnings, *data_dir.warnings, *([shortage] if shortage else [])):
        log.warning(warning)


async def _run(
    config: ServerConfig,
    data_dir: DataDir,
    inherited: Inheritance | None,
    sockets: Sequence[socket.socket],
    load: Callable[[], ServerConfig],
) -> None:
    shutdown = ShutdownSignal()
    with ExitStack() as stack:
        hangups = None
        if inherited is None:
            # Before anything that takes time: without a receiver the signal would end the process.
            hangups = stack.enter_context(trio.open_signal_receiver(signal.SIGHUP))
        await _run_until(shutdown, config, data_dir, inherited, sockets, load, hangups)


async def _run_until(
    shutdown: ShutdownSignal,
    config: ServerConfig,
    data_dir: DataDir,
    inherited: Inheritance | None,
    sockets: Sequence[socket.socket],
    load: Callable[[], ServerConfig],
    hangups: AsyncIterator[int] | None,
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(_request_at_signal, shutdown)
        relay = datagrams = None
        if inherited is not None:
            relay = (WorkerRelay(inherited.folder, inherited.worker), inherited.open_relay())
            datagrams = inherited.open_datagrams()
            nursery.start_soon(request_at_end_of_parent, shutdown)

        async def served(*, task_status: trio.TaskStatus[RunningServer]) -> None:
            await serve(
                config,
                data_dir,
                shutdown,
                sockets=sockets,
                relay=relay,
                datagrams=datagrams,
                task_status=task_status,
            )
            nursery.cancel_scope.cancel()  # nobody waits for signals any more

        running: RunningServer = await nursery.start(served)
        settle_collector()
        # The one line on stdout that scripts wait for.
        print(f"listening on {running.url}", flush=True)
        log.info("commucat listening", address=running.url, certificate=str(data_dir.tls_certificate))
        if hangups is not None:
            notify(READY)
            nursery.start_soon(_reload_at_signal, hangups, running.reload, load)


async def _reload_at_signal(
    hangups: AsyncIterator[int], reload: Reload, load: Callable[[], ServerConfig]
) -> None:
    """At SIGHUP the configuration is read again; one with a mistake changes nothing."""
    async for number in hangups:
        log.info("signal", number=signal.Signals(number).name)
        notify(reloading())
        try:
            reload(load())
        except (ConfigError, ProvisionError, ListenerError, OSError) as exc:
            log.error("configuration not reloaded, the old one stays", reason=str(exc))
        notify(READY)


async def _request_at_signal(
    shutdown: ShutdownSignal, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """The first SIGTERM or SIGINT drains; the second one ends at once, as without a handler."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            log.info("signal", number=signal.Signals(number).name)
            notify(STOPPING)
            shutdown.request()
            return


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _explain(error: BaseException, bind: str | None) -> str:
    address = f" {bind}" if bind else ""
    return f"cannot listen on{address}: {error}; choose another address with --bind HOST:PORT"


def _failed(text: str, *, code: int = 1) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code
