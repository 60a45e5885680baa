"""Our commands in processes of their own, without what the start of an interpreter costs each time.

A suite starts hundreds of servers and commands, and three quarters of what they compute is importing the same
modules. Here they are forked from one interpreter that has done it. Files whose subject is the start itself
do without, see :func:`fresh_interpreters`.
"""

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
PREPARED = ("commucat-cli", "commucat-server")
PROGRAM = Path(__file__).with_name("prepared_interpreter.py")
START_TIMEOUT = 60.0

_fresh = False


@contextmanager
def fresh_interpreters() -> Iterator[None]:
    """Inside, commands are started by their console scripts."""
    global _fresh
    before, _fresh = _fresh, True
    try:
        yield
    finally:
        _fresh = before


class PreparedProcess:
    """What the tests need of ``subprocess.Popen``."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        descriptors: tuple[int, int, int],
    ) -> None:
        self.returncode: int | None = None
        self._own, theirs = socket.socketpair()
        with theirs:
            self._own.settimeout(START_TIMEOUT)
            socket.send_fds(_interpreter(), [b"+"], [theirs.fileno(), *descriptors])
        request = {"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
        self._own.sendall(json.dumps(request).encode() + b"\n")
        self.pid = self._number()

    def poll(self) -> int | None:
        """The exit status, if it has ended."""
        if self.returncode is None:
            self._own.setblocking(False)
            try:
                self._end()
            except BlockingIOError:
                return None
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit status, when it has ended.

        Raises:
            TimeoutError: it has not, within so many seconds.
        """
        if self.returncode is None:
            self._own.settimeout(timeout)
            self._end()
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _end(self) -> None:
        self.returncode = self._number()
        self._own.close()

    def _number(self) -> int:
        # Sent in one piece, so it comes in one.
        text = self._own.recv(32)
        assert text, "the prepared interpreter is gone"
        return int(text)


def is_prepared(command: Sequence[str]) -> bool:
    """Whether the command is one that the prepared interpreter can become."""
    return not _fresh and Path(command[0]).name in PREPARED


def run_prepared(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], stdin: str, timeout: float
) -> "subprocess.CompletedProcess[str]":
    """As ``subprocess.run`` with captured text, for one of our commands."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        process = PreparedProcess(command, folder, environment, (given.fileno(), out.fileno(), err.fileno()))
        try:
            code = process.wait(timeout)
        except TimeoutError:
            process.kill()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(command), code, out.read().decode(), err.read().decode())


@functools.cache
def _interpreter() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        # Its errors go where those of the tests go: there are none unless the program itself is wrong.
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM)], stdin=theirs, stdout=subprocess.DEVNULL, close_fds=True
        )
    atexit.register(_end_interpreter, ours, process)
    return ours


def _end_interpreter(ours: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    ours.close()
    process.wait(START_TIMEOUT)
