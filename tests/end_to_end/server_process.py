"""The real server in a process of its own, to be started, broken, killed and started again."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from end_to_end.prepared_commands import BIN, PreparedProcess, is_prepared, run_prepared

DEADLINE = 60.0
"""Seconds; only a hang takes so long."""


def clean_environment(**extra: str) -> dict[str, str]:
    """Without settings of the person who runs the tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMMUCAT_")}
    return environment | extra


def run(command: Sequence[str], cwd: Path, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
    """Run one of our commands to its end; ``extra`` is added to its environment."""
    words = [str(BIN / command[0]), *command[1:]]
    # Variables may be meant for the interpreter, or for the dynamic linker.
    if is_prepared(command) and not extra:
        return run_prepared(words, cwd, clean_environment(), stdin, DEADLINE)
    return subprocess.run(
        words,
        cwd=cwd,
        env=clean_environment(**extra),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def read_line(descriptor: int, log: Path) -> str:
    """The first line on a server's stdout, within the deadline."""
    end = time.monotonic() + DEADLINE
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            assert selector.select(max(end - time.monotonic(), 0)), "the server printed no line in time"
            data = os.read(descriptor, 1)
            assert data, f"the server ended before it listened: {log.read_text()[-2000:]}"
            line += data
    return line.decode().strip()


@attrs.define
class ServerProcess:
    """One data directory, and the process that serves it now (if one does)."""

    home: Path
    config: str = ""
    prefix: tuple[str, ...] = ()
    """A command to run the server under, such as strace."""
    options: tuple[str, ...] = ()
    """Further options of the server."""
    port: int = 0
    _process: "subprocess.Popen[bytes] | PreparedProcess | None" = None
    _stdout: int | None = None

    @property
    def data_dir(self) -> Path:
        return self.home / "data"

    @property
    def database(self) -> Path:
        return self.data_dir / "commucat.db"

    @property
    def ca_file(self) -> Path:
        return self.data_dir / "tls" / "cert.pem"

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def log(self) -> Path:
        return self.home / "server.log"

    @property
    def pid(self) -> int:
        """The server itself, also when it runs under another command."""
        assert self._process is not None
        pid = self._process.pid
        if not self.prefix:
            return pid
        # One such as env has become the server.
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else pid

    def start(self) -> None:
        """Start, and wait until it listens; the second time on the same port."""
        command = [str(BIN / "commucat-server"), "--data-dir", str(self.data_dir)]
        command += ["--bind", f"127.0.0.1:{self.port}", *self.options]
        if self.config:
            file = self.home / "commucat.toml"
            file.write_text(self.config)
            command += ["--config", str(file)]
        self._launch([*self.prefix, *command])

    def _launch(self, command: list[str]) -> None:
        self._stdout, theirs = os.pipe()
        try:
            with self.log.open("ab") as log:
                self._process = self._started(command, theirs, log.fileno())
        finally:
            os.close(theirs)
        line = read_line(self._stdout, self.log)
        self.port = int(line.rpartition(":")[2])

    def _started(
        self, command: list[str], stdout: int, stderr: int
    ) -> "subprocess.Popen[bytes] | PreparedProcess":
        environment = clean_environment()
        if is_prepared(command):
            with open(os.devnull, "rb") as stdin:
                return PreparedProcess(command, self.home, environment, (stdin.fileno(), stdout, stderr))
        return subprocess.Popen(command, cwd=self.home, env=environment, stdout=stdout, stderr=stderr)

    def kill(self) -> None:
        """SIGKILL: no chance to write anything more."""
        os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def stop(self) -> int:
        """SIGTERM: drain; returns the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self._reap()

    def _reap(self) -> int:
        process, self._process = self._process, None
        assert process is not None
        code = process.wait(DEADLINE)
        if self._stdout is not None:
            os.close(self._stdout)
            self._stdout = None
        return code

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def rss_kib(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def close(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                os.kill(self.pid, signal.SIGKILL)
            self._reap()


@contextmanager
def server_process(
    home: Path, config: str = "", prefix: tuple[str, ...] = (), options: tuple[str, ...] = ()
) -> Iterator[ServerProcess]:
    """A server that has started; whatever is left of it at the end is killed."""
    server = ServerProcess(home, config, prefix, options)
    try:
        server.start()
        yield server
    finally:
        server.close()
