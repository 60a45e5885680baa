"""A private PostgreSQL for the tests: started in a folder of its own, stopped and deleted at the end.

``COMMUCAT_TEST_PG_DSN`` names a server that exists already (its role must be able to create databases);
tests that stop their server always have a private one.
"""

import getpass
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ids = itertools.count(1)

# Tests kill processes, not the machine: what a process has written survives without a sync.
_CONFIGURATION = """
listen_addresses = '127.0.0.1'
fsync = off
full_page_writes = off
max_connections = 200
shared_buffers = 32MB
autovacuum = off
log_min_messages = fatal
shared_preload_libraries = 'pg_stat_statements'
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
"""
# Everybody may come over the socket in the private folder; over TCP a password is needed.
_ACCESS = """
local replication all trust
local all locked scram-sha-256
local all all trust
host all all 127.0.0.1/32 scram-sha-256
"""


def binaries() -> Path | None:
    """The folder of ``initdb`` and ``postgres``, the newest if there are several."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    found = [path for path in versions if (path / "initdb").exists() and (path / "postgres").exists()]
    if found:
        return found[-1]
    initdb = shutil.which("initdb")
    return None if initdb is None else Path(initdb).resolve().parent


class PostgresCluster:
    """A server process with its data in ``folder``."""

    def __init__(self, folder: Path, bin_folder: Path, settings: str = "") -> None:
        self.folder = folder
        self._settings = settings
        self.port = _free_port()
        self._bin = bin_folder
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        # It refuses to run as root.
        self._user = "postgres" if os.getuid() == 0 else None

    @property
    def role(self) -> str:
        return self._user or getpass.getuser()

    @property
    def certificate(self) -> Path:
        return self._data / "server.crt"

    def dsn(self, database: str = "postgres", role: str | None = None) -> str:
        return f"postgresql://{role or self.role}@/{database}?host={self.folder}&port={self.port}"

    def tcp_dsn(self, database: str, role: str, password: str, options: str = "") -> str:
        return f"postgresql://{role}:{password}@127.0.0.1:{self.port}/{database}{options}"

    def create(self) -> None:
        """Make the data folder."""
        if self._user is not None:
            shutil.chown(self.folder, self._user, self._user)
        self._run(
            "initdb", "-D", self._data, "-U", self.role, "-E", "UTF8", "--locale=C", "-N", "-A", "trust"
        )
        (self._data / "pg_hba.conf").write_text(_ACCESS)
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"{_CONFIGURATION}port = {self.port}\nunix_socket_directories = '{self.folder}'\n")
            file.write(f"{self._settings}\n")
        key, certificate = self._data / "server.key", self.certificate
        subprocess.run(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
            "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 "
            f"-keyout {key} -out {certificate}".split(),
            check=True,
            capture_output=True,
        )
        if self._user is not None:
            for path in (key, certificate):
                shutil.chown(path, self._user, self._user)
        key.chmod(0o600)

    def copy_from(self, primary: "PostgresCluster") -> None:
        """Make the data folder that of a standby."""
        if self._user is not None:
            shutil.chown(self.folder, self._user, self._user)
        self._run(
            *("pg_basebackup", "-D", self._data, "-h", primary.folder, "-p", str(primary.port)),
            *("-U", self.role, "-X", "stream", "-c", "fast", "-R"),
        )
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"port = {self.port}\nunix_socket_directories = '{self.folder}'\n")

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data],
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(600):
            ready = subprocess.run(
                [self._bin / "pg_isready", "-q", "-h", self.folder, "-p", str(self.port), "-t", "5"],
                check=False,
            )
            if ready.returncode == 0:
                return
            try:
                # Not up yet: wait a moment, unless it has ended.
                self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            break
        raise AssertionError((self.folder / "server.log").read_text(errors="replace"))

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT ends all connections first, SIGQUIT as a crash would."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        self.stop(how)
        self.start()

    def signal_backend(self, pid: int, number: signal.Signals) -> None:
        """Signal the process of one connection."""
        assert self._process is not None
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == str(self._process.pid)
        os.kill(pid, number)

    def sql(self, text: str, database: str = "postgres") -> str:
        """Run SQL with psql; the rows, one a line."""
        return run_sql(self.dsn(database), text)

    def new_database(self) -> str:
        """Create an empty database; its name."""
        name = f"test_{next(_ids)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments],
            user=self._user,
            group=self._user,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def run_sql(dsn: str, text: str) -> str:
    """Run SQL with psql at ``dsn``; the rows, one a line."""
    folder = binaries()
    psql = "psql" if folder is None else str(folder / "psql")
    done = subprocess.run(
        [psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", dsn],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def private_cluster(settings: str = "") -> Iterator[PostgresCluster]:
    """Start one, with these lines added to its configuration; stop and delete it at the end."""
    bin_folder = binaries()
    assert bin_folder is not None, "PostgreSQL is not installed; run: sh scripts/test-tools.sh"
    # Not pytest's folder: the user postgres could not get into it.
    with tempfile.TemporaryDirectory(prefix="commucat-pg-") as name:
        cluster = PostgresCluster(Path(name), bin_folder, settings)
        cluster.create()
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop(signal.SIGQUIT)


@contextmanager
def private_standby(primary: PostgresCluster) -> Iterator[PostgresCluster]:
    """Start a server that follows ``primary``; stop and delete it at the end."""
    bin_folder = binaries()
    assert bin_folder is not None, "the primary runs"
    with tempfile.TemporaryDirectory(prefix="commucat-pg-") as name:
        cluster = PostgresCluster(Path(name), bin_folder)
        cluster.copy_from(primary)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop(signal.SIGQUIT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
