"""Commands of the client in this process: the same code and sockets, without two seconds of imports."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import attrs

from commucat_cli.main import app


@attrs.frozen
class Finished:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def invoke(arguments: Sequence[str], **environment: str) -> Finished:
    """Run a command to its end. It writes to descriptors 1 and 2, so these are what is caught."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with _environment(environment), _descriptor(1, out, "stdout"), _descriptor(2, err, "stderr"):
            try:
                app(args=list(arguments), prog_name="commucat-cli")
                code = 0
            except SystemExit as exc:
                code = exc.code if isinstance(exc.code, int) else 1
        return Finished(code, _content(out), _content(err))


@contextmanager
def _descriptor(number: int, file: IO[bytes], stream: str) -> Iterator[None]:
    saved, text = os.dup(number), getattr(sys, stream)
    os.dup2(file.fileno(), number)
    try:
        with os.fdopen(os.dup(number), "w", encoding="utf-8", errors="backslashreplace") as written:
            setattr(sys, stream, written)
            try:
                yield
            finally:
                setattr(sys, stream, text)
    finally:
        os.dup2(saved, number)
        os.close(saved)


@contextmanager
def _environment(extra: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    for name in [name for name in before if name.startswith("COMMUCAT_")]:
        del os.environ[name]
    os.environ.update(extra)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()
