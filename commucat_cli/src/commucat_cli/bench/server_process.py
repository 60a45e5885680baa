"""The server under load: an own one with the limits a benchmark needs, or somebody else's."""

import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import trio

from commucat_cli.bench.child import Child, ChildError, guarded, running
from commucat_cli.bench.domains import Domain
from commucat_storage import StorageError

START_TIMEOUT = 30.0


@attrs.frozen(kw_only=True)
class Store:
    """Where an own server keeps its data, and how many processes it is."""

    dsn: str | None = attrs.field(default=None, repr=False)
    """A PostgreSQL server whose role may create databases: each run has a fresh one. None: a file."""
    workers: int = 1

    @property
    def profile(self) -> str:
        return "embedded" if self.dsn is None else "postgres"


@attrs.frozen(kw_only=True)
class Place:
    """Of a server that others have to find."""

    domain: Domain
    port: int
    section: Sequence[str]
    """``[federation]`` of its configuration."""


class ServerUnderLoad:
    """Where it is, and how to look at it."""

    def __init__(self, folder: Path, url: str = "", tls_ca: Path | None = None) -> None:
        self.folder = folder
        """For files of the run; deleted afterwards."""
        self.url = url
        self.tls_ca = tls_ca
        self.domain: str | None = None
        """Its domain, where that matters."""

    def cpu_seconds(self) -> float | None:
        """User and system time of all its threads; None for a server of somebody else."""
        return None

    def rss_kib(self) -> int | None:
        """Resident memory."""
        return None

    async def kill_and_restart(self) -> float:
        """SIGKILL, then a new process on what is on the disk; returns the seconds until it listens.

        Raises:
            ChildError: it is not ours, or does not come back.
        """
        raise ChildError("a server of somebody else is not killed")


class OwnServer(ServerUnderLoad):
    """A fresh ``commucat-server`` on a free port with data of its own."""

    def __init__(
        self, folder: Path, limits: Mapping[str, int], store: Store, place: Place | None = None
    ) -> None:
        super().__init__(folder, tls_ca=folder / "data" / "tls" / "cert.pem")
        if place is not None:
            self.domain = place.domain.name
        self._stack = AsyncExitStack()
        self._child: Child | None = None
        self._lives = 0
        self._config = folder / "commucat.toml"
        self._config.write_text(configuration(limits, store, place), "utf-8")

    @property
    def _pids(self) -> list[int]:
        """Of the server, and of its workers if there are several."""
        assert self._child is not None
        pid = self._child.pid
        # Of all its threads: each starts processes of its own.
        lists = Path(f"/proc/{pid}/task").glob("*/children")
        return [pid, *(int(each) for path in lists for each in path.read_text("utf-8").split())]

    def cpu_seconds(self) -> float:
        # The kernel's number for "CPU time of process PID" (clock_getcpuclockid(3)). In nanoseconds, and
        # with the threads that have ended; /proc/PID/stat has steps of 10 ms.
        try:
            return sum(time.clock_gettime((~pid << 3) | 2) for pid in self._pids)
        except OSError as exc:
            raise self._gone() from exc

    def rss_kib(self) -> int:
        # Exact; the counter in /proc/PID/status lags behind by up to 64 pages per thread.
        try:
            return sum(map(_rss_kib, self._pids))
        except OSError as exc:
            raise self._gone() from exc

    def _gone(self) -> ChildError:
        assert self._child is not None
        return self._child.failure()

    async def start(self) -> None:
        """Start, and wait until it listens.

        Raises:
            ChildError: it does not start; the text says why.
        """
        self._lives += 1
        arguments = ["--config", str(self._config), "--data-dir", str(self.folder / "data")]
        name = "server" if self._lives == 1 else f"server-{self._lives}"
        self._child = await self._stack.enter_async_context(
            running(
                name,
                "commucat_server.main",
                arguments,
                folder=self.folder,
                environment=clean_environment(),
            )
        )
        await self._stack.enter_async_context(guarded(self._child))
        with trio.move_on_after(START_TIMEOUT) as patience:
            line = (await self._child.read_line()).decode("utf-8", "replace")
        if patience.cancelled_caught or not line.startswith("listening on "):
            raise ChildError(f"the server does not listen within {START_TIMEOUT:g} s")
        self.url = line.removeprefix("listening on ")

    async def kill_and_restart(self) -> float:
        began = time.monotonic()
        await self.kill()
        await self.start()
        return time.monotonic() - began

    async def kill(self) -> None:
        """SIGKILL; :meth:`start` makes a new process on what is on the disk."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
        await self._stack.aclose()

    async def end(self) -> None:
        """SIGTERM, and wait."""
        await self._stack.aclose()


def _rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8", "replace").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def clean_environment() -> dict[str, str]:
    """This process's environment without what would configure a server."""
    found = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COMMUCAT_") and name != "RUST_LOG"
    }
    if "PYTHONPATH" in found:
        # They work in a folder of their own, and would run another installation than this one.
        parts = found["PYTHONPATH"].split(os.pathsep)
        found["PYTHONPATH"] = os.pathsep.join(os.path.abspath(part) for part in parts)
    return found


@asynccontextmanager
async def server_for(
    url: str | None, tls_ca: Path | None, limits: Mapping[str, int], store: Store
) -> AsyncIterator[ServerUnderLoad]:
    """The server at ``url``, or an own one with ``limits``.

    Raises:
        ChildError: an own server does not start; the text says why.
    """
    with tempfile.TemporaryDirectory(prefix="commucat-bench-") as name:
        folder = Path(name)
        if url is not None:
            yield ServerUnderLoad(folder, url, tls_ca)
            return
        async with own_server(folder, limits, store) as server:
            yield server


@asynccontextmanager
async def own_server(
    folder: Path, limits: Mapping[str, int], store: Store, place: Place | None = None
) -> AsyncIterator[OwnServer]:
    """An own server with its files in ``folder``.

    Raises:
        ChildError: it does not start; the text says why.
    """
    async with _fresh(store) as fresh:
        server = OwnServer(folder, limits, fresh, place)
        try:
            await server.start()
            yield server
        finally:
            await server.end()


@asynccontextmanager
async def _fresh(store: Store) -> AsyncIterator[Store]:
    """The same with a database that is empty, and dropped afterwards."""
    if store.dsn is None:
        yield store
        return
    # Only now: it changes how asyncio works.
    from commucat_storage.postgres import scratch_database

    try:
        async with scratch_database(store.dsn) as dsn:
            yield attrs.evolve(store, dsn=dsn)
    except StorageError as exc:
        raise ChildError(str(exc)) from exc


def configuration(limits: Mapping[str, int], store: Store, place: Place | None = None) -> str:
    """The configuration file of an own server; ``max_connections`` stands in section ``[server]``."""
    ours = dict(limits)
    connections = ours.pop("max_connections", None)
    port = 0 if place is None else place.port
    lines = ["[server]", f'bind = "127.0.0.1:{port}"', "auto_approve_devices = true"]
    if place is not None:
        lines += place.domain.server_lines()
    if connections is not None:
        lines.append(f"max_connections = {connections}")
    lines.append(f"workers = {store.workers}")
    if store.dsn is not None:
        # TOML's basic strings are written as JSON writes its own.
        lines += ["[storage]", f"postgres_dsn = {json.dumps(store.dsn)}"]
    lines += ["[logging]", 'level = "warning"']
    # All clients have one address.
    lines += ["[security.rate_limit]", "http_burst = 1000000"]
    lines += ["[limits]", *(f"{name} = {value}" for name, value in ours.items())]
    if place is not None:
        lines += place.section
    return "\n".join([*lines, ""])
