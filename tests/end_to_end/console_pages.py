"""Pages of docs whose console blocks are run: each command as it stands, and what it prints compared."""

import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from end_to_end.server_process import BIN, DEADLINE, clean_environment

DOCS = Path(__file__).parents[2] / "docs"
DONE = "-- done"
# What is different each time; everything else is printed as it stands in the page.
VARIABLE = (
    (re.compile(r"\d{5}(?: \d{5}){11}"), "NUMBER"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"), "TIME"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?(?=\]| UTC)"), "TIME"),
    (re.compile(r"(?<=day=|til )\d{4}-\d\d-\d\d"), "DAY"),
    (re.compile(r"\b(?:[A-Z2-9]{4}-)+[A-Z2-9]{4}\b"), "CODE"),
    (re.compile(r"\b[0-9a-f]{16,128}\b"), "HEX"),
    (re.compile(r"\b(rows|records|schema_version|certificate_serial|oldest_seconds|bytes)=\d+"), r"\1=N"),
    (re.compile(r'"(serial|issued_at|expires_at)":\d+'), r'"\1":N'),
    (re.compile(r"\b(schema version|records 1 to|pid|may have|took) [\d.]+"), r"\1 N"),
    (re.compile(r"\b\d+ (MiB|open files|connections)\b"), r"N \1"),
    # The size of one depends on the port.
    (re.compile(r"^[\s█▀▄]+$"), "QR"),
)


@attrs.frozen
class Step:
    command: str
    output: tuple[str, ...]


def steps_of(page: str) -> list[Step]:
    """The commands of the console blocks, with what they print."""
    blocks = re.findall(r"^```console\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    steps: list[Step] = []
    for line in "".join(blocks).splitlines():
        if line.startswith("$ "):
            steps.append(Step(line.removeprefix("$ "), ()))
        else:
            steps[-1] = attrs.evolve(steps[-1], output=(*steps[-1].output, line))
    return steps


def general(line: str) -> str:
    for pattern, name in VARIABLE:
        line = pattern.sub(name, line)
    return line


def generals(lines: list[str] | tuple[str, ...]) -> list[str]:
    """Without what is different each time; a QR code is one line."""
    replaced = [general(line) for line in lines]
    return [line for line, run in itertools.groupby(replaced) for line in ([line] if line == "QR" else run)]


@attrs.frozen
class Shell:
    """A bash in a directory of its own that is told what stands in a page."""

    process: "subprocess.Popen[str]"
    here: dict[str, str]
    """What stands in the page, and what it is in this run."""

    def answer(self, step: Step) -> list[str]:
        """What a command prints; one in the background is given time to print what it should."""
        command = step.command
        for there, here in self.here.items():
            command = command.replace(there, here)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\necho '{DONE}'\n")
        self.process.stdin.flush()
        lines: list[str] = []
        done = False
        end = time.monotonic() + DEADLINE
        while not done or (command.endswith("&") and len(lines) < len(step.output)):
            assert time.monotonic() < end, f"{command}: no end in time"
            line = self.process.stdout.readline()
            assert line, f"{command}: the shell ended"
            if line.rstrip("\n") == DONE:
                done = True
            else:
                lines.append(line.rstrip("\n"))
        return lines

    def follow(self, page: str) -> None:
        """Run each step of a page, and compare what it prints."""
        for step in steps_of(page):
            printed = self.answer(step)
            for there, here in self.here.items():
                printed = [line.replace(here, there) for line in printed]
            told = [step.command, *generals(step.output)]
            got = [step.command, *generals(printed)]
            assert got == told, f"{page}: printed {printed}, compared as {got}, told {told}"


@contextmanager
def shell_in(home: Path, here: dict[str, str], **variables: str) -> Iterator[Shell]:
    environment = clean_environment(PATH=f"{BIN}:{os.environ['PATH']}") | variables
    with subprocess.Popen(
        ["bash", "--norc"],
        cwd=home,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Shell(process, here)
        finally:
            # The servers that it started are in its process group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
