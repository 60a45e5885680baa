"""The writer's thread goes before others where it may."""

import os
import threading
from pathlib import Path

import pytest

from commucat_storage import open_sqlite
from commucat_storage.sqlite.precedence import PRECEDENCE

NICE = os.getpriority(os.PRIO_PROCESS, 0)


def nice_of_writer() -> int:
    [writer] = [each for each in threading.enumerate() if each.name == "commucat-journal"]
    assert writer.native_id is not None
    return os.getpriority(os.PRIO_PROCESS, writer.native_id)


def may_go_first() -> bool:
    """Asked of the system, in a thread that ends then: root has no such right in every container."""
    allowed: list[bool] = []

    def ask() -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE - PRECEDENCE)
        except PermissionError:
            allowed.append(False)
        else:
            allowed.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return allowed[0]


async def test_the_writer_goes_first_if_it_may_and_nobody_else_does(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store.db") as storage:
        await storage.settle()  # So the thread has begun.
        assert nice_of_writer() == (NICE - PRECEDENCE if may_go_first() else NICE)
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == NICE


async def test_without_the_right_everything_is_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(which: int, who: int, priority: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    async with open_sqlite(tmp_path / "store.db") as storage:
        await storage.settle()
        assert nice_of_writer() == NICE
