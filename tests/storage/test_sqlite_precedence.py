"""The writer's thread goes before others where it may."""

import errno
import os
import threading
from pathlib import Path

import pytest
import trio

from commucat_storage import open_sqlite
from commucat_storage.sqlite.precedence import PRECEDENCE

NICE = os.getpriority(os.PRIO_PROCESS, 0)


def nice_of(thread: threading.Thread) -> int:
    assert thread.native_id is not None
    return os.getpriority(os.PRIO_PROCESS, thread.native_id)


def nice_if_it_may() -> int:
    """Asked of the system, in a thread that ends then: root has no such right in every container."""
    wanted = max(NICE - PRECEDENCE, -20)
    allowed: list[int] = []

    def ask() -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), wanted)
        except PermissionError:
            allowed.append(NICE)
        else:
            allowed.append(wanted)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return allowed[0]


async def test_the_writer_goes_first_if_it_may_and_nobody_else_does(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with open_sqlite(tmp_path / "store.db") as storage:
        await storage.settle()  # So the thread has begun.
        [writer] = [
            each for each in threading.enumerate() if each.name == "commucat-journal" and each not in before
        ]
        assert nice_of(writer) == nice_if_it_may()
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == NICE


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ENOSYS])
async def test_without_the_right_everything_is_as_usual(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(which: int, who: int, priority: int) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "setpriority", refuse)
    with trio.fail_after(60):
        async with open_sqlite(tmp_path / "store.db") as storage:
            await storage.settle()
