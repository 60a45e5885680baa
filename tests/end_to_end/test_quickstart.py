"""The first steps go exactly as docs/quickstart.md tells, and the Russian page tells the same."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from end_to_end.server_process import BIN, DEADLINE, clean_environment

DOCS = Path(__file__).parents[2] / "docs"
DONE = "-- done"
# What is different each time; everything else is printed as it stands in the page.
VARIABLE = (
    (re.compile(r"\d{5}(?: \d{5}){11}"), "NUMBER"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"), "TIME"),
    (re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d\]"), "[TIME]"),
    (re.compile(r"(?:[A-Z2-9]{4}-){4}[A-Z2-9]{4}"), "CODE"),
    (re.compile(r"\b[0-9a-f]{16,128}\b"), "HEX"),
    (re.compile(r"^rows=\d+$"), "rows=N"),
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


@pytest.fixture
def shell(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    environment = clean_environment(PATH=f"{BIN}:{os.environ['PATH']}")
    with subprocess.Popen(
        ["bash", "--norc"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def answer(shell: "subprocess.Popen[str]", step: Step) -> list[str]:
    """What a command prints; one in the background is given time to print what it should."""
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"{step.command}\necho '{DONE}'\n")
    shell.stdin.flush()
    lines: list[str] = []
    done = False
    end = time.monotonic() + DEADLINE
    while not done or (step.command.endswith("&") and len(lines) < len(step.output)):
        assert time.monotonic() < end, f"{step.command}: no end in time"
        line = shell.stdout.readline()
        assert line, f"{step.command}: the shell ended"
        if line.rstrip("\n") == DONE:
            done = True
        else:
            lines.append(line.rstrip("\n"))
    return lines


def test_every_step_goes_as_told(shell: "subprocess.Popen[str]", tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    # The page's port may be taken here; nothing else is changed.
    answer(shell, Step(f"export COMMUCAT_BIND=127.0.0.1:{port}", ()))
    for step in steps_of("quickstart.md"):
        told = Step(step.command.replace("8443", port), step.output)
        printed = [general(line.replace(port, "8443")) for line in answer(shell, told)]
        assert printed == [general(line) for line in step.output], step.command
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def test_the_russian_page_has_the_same_steps() -> None:
    assert steps_of("quickstart.ru.md") == steps_of("quickstart.md")


@pytest.mark.parametrize(
    "page", ["quickstart.md", "quickstart.ru.md", "operating.md", "client-developers.md"]
)
def test_links_of_the_pages_lead_to_files(page: str) -> None:
    text = (DOCS / page).read_text()
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
    assert targets
    assert [target for target in targets if not (DOCS / target).exists()] == []
