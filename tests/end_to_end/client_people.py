"""People who use the client's commands, each with a logged-in profile."""

import json
import os
import pty
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from end_to_end.server_process import BIN, DEADLINE, ServerProcess, clean_environment, run

CLI = "commucat-cli"


@attrs.frozen
class Person:
    """A logged-in profile."""

    profile: Path
    device_id: str
    home: Path

    def run(self, command: str, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return run([CLI, command, "--profile", str(self.profile), *arguments], self.home, stdin)

    def send(self, to: "Person", *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return self.run("send", "--to", to.device_id, *arguments, stdin=stdin)

    def listen(self, count: int, timeout: float = 30) -> list[dict[str, Any]]:
        done = self.run("listen", "--count", str(count), "--timeout", str(timeout), "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    @contextmanager
    def running(self, command: str, *arguments: str) -> Iterator["Running"]:
        process = subprocess.Popen(
            [str(BIN / CLI), command, "--profile", str(self.profile), *arguments],
            cwd=self.home,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        with process:
            try:
                yield Running(process)
            finally:
                process.kill()

    @contextmanager
    def chat_on_a_terminal(self, to: "Person") -> Iterator[int]:
        """The other end of the terminal that the chat runs on; Ctrl-D ends it behind the block."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [str(BIN / CLI), "chat", "--profile", str(self.profile), "--to", to.device_id],
            env=clean_environment(),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        try:
            yield ours
            os.write(ours, b"\x04")
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
            process.wait()
            os.close(ours)


@attrs.define
class Running:
    """A command that has not ended yet."""

    process: "subprocess.Popen[bytes]"
    _buffer: bytes = b""

    def line(self) -> str:
        """The next line of standard output."""
        assert self.process.stdout is not None
        self._buffer = read_until(self.process.stdout.fileno(), b"\n", self._buffer)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    def end(self, send_signal: signal.Signals | None = None) -> tuple[int, str, str]:
        """Close its input (or send a signal); exit status, rest of the output, errors."""
        if send_signal is not None:
            self.process.send_signal(send_signal)
        out, err = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, (self._buffer + out).decode(), err.decode()


def read_until(descriptor: int, wanted: bytes, found: bytes = b"") -> bytes:
    end = time.monotonic() + DEADLINE
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while wanted not in found:
            assert selector.select(max(end - time.monotonic(), 0)), f"no {wanted!r} came: {found!r}"
            data = os.read(descriptor, 65_536)
            assert data, f"the output ended before {wanted!r}: {found!r}"
            found += data
    return found


def login(server: ServerProcess, handle: str, *arguments: str) -> Person:
    profile = server.home / handle
    done = run(
        [
            *(CLI, "login", "--server", server.url, "--handle", handle, "--profile", str(profile)),
            *("--tls-ca", str(server.ca_file), *arguments),
        ],
        server.home,
    )
    assert done.returncode == 0, done.stderr
    printed = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert printed["handle"] == handle
    assert re.fullmatch(r"[0-9a-f]{64}", printed["user_id"])
    return Person(profile, printed["device_id"], server.home)


def error_line(done: "subprocess.CompletedProcess[str]", status: int = 1) -> str:
    """The one line a failed command leaves on standard error."""
    assert done.returncode == status, done.stderr
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: ")
    return line
