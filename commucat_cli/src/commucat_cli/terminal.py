"""What a person sees: messages on standard output, warnings and errors on standard error.

Text from the network is untrusted: a control character in it could move the cursor, retitle
the window or hide lines, so none reaches the terminal.
"""

import os
import re
import select
import sys

import trio

from commucat_cli.errors import CliError

READ_LEN = 65_536
MAX_LINE_LEN = 1_000_000
"""Bytes of a line from standard input; a sealed message of that size still fits a frame."""

# Controls (C0 and C1), and the characters that reorder or break lines when displayed.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def printable(text: str) -> str:
    """``text`` with every character that a terminal obeys written as ``\\uXXXX``; newlines stay."""
    return _UNSAFE.sub(_escape, text)


def printable_json(text: str) -> str:
    """The same for a JSON text, which stays the same JSON value."""
    return _UNSAFE_IN_JSON.sub(_escape, text)


def one_line(text: str) -> str:
    """``text`` as a single harmless line."""
    return " ".join(printable(text).split())


def tell(text: str) -> None:
    """Write one line about what happens to standard error."""
    _to_stderr(one_line(text))


def warn(text: str) -> None:
    """Write one warning line to standard error."""
    _to_stderr(f"warning: {one_line(text)}")


def report_error(text: str) -> None:
    """Write the one ``error:`` line of a command that failed."""
    _to_stderr(f"error: {one_line(text)}")


def _to_stderr(line: str) -> None:
    if sys.stderr is None:
        return  # closed by whoever started us; print() would take standard output instead
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        # Standard error is gone, too: there is nobody left to tell.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process


def occupy_standard_streams() -> None:
    """Make sure that descriptors 0 to 2 belong to nobody else.

    Of a process that was started with one of them closed, the next file it opens takes its
    number: messages would be written into the profile's database. The placeholders refuse to
    be read (0) and written (1), so that a command fails instead of losing messages.
    """
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is taken: exactly this one, as those below are open.
            os.open(os.devnull, flags)


class OutputClosedError(CliError):
    """Nobody reads standard output any more."""


class Output:
    """Standard output, past Python's buffer: what :meth:`write` returned for is with the reader's pipe."""

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd

    async def write(self, text: str) -> None:
        """Hand all of ``text`` to the operating system.

        Waits for a slow reader in a thread, so that the connection stays alive meanwhile.

        Raises:
            OutputClosedError: the reader is gone, or the disk behind it is full.
        """
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        await trio.to_thread.run_sync(self._write_all, data, abandon_on_cancel=True)

    def _write_all(self, data: memoryview) -> None:
        try:
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:
                    # Whoever shares the pipe or terminal with us has made it non-blocking.
                    select.select([], [self._fd], [])
        except OSError as exc:
            raise OutputClosedError(
                f"standard output cannot be written: {exc.strerror}; what was not printed stays on the server"
            ) from exc


def print_now(text: str) -> None:
    """Print to standard output, past Python's buffer.

    Raises:
        OutputClosedError: nobody reads it, or the disk behind it is full.
    """
    if sys.stdout is None:
        raise OutputClosedError("standard output is closed")
    try:
        print(text, flush=True)
    except OSError as exc:
        abandon_output()
        raise OutputClosedError(f"standard output cannot be written: {exc.strerror}") from exc


def abandon_output() -> None:
    """Let what is left in Python's buffer go, or the interpreter complains about it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class LineReader:
    """Lines of standard input, read in a thread that is given up on cancellation."""

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._buffer = bytearray()
        self._ended = False
        self._count = 0

    async def next_line(self) -> str | None:
        """The next line without its end, or None after the last.

        Raises:
            CliError: standard input cannot be read, a line is too long or not UTF-8.
        """
        while (end := self._buffer.find(b"\n")) < 0:
            if self._ended:
                if not self._buffer:
                    return None
                end = len(self._buffer)
                break
            if len(self._buffer) > MAX_LINE_LEN:
                break
            # os.read and not sys.stdin: a thread that waits inside Python's buffered reader
            # would hold its lock while the interpreter shuts down.
            try:
                data = await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)
            except OSError as exc:
                raise CliError(f"standard input cannot be read: {exc.strerror}") from exc
            self._ended = not data
            self._buffer += data
        self._count += 1
        if end < 0 or end > MAX_LINE_LEN:
            raise CliError(f"line {self._count} of standard input is longer than {MAX_LINE_LEN} bytes")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as exc:
            raise CliError(f"line {self._count} of standard input is not UTF-8") from exc

    def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._fd, READ_LEN)
            except BlockingIOError:
                select.select([self._fd], [], [])  # as for Output
