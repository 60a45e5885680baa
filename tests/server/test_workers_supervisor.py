"""The parent of workers that do not behave: it ends all the same, and signals each once."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from commucat_server.config import ConfigError
from commucat_server.provision import prepare_data_dir
from commucat_server.workers import supervisor
from commucat_server.workers.supervisor import Supervisor
from server.config_builders import load_text

# Tells that it runs, and never that it is ready; it is deaf to SIGTERM, as one that hangs at its start.
DEAF = """import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({fifo!r}, "w").close()
sys.stdin.read()
"""
# Told to end at its start, it becomes ready all the same and then ends, as one that drains.
LATE = """import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
open({fifo!r}, "w").close()
signal.sigwait([signal.SIGTERM])
print("listening on https://localhost:1", flush=True)
"""


async def stop_at_its_start(folder: Path, program: str) -> None:
    """Run a supervisor of ``program``, and end it as soon as the first worker runs."""
    fifo = folder / "runs"
    os.mkfifo(fifo)
    config = load_text(
        folder, '[server]\nworkers = 2\nbind = "127.0.0.1:0"\n[timeouts]\ndrain = 0.1\n', data_dir=folder
    )
    command = (sys.executable, "-c", program.format(fifo=str(fifo)))
    with prepare_data_dir(config) as data_dir, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Supervisor(config, data_dir, command).run)
            await trio.to_thread.run_sync(fifo.read_bytes, abandon_on_cancel=True)
            os.kill(os.getpid(), signal.SIGTERM)


async def test_a_worker_that_hangs_at_its_start_does_not_keep_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PATIENCE", 0.0)
    await stop_at_its_start(tmp_path, DEAF)


async def test_a_worker_that_is_ready_only_then_is_told_to_end_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second signal would end it at once, with its sessions and without its leave."""
    told: list[int] = []
    terminate = trio.Process.terminate

    def count(process: trio.Process) -> None:
        told.append(process.pid)
        terminate(process)

    monkeypatch.setattr(trio.Process, "terminate", count)
    await stop_at_its_start(tmp_path, LATE)
    assert len(told) == 1


# Ready at once; it ends when it is told to.
READY = """import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("listening on https://localhost:1", flush=True)
signal.sigwait([signal.SIGTERM])
"""


@asynccontextmanager
async def two_workers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[], None] | None = None
) -> AsyncIterator[None]:
    """A supervisor of two that are ready; the end of the block must have told it to end."""
    config = load_text(
        folder, '[server]\nworkers = 2\nbind = "127.0.0.1:0"\n[timeouts]\ndrain = 0.1\n', data_dir=folder
    )
    ready = trio.Event()
    monkeypatch.setattr(Supervisor, "_announce", lambda *_: ready.set())
    with prepare_data_dir(config) as data_dir, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Supervisor(config, data_dir, (sys.executable, "-c", READY), check).run)
            await ready.wait()
            yield


async def test_a_signal_that_comes_while_workers_are_renewed_renews_all_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    terminate = trio.Process.terminate
    twice = trio.Event()

    def count(process: trio.Process) -> None:
        told.append(process.pid)
        terminate(process)
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGHUP)
        if len(told) == 4:
            twice.set()

    monkeypatch.setattr(trio.Process, "terminate", count)
    async with two_workers(tmp_path, monkeypatch):
        os.kill(os.getpid(), signal.SIGHUP)
        await twice.wait()
        os.kill(os.getpid(), signal.SIGTERM)
    assert len(set(told[:4])) == 4


async def test_a_configuration_with_a_mistake_renews_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    terminate = trio.Process.terminate
    checked, renewed = trio.Event(), trio.Event()
    mistakes = ["there is a mistake"]

    def check() -> None:
        if mistakes:
            checked.set()
            raise ConfigError(mistakes.pop())

    def count(process: trio.Process) -> None:
        told.append(process.pid)
        renewed.set()
        terminate(process)

    monkeypatch.setattr(trio.Process, "terminate", count)
    async with two_workers(tmp_path, monkeypatch, check):
        with capture_logs() as lines:
            os.kill(os.getpid(), signal.SIGHUP)
            await checked.wait()
            await trio.testing.wait_all_tasks_blocked()
        assert told == []
        os.kill(os.getpid(), signal.SIGHUP)
        await renewed.wait()
        os.kill(os.getpid(), signal.SIGTERM)
    [refused] = [line for line in lines if line["log_level"] == "error"]
    assert refused["event"] == "configuration not reloaded, the old one stays"
    assert refused["reason"] == "there is a mistake"
