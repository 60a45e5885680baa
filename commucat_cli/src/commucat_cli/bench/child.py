"""A process that is started, spoken to in lines, and never left behind."""

import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import trio

from commucat_cli.errors import CliError

MAX_LINE_LEN = 64 * 1024 * 1024
"""A report may hold a time for each of a million messages."""
TERMINATION_TIMEOUT = 15.0
"""Seconds from SIGTERM to SIGKILL: more than a server takes to drain."""
_READ_LEN = 65_536


class ChildError(CliError):
    """A process of the benchmark could not do its work."""


class Child:
    """A running process. Made by :func:`running`."""

    def __init__(self, name: str, process: trio.Process, log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._log = log
        self._buffer = bytearray()

    async def write_line(self, line: bytes) -> None:
        """Pass a line (with its end) to the process's standard input."""
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(line)
        except trio.BrokenResourceError as exc:
            raise self.failure() from exc

    async def read_line(self) -> bytes:
        """The next line of its standard output.

        Raises:
            ChildError: it ended before; the text has its last words.
        """
        assert self._process.stdout is not None
        looked_at = 0
        while (end := self._buffer.find(b"\n", looked_at)) < 0:
            looked_at = len(self._buffer)
            data = await self._process.stdout.receive_some(_READ_LEN)
            if not data or len(self._buffer) > MAX_LINE_LEN:
                with trio.move_on_after(TERMINATION_TIMEOUT):
                    await self._process.wait()
                raise self.failure()
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def kill(self) -> None:
        """SIGKILL: no chance to write anything more."""
        self._process.kill()

    def failure(self) -> ChildError:
        """Why it is gone: its last words."""
        # Tracebacks of exception groups are framed; the frame says nothing.
        lines = (line.strip(" |+-") for line in self._log.read_text("utf-8", "replace").splitlines())
        words = [line for line in lines if line]
        status = self._process.poll()
        silent = "it said nothing" if status is None or status >= 0 else f"signal {-status}"
        last = words[-1].removeprefix("error: ") if words else silent
        return ChildError(f"the {self.name} ended: {last}")


@asynccontextmanager
async def running(
    name: str, module: str, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]
) -> AsyncIterator[Child]:
    """Run a Python module of this installation as a process, until the block ends.

    Its standard error goes to a file in ``folder``, which is also its working directory.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as errors:
        process = await _spawn([sys.executable, "-P", "-m", module, *arguments], folder, environment, errors)
    try:
        yield Child(name, process, log)
    finally:
        with trio.CancelScope(shield=True):
            await _end(process)


@asynccontextmanager
async def guarded(child: Child) -> AsyncIterator[None]:
    """Let ``child`` not outlive this process, however this one ends: even a SIGKILL closes the pipe.

    For programs that do not look at their standard input. The start time (field 22 of proc_pid_stat(5);
    no blanks stand in the names of our programs) tells the child from a later process of its number.
    """
    born = '"$(cut -d" " -f22 "/proc/$1/stat" 2>/dev/null)"'
    script = f'born={born}; read -r _; [ {born} = "$born" ] && kill "$1"'
    process: trio.Process = await trio.lowlevel.open_process(
        ["/bin/sh", "-c", script, "guard", str(child.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            # Killed before its pipe is closed: from here on the child ends as its owner wants.
            process.kill()
            await process.wait()
            assert process.stdin is not None
            await process.stdin.aclose()


async def _spawn(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], errors: IO[bytes]
) -> trio.Process:
    process: trio.Process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        cwd=folder,
        env=dict(environment),
    )
    return process


async def _end(process: trio.Process) -> None:
    """Ask it to stop; kill it if it does not. Bounded by the two deadlines."""
    if process.stdin is not None:
        await process.stdin.aclose()
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(TERMINATION_TIMEOUT):
            await process.wait()
    if process.poll() is None:
        process.kill()
        await process.wait()
    if process.stdout is not None:
        await process.stdout.aclose()
