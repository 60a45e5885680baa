"""kill -9 in the middle of a transfer or restore: the same again finishes it, nothing is lost or doubled."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from commucat_storage import StorageUnavailableError
from commucat_storage.moving import BackupWriter, back_up, copy_store, open_backup
from storage.moving_builders import Home, PostgresHome, SqliteHome, contents, silent, transfer
from storage.storage_builders import NOW, add_devices, message, route, send

CHILD = """
import signal, sys, trio
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from commucat_storage.moving import copy_store, open_backup
from storage.moving_builders import OneByOne, PostgresHome, SmallBatches, SqliteHome

def home(text):
    return PostgresHome(text) if text.startswith("postgresql:") else SqliteHome(Path(text))

left = int(sys.argv[4])

def told(step, name, done, total):
    global left
    left -= 1
    if not left:
        print(step.value, name, done, flush=True)
        signal.pause()  # to be killed right here

async def main():
    async with home(sys.argv[3]).target() as target:
        if Path(sys.argv[2]).is_dir():
            source = open_backup(Path(sys.argv[2]))
            await copy_store(OneByOne(source), target, origin="backup", progress=told)
        else:
            async with home(sys.argv[2]).movable() as source:
                await copy_store(SmallBatches(source), target, origin=source.place, progress=told)

trio.run(main)
"""
ROWS = 60


def text_of(home: Home) -> str:
    return str(home.path) if isinstance(home, SqliteHome) else getattr(home, "dsn", "")


def run_and_kill(source: str, target: Home, portions: int) -> list[str]:
    """Let a child move until it has told of so many portions, then kill it; what it told last."""
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", CHILD, tests, source, text_of(target), str(portions)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        last = child.stdout.readline()
        child.kill()
    assert child.returncode == -signal.SIGKILL
    return last.split()


async def fill(home: Home) -> None:
    async with home.open() as storage:
        await add_devices(storage, "a", "b", "c")
        await send(storage, route("a", 1, "b"), route("b", 1, "a"))
        await send(storage, *(message("a", "b", payload=b"%d" % index) for index in range(ROWS)))
        await send(storage, *(message("c", payload=b"%d" % index) for index in range(ROWS)))


async def refusal(home: Home) -> str:
    """Why the store cannot be opened. PostgreSQL notices a moment later that who held its lock was killed."""
    with trio.fail_after(60):
        while True:
            with pytest.raises(StorageUnavailableError) as caught:
                async with home.open():
                    pass
            if "being filled or moved" not in str(caught.value):
                return str(caught.value)


def sorted_rows(tables: dict[str, list[tuple[object, ...]]]) -> dict[str, list[str]]:
    return {name: sorted(map(repr, rows)) for name, rows in tables.items() if rows}


@pytest.mark.parametrize("direction", ["sqlite-postgres", "postgres-sqlite"])
async def test_a_killed_transfer_goes_on(database: PostgresHome, tmp_path: Path, direction: str) -> None:
    file = SqliteHome(tmp_path / "store.db")
    homes: tuple[Home, Home] = (file, database) if direction == "sqlite-postgres" else (database, file)
    old, new = homes
    await fill(old)
    before = await contents(old)
    seen = []
    # Among the devices, in the middle of payloads and of messages, and while it verifies.
    for portions in (5, 40, 150, 250):
        seen.append(run_and_kill(text_of(old), new, portions))
        assert "only half filled" in await refusal(new)
    assert [line[:2] for line in seen[:3]] == [
        ["copying", "device"],
        ["copying", "relay_payload"],
        ["copying", "relay_queue"],
    ]
    assert seen[3][0] == "verifying"

    await transfer(old, new)

    assert sorted_rows(await contents(new)) == sorted_rows(before)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_killed_restore_goes_on(database: PostgresHome, tmp_path: Path, kind: str) -> None:
    old = SqliteHome(tmp_path / "old.db")
    await fill(old)
    async with old.snapshot() as source:
        writer = BackupWriter(tmp_path / "backup")
        await back_up(source, writer, silent)
        writer.complete(created_at=NOW, program="1", domain="d", server_public=None, facts=source.facts)
    new: Home = SqliteHome(tmp_path / "new.db") if kind == "sqlite" else database
    for portions in (5, 100, 230):
        run_and_kill(str(tmp_path / "backup"), new, portions)
        assert "only half filled from backup" in await refusal(new)

    async with new.target() as target:
        await copy_store(open_backup(tmp_path / "backup"), target, origin="backup", progress=silent)

    assert sorted_rows(await contents(new)) == sorted_rows(await contents(old))
