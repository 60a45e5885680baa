"""A private Redis for the tests: started in a folder of its own, stopped and deleted at the end.

``COMMUCAT_TEST_REDIS_URL`` names a server that exists already; a database of it is emptied by the tests.
Tests that stop their server, or change its settings, always have a private one.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class RedisServer:
    """A server process with its socket in ``folder``; it keeps nothing over a restart."""

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self.folder = folder
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "redis.sock"

    def url(self, *, db: int = 0, credentials: str = "") -> str:
        return f"unix://{credentials}{self.socket}?db={db}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    _program(),
                    *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)),
                    *("--save", "", "--appendonly", "no", *self._options),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(600):
            if run_redis(self.url(), "PING", check=False) in ("PONG", "NOAUTH Authentication required."):
                return
            try:
                # Not up yet: wait a moment, unless it has ended.
                self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            break
        raise AssertionError((self.folder / "server.log").read_text(errors="replace"))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None
            self.socket.unlink(missing_ok=True)

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.stop(how)
        self.start()

    def pause(self) -> None:
        """Stop it as if its machine hung: connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def run(self, *command: str, db: int = 0) -> str:
        """Run a command with redis-cli; its reply as text."""
        return run_redis(self.url(db=db), *command)


def _program() -> str:
    program = shutil.which("redis-server")
    assert program is not None, "Redis is not installed; run: sh scripts/test-tools.sh"
    return program


def run_redis(url: str, *command: str, check: bool = True) -> str:
    """Run a command with redis-cli; its reply as text."""
    socket, _, db = url.removeprefix("unix://").rpartition("?db=")
    where = ["-s", socket.rpartition("@")[2], "-n", db] if url.startswith("unix://") else ["-u", url]
    done = subprocess.run(["redis-cli", *where, *command], capture_output=True, text=True, check=False)
    text = done.stdout.strip()
    assert not check or (done.returncode == 0 and not text.startswith("ERR")), text + done.stderr
    return text


@contextmanager
def private_redis(*options: str) -> Iterator[RedisServer]:
    """Start one; stop and delete it at the end."""
    # Not pytest's folder: a socket's path must not be long.
    with tempfile.TemporaryDirectory(prefix="commucat-redis-") as name:
        server = RedisServer(Path(name), options)
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGKILL)


@contextmanager
def redis_for_tests() -> Iterator[str]:
    """The URL of a database: on the server that ``COMMUCAT_TEST_REDIS_URL`` names, or a private one."""
    existing = os.environ.get("COMMUCAT_TEST_REDIS_URL")
    if existing:
        yield existing
    else:
        with private_redis() as server:
            yield server.url()
