"""kill -9 in the middle of committing: everything acknowledged is there afterwards."""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from commucat_storage import GroupRole, open_sqlite
from storage.storage_builders import add_devices, message, numbers, send, stored

DEVICES = ("a", "b", "c")
ROUNDS = 4
LINES_BEFORE_THE_KILL = 150

CHILD = """
import pathlib, sys, trio
sys.path.insert(0, sys.argv[2])
from commucat_storage import Confirm, open_sqlite
from storage.storage_builders import message

async def main():
    async with open_sqlite(pathlib.Path(sys.argv[1])) as storage:
        epoch = (await storage.inbox_state("c")).epoch

        async def sender(index):
            turn = 0
            while True:
                turn += 1
                payload = f"{index}:{turn}".encode()
                recipients = (("a", "b"), ("a",), ("c",))
                outcomes = await storage.commit([message(*each, payload=payload) for each in recipients])
                stored = [each for outcome in outcomes for each in outcome.accepted]
                for name, number in stored:
                    print(name, number, payload.decode())
                if turn % 5 == 0:
                    last = stored[-1][1]
                    [outcome] = await storage.commit([Confirm("c", epoch, last)])
                    if outcome.applied:
                        print("confirmed", last, "-")
                sys.stdout.flush()

        async with trio.open_nursery() as nursery:
            for index in range(6):
                nursery.start_soon(sender, index)

trio.run(main)
"""


def run_and_kill(path: Path, program: str = CHILD, *arguments: str) -> list[list[str]]:
    """Let a child commit for a while, kill it, and return what it had acknowledged."""
    command = [sys.executable, "-c", program, str(path), str(Path(__file__).parents[1]), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        output = "".join(child.stdout.readline() for _ in range(LINES_BEFORE_THE_KILL))
        child.kill()
        output += child.stdout.read()
    assert child.returncode == -signal.SIGKILL
    # The last line may have been cut by the kill.
    complete = output.rpartition("\n")[0]
    return [line.split() for line in complete.splitlines()]


async def test_after_kill_9_every_acknowledged_row_is_there(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with open_sqlite(path) as storage:
        await add_devices(storage, *DEVICES)
    acknowledged: dict[str, dict[int, str]] = {name: {} for name in DEVICES}
    confirmed = 0
    for _ in range(ROUNDS):
        for what, number, payload in run_and_kill(path):
            if what == "confirmed":
                confirmed = max(confirmed, int(number))
            else:
                acknowledged[what][int(number)] = payload
        async with open_sqlite(path) as storage:
            state = await storage.inbox_state("c")
            assert state is not None
            assert state.confirmed >= confirmed
            for name in DEVICES:
                page = await storage.read_after(name, 0, limit_rows=10**6, limit_bytes=2**30, now=0)
                rows = {row.number: row.payload.decode() for row in page.rows}
                expected = {
                    number: payload
                    for number, payload in acknowledged[name].items()
                    if name != "c" or number > state.confirmed
                }
                assert expected.items() <= rows.items()
                assert list(rows) == list(range(page.head - len(rows) + 1, page.head + 1))
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    [[stored_refs, rows]] = connection.execute(
        "SELECT (SELECT sum(refs) FROM relay_payload), (SELECT count(payload_id) FROM relay_queue)"
    )
    assert stored_refs == rows
    connection.close()


async def test_numbers_go_on_where_the_killed_process_stood(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with open_sqlite(path) as storage:
        await add_devices(storage, *DEVICES)
    last = max(int(number) for name, number, _ in run_and_kill(path) if name == "a")
    async with open_sqlite(path) as storage:
        page = await storage.read_after("a", 0, limit_rows=10**6, limit_bytes=2**30, now=0)
        await send(storage, message("a"))
        assert page.head >= last
        assert numbers(await stored(storage, "a", above=page.head)) == [page.head + 1]


GROUP_CHILD = """
import pathlib, sys, trio
sys.path.insert(0, sys.argv[2])
from commucat_storage import GroupAction, open_sqlite
from storage.storage_builders import change, create, invite

async def main():
    async with open_sqlite(pathlib.Path(sys.argv[1])) as storage:
        turn = 0
        while True:
            turn += 1
            group_id = sys.argv[3] + str(turn)
            changes = (
                create("a", "b", group_id=group_id),
                invite("a", "c", group_id=group_id),
                change("a", GroupAction.REMOVE, "b", group_id=group_id),
                change("a", GroupAction.TRANSFER, "c", group_id=group_id),
                change("a", GroupAction.LEAVE, group_id=group_id),
            )
            for index, each in enumerate(changes):
                [outcome] = await storage.commit([each])
                assert outcome.refused is None, outcome
                print(group_id, index, len(outcome.notice.accepted), flush=True)

trio.run(main)
"""

AFTER = [{"a", "b"}, {"a", "b", "c"}, {"a", "c"}, {"a", "c"}, {"c"}]
OWNERS = ["a", "a", "a", "c", "c"]
MOST_NOTICES = 2  # of one change


async def test_after_kill_9_every_acknowledged_change_of_a_group_is_there(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with open_sqlite(path) as storage:
        await add_devices(storage, *DEVICES)
    steps: dict[str, int] = {}
    told = 0
    for prefix in ("x", "y"):
        for group_id, step, notices in run_and_kill(path, GROUP_CHILD, prefix):
            steps[group_id] = int(step)
            told += int(notices)
    async with open_sqlite(path) as storage:
        for group_id, step in steps.items():
            group = await storage.load_group(group_id)
            assert group is not None
            owners = [name for name, role in group.members.items() if role is GroupRole.OWNER]
            # One more may have been committed than was told.
            possible = [(AFTER[at], OWNERS[at]) for at in (step, min(step + 1, 4))]
            assert (set(group.members), *owners) in possible
        rows = [
            len((await storage.read_after(n, 0, limit_rows=10**6, limit_bytes=2**30, now=0)).rows)
            for n in DEVICES
        ]
    assert told <= sum(rows) <= told + 2 * MOST_NOTICES
