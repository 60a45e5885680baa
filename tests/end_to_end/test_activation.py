"""A port that outlives the server: who connects while it is restarted is served by the next one."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from databases.postgres_databases import PostgresDatabases
from end_to_end.client_people import Person, login
from end_to_end.server_process import BIN, DEADLINE, ServerProcess, clean_environment, read_line

# What systemd does: the socket as descriptor 3, and variables that name this very process.
HANDED = 'exec 3<&"$DESCRIPTOR"; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'


class Activated(ServerProcess):
    """A server that gets its port from somebody who holds it."""

    held: socket.socket

    def start(self) -> None:
        self.held.set_inheritable(True)
        command = [str(BIN / "commucat-server"), "--data-dir", str(self.data_dir), *self.options]
        if self.config:
            (self.home / "commucat.toml").write_text(self.config)
        self._launch(command)

    def _started(self, command: list[str], stdout: int, stderr: int) -> "subprocess.Popen[bytes]":
        descriptor = self.held.fileno()
        return subprocess.Popen(
            ["bash", "-c", HANDED, "bash", *command],
            cwd=self.home,
            env=clean_environment(DESCRIPTOR=str(descriptor)),
            pass_fds=[descriptor],
            stdout=stdout,
            stderr=stderr,
        )


@pytest.fixture
def held() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield listening


def activated(home: Path, held: socket.socket, config: str = "", *options: str) -> Activated:
    server = Activated(home, config, (), options)
    server.held = held
    server.start()
    return server


def sent_during_a_restart(server: Activated, sender: Person, receiver: Person) -> str:
    """What the receiver gets of a message that was sent while no server was there."""
    assert server.stop() == 0
    results: list[subprocess.CompletedProcess[str]] = []
    sending = threading.Thread(target=lambda: results.append(sender.send(receiver, "through the gap")))
    sending.start()
    # Nobody is there, and nobody is refused.
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE):
        server.start()
    sending.join()
    assert results[0].returncode == 0
    # A slow machine takes longer to start a server than the sender waits for an answer.
    slow = ("does not answer within 10 s; trying again", "warning: connected again")
    assert [line for line in results[0].stderr.splitlines() if not line.endswith(slow)] == []
    [message] = receiver.listen(1)
    return str(message["text"])


def test_whoever_connects_during_a_restart_is_served_by_the_next_server(
    tmp_path: Path, held: socket.socket
) -> None:
    server = activated(tmp_path, held)
    try:
        assert server.port == held.getsockname()[1]
        tom, kit = login(server, "tom"), login(server, "kit")
        assert sent_during_a_restart(server, tom, kit) == "through the gap"
        assert server.stop() == 0
    finally:
        server.close()


def test_workers_share_the_socket_that_was_handed_to_their_parent(
    tmp_path: Path, held: socket.socket, postgres_databases: PostgresDatabases
) -> None:
    dsn = postgres_databases.empty()
    config = f'[server]\nauto_approve_devices = true\n[storage]\npostgres_dsn = "{dsn}"\n'
    server = activated(tmp_path, held, config, "--config", "commucat.toml", "--workers", "2")
    try:
        tom, kit = login(server, "tom"), login(server, "kit")
        assert sent_during_a_restart(server, tom, kit) == "through the gap"
        assert server.stop() == 0
    finally:
        server.close()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ('exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "is no socket"),
        ('exec 3<&-; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "is no socket"),
        ('LISTEN_FDS=x LISTEN_PID=$$ exec "$@"', "must be 1 to 64"),
        ('LISTEN_FDS=0 LISTEN_PID=$$ exec "$@"', "must be 1 to 64"),
        ('exec 3<&"$DESCRIPTOR"; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "is no listening TCP socket"),
    ],
)
def test_what_is_no_port_is_one_line(tmp_path: Path, script: str, told: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wrong:
        wrong.set_inheritable(True)
        done = subprocess.run(
            ["bash", "-c", script, "bash", str(BIN / "commucat-server"), "--data-dir", "data"],
            cwd=tmp_path,
            env=clean_environment(DESCRIPTOR=str(wrong.fileno())),
            pass_fds=[wrong.fileno()],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("error: ")
    assert told in line


def test_what_was_meant_for_another_process_is_passed_over(tmp_path: Path) -> None:
    """As in a shell that a unit with a socket has started."""
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(BIN / "commucat-server"), "--data-dir", "data", "--bind", "127.0.0.1:0"],
            cwd=tmp_path,
            env=clean_environment(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1"),
            stdout=subprocess.PIPE,
            stderr=log,
        )
    with process:
        assert read_line(process.stdout.fileno(), tmp_path / "log").startswith(
            "listening on https://127.0.0.1:"
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
