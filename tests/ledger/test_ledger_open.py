import errno
import os
import threading
from pathlib import Path

import pytest
import structlog
import trio

from commucat_ledger import (
    LedgerClosedError,
    LedgerMode,
    LedgerTargetError,
    open_ledger,
    verify,
)
from commucat_ledger import ledger as ledger_module
from commucat_ledger.file import LedgerFile
from commucat_ledger.record import LedgerRecord
from commucat_ledger.writer import SyncClock
from ledger.ledger_builders import content_of, lines_of, record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "ledger.jsonl"


async def test_everything_appended_is_on_disk_after_the_block(path: Path) -> None:
    async with open_ledger("file", path) as ledger:
        for number in range(1, 1001):
            await ledger.append(record(number))
    assert content_of(path) == b"".join(lines_of(1000))
    assert (ledger.written, ledger.failures) == (1000, 0)


async def test_a_reopened_ledger_continues(path: Path) -> None:
    for number in (1, 2, 3):
        async with open_ledger(LedgerMode.FILE, path) as ledger:
            await ledger.append(record(number))
    assert content_of(path) == b"".join(lines_of(3))


async def test_a_cancelled_block_still_writes_what_it_was_given(path: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_ledger("file", path) as ledger:
            for number in range(1, 101):
                await ledger.append(record(number))
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert verify(path).lines == 100


async def test_an_error_in_the_block_comes_out_bare_after_the_drain(path: Path) -> None:
    async def fail_inside() -> None:
        async with open_ledger("file", path) as ledger:
            await ledger.append(record())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_inside()
    assert verify(path).lines == 1


async def test_null_discards_and_counts() -> None:
    async with open_ledger("null", None) as ledger:
        await ledger.append(record())
    assert (ledger.written, ledger.failures) == (1, 0)


async def test_debug_logs_the_digest_and_nothing_else() -> None:
    with structlog.testing.capture_logs() as logs:
        async with open_ledger("debug", None) as ledger:
            await ledger.append(record(7))
    assert logs == [{"event": "ledger record", "log_level": "info", "digest": "07" * 32}]


@pytest.mark.parametrize("mode", ["null", "debug", "file"])
async def test_appending_after_the_end_is_refused(mode: str, path: Path) -> None:
    async with open_ledger(mode, path) as ledger:
        pass
    with pytest.raises(LedgerClosedError):
        await ledger.append(record())


@pytest.mark.parametrize(("mode", "text"), [("file", "target"), ("postgres", "none of"), ("", "none of")])
async def test_mode_and_target_must_fit(mode: str, text: str) -> None:
    with pytest.raises(LedgerTargetError, match=text):
        async with open_ledger(mode, None):
            pass


async def test_a_second_ledger_on_the_same_file_is_refused(path: Path) -> None:
    async with open_ledger("file", path):
        with pytest.raises(LedgerTargetError, match="another process is writing"):
            async with open_ledger("file", path):
                pass


class StalledFile(LedgerFile):
    """A disk that lets the first write begin and finishes it when told."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def append(self, record: LedgerRecord) -> None:
        self.begun.set()
        self.go_on.wait()
        super().append(record)


@pytest.fixture
def stalled(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[StalledFile]:
    made: list[StalledFile] = []

    def make(path: Path, **_options: object) -> StalledFile:
        made.append(StalledFile(path))
        return made[0]

    monkeypatch.setattr(ledger_module, "LedgerFile", make)
    return made


async def test_a_full_queue_makes_the_caller_wait(
    path: Path, stalled: list[StalledFile], nursery: trio.Nursery
) -> None:
    appended: list[int] = []
    finished = trio.Event()

    async def append_all() -> None:
        for number in range(1, 7):
            await ledger.append(record(number))
            appended.append(number)
        finished.set()

    async with open_ledger("file", path, queue=3) as ledger:
        nursery.start_soon(append_all)
        await trio.to_thread.run_sync(stalled[0].begun.wait)
        await trio.testing.wait_all_tasks_blocked()
        assert appended == [1, 2, 3]
        stalled[0].go_on.set()
        await finished.wait()
    assert content_of(path) == b"".join(lines_of(6))


async def test_a_cancelled_wait_for_room_leaves_no_record(path: Path, stalled: list[StalledFile]) -> None:
    async with open_ledger("file", path, queue=1) as ledger:
        await ledger.append(record(1))
        with trio.CancelScope() as scope:
            scope.cancel()
            await ledger.append(record(2))
        stalled[0].go_on.set()
        await ledger.append(record(2))
    assert content_of(path) == b"".join(lines_of(2))


async def test_who_waits_for_room_while_it_closes_is_told(
    path: Path, stalled: list[StalledFile], nursery: trio.Nursery
) -> None:
    refused: list[str] = []

    async def append_late() -> None:
        try:
            await ledger.append(record(2))
        except LedgerClosedError as error:
            refused.append(str(error))

    async def release_once_closing() -> None:
        await trio.testing.wait_all_tasks_blocked()
        stalled[0].go_on.set()

    async with open_ledger("file", path, queue=1) as ledger:
        await ledger.append(record(1))
        nursery.start_soon(append_late)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(release_once_closing)
    await trio.testing.wait_all_tasks_blocked()
    assert refused == ["the ledger is closed"]
    assert verify(path).lines == 1


async def test_a_dead_disk_does_not_keep_the_program(
    path: Path, stalled: list[StalledFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "CLOSE_TIMEOUT", 0.0)
    with structlog.testing.capture_logs() as logs:
        async with open_ledger("file", path) as ledger:
            await ledger.append(record())
    assert logs[-1]["event"] == "ledger not drained at close"
    stalled[0].go_on.set()
    # What it still writes must not meet the next test's patches.
    for thread in threading.enumerate():
        if thread.name == "commucat-ledger":
            thread.join()


async def test_an_unexpected_error_costs_one_record_and_leaves_a_gap(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = LedgerFile.append

    def buggy(self: LedgerFile, record: LedgerRecord) -> None:
        if record.metadata.get("number") == 1:
            raise RuntimeError("a bug")
        append(self, record)

    monkeypatch.setattr(LedgerFile, "append", buggy)
    with structlog.testing.capture_logs():
        async with open_ledger("file", path, queue=1) as ledger:
            for number in (1, 2, 3):
                await ledger.append(record(number))
    assert (ledger.written, ledger.failures, ledger.lost) == (2, 1, 1)
    assert verify(path).gaps == ((1, 1),)


async def test_written_lines_are_synced_at_the_interval_and_at_close(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = threading.Event()
    calls: list[int] = []
    fsync = os.fsync

    def spy(fd: int) -> None:
        fsync(fd)
        calls.append(fd)
        synced.set()

    async with open_ledger("file", path, sync_interval=0.0) as ledger:
        monkeypatch.setattr(os, "fsync", spy)
        await ledger.append(record(1))
        await trio.to_thread.run_sync(synced.wait)
        before_close = len(calls)
    assert before_close == 1
    assert len(calls) == 2


async def test_a_failed_sync_is_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: LedgerFile) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(LedgerFile, "sync", refuse)
    with structlog.testing.capture_logs() as logs:
        async with open_ledger("file", path, sync_interval=3600) as ledger:
            await ledger.append(record(1))
    assert (ledger.written, ledger.failures) == (1, 1)
    assert logs[-1]["event"] == "ledger sync failed"


def test_the_first_unsynced_line_sets_the_deadline() -> None:
    clock = SyncClock(1.0)
    assert clock.wait(50.0) is None
    clock.wrote(100.0)
    clock.wrote(100.9)
    assert clock.wait(100.9) == pytest.approx(0.1)
    assert clock.wait(101.5) == 0.0
    clock.synced()
    assert clock.wait(200.0) is None
