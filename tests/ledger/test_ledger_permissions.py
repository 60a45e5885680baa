"""A ledger whose permissions are taken away while it is written, by a process that is not root."""

import subprocess
import sys
from pathlib import Path

import orjson

from commucat_ledger import verify

SCRIPT = """
import os, sys
from pathlib import Path
import structlog
import trio
from commucat_ledger import Rotation, open_ledger
from ledger.ledger_builders import record

path = Path(sys.argv[1])

async def until(holds):
    while not holds():
        await trio.sleep(0.001)

async def main():
    with structlog.testing.capture_logs() as logs:
        async with open_ledger("file", path, rotation=Rotation(max_bytes=600)) as ledger:
            await ledger.append(record(1))
            await until(lambda: ledger.written == 1)
            assert ledger.trouble is None, ledger.trouble
            os.chmod(path, 0o400)
            os.chmod(path.parent, 0o500)
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)
            for number in range(2, 10):
                await ledger.append(record(number))
                await until(lambda: ledger.written == number)
            assert "may not be opened again" in ledger.trouble, ledger.trouble
            assert ledger.waiting == ledger.lost == 0
    print([entry["event"] for entry in logs])

trio.run(main)
"""


def test_chmod_is_an_alarm_and_costs_no_record(tmp_path: Path) -> None:
    path = tmp_path / "audit" / "ledger.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    path.parent.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert "ledger file was shut to the server" in done.stdout
    assert verify(path).lines == 9
    numbers = [orjson.loads(line)["metadata"]["number"] for line in path.read_bytes().splitlines()]
    assert numbers == list(range(1, 10))
