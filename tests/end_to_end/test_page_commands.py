"""The commands of the README and of the pages about ledger and files end well, as they stand there."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from end_to_end.console_pages import Shell, Step, shell_in
from end_to_end.server_process import BIN

ROOT = Path(__file__).parents[2]
PROGRAM = re.compile(r"^(?: {4}\.venv/bin/)?(commucat-(?:cli|server) .*?)(?: +#.*)?$", re.MULTILINE)
# What waits for a person, or for ever.
ENDING = {
    "chat": "{} < /dev/null",
    "listen": "{} --count 1 --timeout 30",
    "commucat-server": "{} 2>> server.log &",
}


def commands_below(page: str, heading: str) -> list[str]:
    section = (ROOT / page).read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = PROGRAM.findall(section)
    assert found, (page, heading)
    return found


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    here = {
        "8443": port,
        "0.0.0.0": "127.0.0.1",
        "chat.example.org": "localhost",
        "/var/lib/commucat": str(tmp_path / "lib"),
    }
    with shell_in(tmp_path, here, COMMUCAT_BIND=f"127.0.0.1:{port}", PATH=f"{BIN}:/usr/bin:/bin") as shell:
        yield shell


def value(lines: list[str], key: str) -> str:
    [found] = [line.removeprefix(f"{key}=") for line in lines if line.startswith(f"{key}=")]
    return found


def end_well(shell: Shell, command: str) -> list[str]:
    """What it prints; an exit status that is not 0 fails the test."""
    program, name = command.split()[:2]
    if "--count" not in command:
        command = ENDING.get(program, ENDING.get(name, "{}")).format(command)
    if command.endswith("&"):
        return shell.answer(Step(command, ("listening",)))
    *lines, status = shell.answer(Step(f"{command}; echo $?", ()))
    assert status == "0", (command, lines)
    return lines


def test_the_commands_of_users(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"sea" * 1000)
    end_well(shell, "commucat-server --data-dir commucat-data")
    commands = commands_below("README.md", "Use it") + commands_below(
        "docs/friends-and-files.md", "Attachments"
    )
    for command in commands:
        printed = end_well(shell, command)
        if " --handle bob " in command:
            shell.here["DEVICE_ID_OF_BOB"] = value(printed, "device_id")
    assert sorted(each.name for each in (tmp_path / "received").iterdir()) == [
        "holiday (2).jpg",
        "holiday.jpg",
    ]


def test_the_commands_of_operators(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir(mode=0o700)
    (tmp_path / "commucat.toml").write_text(
        '[ledger]\nrotate_bytes = 256\nheads_interval = 1\nheads = "heads.jsonl"\n'
    )
    for command in commands_below("README.md", "Operate it"):
        if command.startswith("commucat-cli login"):
            command += " --tls-ca lib/tls/cert.pem"  # the page's server has a certificate of an authority
        printed = end_well(shell, command)
        if command.startswith("commucat-cli register-user"):
            shell.here["CODE"] = value(printed, "code")
        if command.startswith("commucat-cli login"):
            shell.here["DEVICE_ID"] = value(printed, "device_id")
    heads = (tmp_path / "heads.jsonl").read_text().splitlines()
    shell.here["55f35ebb..."] = json.loads(heads[-1])["key"]
    for ledger in (tmp_path / "lib").glob("ledger*.jsonl"):
        (tmp_path / ledger.name).symlink_to(ledger)
    # It may have been put away more often.
    archives = sorted(each.name for each in tmp_path.glob("ledger.*.jsonl"))
    shell.here["ledger.000001.jsonl"] = " ".join(archives)
    for command in commands_below("docs/ledger.md", "Checking it"):
        end_well(shell, command)
