"""The server of a run: a real process that is killed, stopped and starved on purpose."""

import json
import os
import resource
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import NoReturn

import attrs
import trio

from commucat_cli.bench.child import Child, ChildError, running
from commucat_cli.bench.domains import Domain
from commucat_cli.bench.server_process import clean_environment

START_TIMEOUT = 60.0
LIMITS = {
    "inbox_rows": 10_000_000,
    "stranger_rows": 10_000_000,
    "stranger_bytes": 10_000_000_000,
    "connects_per_second": 100_000,
    "new_devices_per_hour": 100_000,
}
"""Section ``[limits]``: what the defaults would refuse to so many clients of one address."""
_PATIENCE = ("backoff_min = 1", "backoff_max = 1", "timeout = 2")
"""Section ``[federation]``: many attempts in a short run."""
_ROOM = 4096  # bytes by which the write-ahead log may still grow on a full disk


@attrs.frozen(kw_only=True)
class Setup:
    """What the server of a run is made of."""

    dsns: tuple[str, ...] = attrs.field(default=(), repr=False)
    """An empty PostgreSQL database for each domain; none: the embedded store."""
    nodes: int = 1
    """On that database."""
    redis_url: str | None = attrs.field(default=None, repr=False)
    domains: int = 1
    """Each with a server of its own, all of them each other's peers; with several there is one node of each,
    and no Redis."""


@attrs.frozen(kw_only=True)
class Kinship:
    """What the nodes of one server share, beside the database."""

    seed: str
    """Of the server's identity, hexadecimal."""
    certificate: Path
    """Of TLS; made by the first node, with its key beside it."""


class Victim:
    """A server process with data and a port of its own, in ``folder``; perhaps one node of several."""

    def __init__(
        self,
        folder: Path,
        setup: Setup,
        kinship: Kinship | None = None,
        domain: Domain | None = None,
        peers: Sequence[tuple[Domain, str]] = (),
        place: int = 0,
    ) -> None:
        """``domain``, ``peers`` and their addresses: who it is and whom it knows, if there are several.
        ``place``: of its domain among them."""
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._tls_ca = folder / "data" / "tls" / "cert.pem"
        self.domain = "" if domain is None else domain.name
        self.killing = False
        """It is being killed, or started again."""
        self.dsn = setup.dsns[place] if setup.dsns else None
        """Of its database; None: the store is a file of its own, whose disk can be full."""
        self._stack = AsyncExitStack()
        self._child: Child | None = None
        self._port = 0
        self.lives = 0
        """How often it was started."""
        config = ["[server]", "auto_approve_devices = true"]
        if kinship is not None and kinship.certificate != self._tls_ca:
            self._tls_ca = kinship.certificate
            config.append(f"tls_cert = {json.dumps(str(self._tls_ca))}")
            config.append(f"tls_key = {json.dumps(str(self._tls_ca.with_name('key.pem')))}")
        if domain is not None:
            self._tls_ca = domain.trusted
            config += [*domain.server_lines(), *domain.section(peers, *_PATIENCE)]
        if kinship is not None:
            config += ["[crypto]", f'federation_seed = "{kinship.seed}"']
        config += ["[security.rate_limit]", "http_burst = 1000000"]
        config += ["[logging]", 'level = "warning"', "[limits]"]
        config += [f"{name} = {value}" for name, value in LIMITS.items()]
        config.append("[storage]")
        # TOML's basic strings are written as JSON writes its own.
        if self.dsn is not None:
            config.append(f"postgres_dsn = {json.dumps(self.dsn)}")
        if setup.redis_url is not None:
            config.append(f"redis_url = {json.dumps(setup.redis_url)}")
        self._config = folder / "commucat.toml"
        self._config.write_text("\n".join([*config, ""]), "utf-8")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @property
    def tls_ca(self) -> Path:
        return self._tls_ca

    @property
    def port(self) -> int:
        """Where it listens; 0 before it has started."""
        return self._port

    @property
    def database(self) -> Path:
        """The embedded store."""
        return self._folder / "data" / "commucat.db"

    @property
    def log(self) -> Path:
        """Of the present life."""
        return self._folder / f"server-{self.lives}.log"

    @property
    def _pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    async def start(self) -> None:
        """Start, and wait until it listens; from the second time on at the same port.

        Raises:
            ChildError: it does not start; the text says why.
        """
        self.lives += 1
        arguments = ["--config", str(self._config), "--data-dir", str(self._folder / "data")]
        arguments += ["--bind", f"127.0.0.1:{self._port}"]
        self._child = await self._stack.enter_async_context(
            running(
                self.log.stem,
                "commucat_server.main",
                arguments,
                folder=self._folder,
                environment=clean_environment(),
            )
        )
        with trio.move_on_after(START_TIMEOUT) as patience:
            line = (await self._child.read_line()).decode("utf-8", "replace")
        if patience.cancelled_caught or not line.startswith("listening on "):
            raise ChildError(f"the server does not listen within {START_TIMEOUT:g} s")
        self._port = int(line.rpartition(":")[2])

    async def end(self) -> None:
        """SIGTERM, and wait."""
        await self._stack.aclose()

    async def wait_ended(self) -> NoReturn:
        """Wait until the process has ended.

        Raises:
            ChildError: always; it has the server's last words.
            trio.ClosedResourceError: :meth:`kill` or :meth:`end` was quicker.
        """
        assert self._child is not None
        while True:
            await self._child.read_line()

    # -- strikes ------------------------------------------------------------------------------------

    async def kill(self) -> None:
        """SIGKILL: no chance to write anything more. Then start anew on what is on the disk."""
        self.killing = True
        os.kill(self._pid, signal.SIGKILL)
        await self._stack.aclose()
        await self.start()
        self.killing = False

    async def stop_for(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after some seconds."""
        os.kill(self._pid, signal.SIGSTOP)
        try:
            await trio.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):  # it has ended by itself, which is told elsewhere
                os.kill(self._pid, signal.SIGCONT)

    async def fill_disk_for(self, seconds: float) -> None:
        """Let no file of the server grow for some seconds, as a full disk would not."""
        pid = self._pid
        wal = self._folder / "data" / "commucat.db-wal"
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        size = wal.stat().st_size if wal.exists() else 0
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + _ROOM, hard))
        try:
            await trio.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
