"""What a ledger does while it cannot be written: nothing is lost in silence, and the order stays."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
import trio
from blake3 import blake3

from commucat_ledger import (
    HeadPolicy,
    Ledger,
    SignedHead,
    Signer,
    files_of,
    keep_head,
    open_ledger,
    read_heads,
    verify,
)
from commucat_ledger.file import LedgerFile
from commucat_ledger.record import LedgerRecord
from ledger.ledger_builders import content_of, record, write_lines

FAST = 0.001


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "ledger.jsonl"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commucat_ledger.writer.FIRST_RETRY", FAST)
    monkeypatch.setattr("commucat_ledger.writer.LONGEST_RETRY", FAST)


def numbers_of(path: Path) -> list[Any]:
    metadata = [orjson.loads(line)["metadata"] for line in path.read_bytes().splitlines()]
    return [entry.get("number", entry.get("event")) for entry in metadata]


class Disk:
    """Refuses to be written until it is told otherwise; says when it has refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.refused = threading.Semaphore(0)
        append = LedgerFile.append

        def limited(file: LedgerFile, record: LedgerRecord) -> None:
            if self.full:
                self.refused.release()
                raise OSError(errno.ENOSPC, "No space left on device")
            append(file, record)

        monkeypatch.setattr(LedgerFile, "append", limited)

    async def has_refused(self) -> None:
        await trio.to_thread.run_sync(self.refused.acquire)


async def until(holds: Callable[[], object]) -> None:
    """Wait for a state of the writing thread, which tells nobody: only looking shows it."""
    while not holds():  # noqa: ASYNC110 - a thread sets no event of trio's
        await trio.sleep(FAST)


async def written(ledger: Ledger, count: int) -> None:
    await until(lambda: ledger.written >= count)


async def test_records_wait_for_a_full_disk_and_come_in_their_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    with structlog.testing.capture_logs() as logs:
        async with open_ledger("file", path) as ledger:
            await ledger.append(record(1))
            await written(ledger, 1)
            disk.full = True
            for number in range(2, 50):
                await ledger.append(record(number))
                if number == 2:
                    await disk.has_refused()
                    await disk.has_refused()
            assert ledger.trouble == "[Errno 28] No space left on device"
            assert ledger.waiting == 48
            disk.full = False
            await written(ledger, 49)
            await until(lambda: ledger.trouble is None)
    assert (ledger.lost, ledger.waiting) == (0, 0)
    assert numbers_of(path) == list(range(1, 50))
    assert verify(path).size == 49
    told = [(entry["log_level"], entry["event"]) for entry in logs]
    assert told == [
        ("error", "ledger cannot be written, records wait"),
        ("warning", "ledger is written again"),
    ]


async def test_a_record_tells_how_many_had_no_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    disk.full = True
    with structlog.testing.capture_logs() as logs:
        async with open_ledger("file", path, queue=3) as ledger:
            await ledger.append(record(1))
            await disk.has_refused()
            await disk.has_refused()
            for number in range(2, 11):
                await ledger.append(record(number))
            ledger.offer(record(11))
            assert (ledger.lost, ledger.waiting) == (8, 3)
            disk.full = False
            await written(ledger, 4)  # the three, and the gap without anything that follows it
            await ledger.append(record(12))
    assert numbers_of(path) == [1, 2, 3, "gap", 12]
    gap = orjson.loads(content_of(path).splitlines()[3])
    assert gap["metadata"] == {
        "scope": "ledger",
        "event": "gap",
        "records": 8,
        "first": "2025-10-01T12:00:00.000004+00:00",
        "last": "2025-10-01T12:00:00.000011+00:00",
    }
    assert gap["digest"] == blake3(b"".join(bytes([number]) * 32 for number in range(4, 12))).hexdigest()
    assert verify(path).gaps == ((4, 8),)
    assert [entry["event"] for entry in logs].count("ledger has no room, records are lost") == 1


async def test_what_is_lost_at_close_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    disk.full = True
    with structlog.testing.capture_logs() as logs:
        async with open_ledger("file", path) as ledger:
            await ledger.append(record(1))
            await ledger.append(record(2))
    assert ledger.lost == 2
    assert logs[-1]["event"] == "ledger records lost at close"
    assert logs[-1]["records"] == 2


async def test_a_directory_that_is_gone_comes_back(path: Path) -> None:
    with structlog.testing.capture_logs():
        async with open_ledger("file", path) as ledger:
            await ledger.append(record(1))
            await written(ledger, 1)
            shutil.rmtree(path.parent)
            write_lines(path.parent, [])  # so that it cannot be made again at once
            await ledger.append(record(2))
            await until(lambda: ledger.trouble)
            await ledger.append(record(3))
            os.unlink(path.parent)
            await written(ledger, 3)
    assert numbers_of(path) == ["continue", 2, 3]
    assert (verify(path).first, verify(path).size) == (2, 4)


async def test_logrotate_renames_and_the_next_file_goes_on(path: Path) -> None:
    async with open_ledger("file", path) as ledger:
        await ledger.append(record(1))
        await written(ledger, 1)
        os.rename(path, path.with_name("ledger.jsonl.1"))
        await ledger.append(record(2))
    assert numbers_of(path.with_name("ledger.jsonl.1")) == [1]
    assert numbers_of(path) == ["continue", 2]


async def test_another_ledger_in_its_place_is_left_alone(path: Path, tmp_path: Path) -> None:
    async with open_ledger("file", tmp_path / "other.jsonl") as other:
        await other.append(record(7))
    foreign = content_of(tmp_path / "other.jsonl")
    with structlog.testing.capture_logs():
        async with open_ledger("file", path) as ledger:
            await ledger.append(record(1))
            await written(ledger, 1)
            os.replace(tmp_path / "other.jsonl", path)
            await ledger.append(record(2))
            await until(lambda: ledger.trouble)
            assert "another ledger stands there" in ledger.trouble
            assert content_of(path) == foreign
            os.unlink(path)
            await written(ledger, 2)
    assert numbers_of(path) == ["continue", 2]


async def test_an_older_copy_in_its_place_shows_what_is_missing(path: Path) -> None:
    async with open_ledger("file", path) as ledger:
        await ledger.append(record(1))
        await written(ledger, 1)
        older = content_of(path)
        await ledger.append(record(2))
        await written(ledger, 2)
        write_lines(path, [older])
        await ledger.append(record(3))
    assert numbers_of(path) == [1, "continue", 3]
    with pytest.raises(Exception, match="line 2: missing before it: record 2,"):
        verify(path)


# -- heads -------------------------------------------------------------------------------------------

SIGNER = Signer(key=bytes(32), sign=lambda message: blake3(message).digest(length=64))


async def test_the_first_head_is_there_with_the_first_record_and_is_waited_for(path: Path) -> None:
    async with open_ledger(
        "file", path, sync_interval=3600, heads=HeadPolicy(signer=SIGNER, node="n1")
    ) as ledger:
        assert ledger.head is None
        await ledger.append(record(1))
        with trio.fail_after(60):
            while ledger.head is None:
                await ledger.spoken()
        assert ledger.head.size == 1
        # Of a ledger that is spoken for nobody waits.
        await ledger.spoken()


async def test_nobody_waits_for_the_head_of_a_ledger_that_signs_none(path: Path) -> None:
    async with open_ledger("file", path, sync_interval=3600) as ledger:
        await ledger.append(record(1))
        with trio.fail_after(60):
            await ledger.spoken()
        assert ledger.head is None


async def test_a_head_covers_what_is_synced_and_is_kept_beside_the_ledger(path: Path, tmp_path: Path) -> None:
    kept = tmp_path / "heads.jsonl"
    policy = HeadPolicy(signer=SIGNER, node="n1", path=kept, interval=3600)
    async with open_ledger("file", path, sync_interval=0.0, heads=policy) as ledger:
        assert ledger.head is None
        await ledger.append(record(1))
        await until(lambda: ledger.head)
        assert (ledger.head.size, ledger.head.node) == (1, "n1")
        await ledger.append(record(2))
    verified = verify(path)
    last = ledger.head
    assert last is not None
    assert (last.size, last.head, last.ledger) == (2, verified.head, verified.ledger)
    assert last.signature == SIGNER.sign(last.message())
    # The first at once, the next not before the interval, and the last at the end.
    assert [head.size for head in read_heads(kept).heads] == [1, 2]
    async with open_ledger("file", path, heads=policy) as again:
        await until(lambda: again.head)
        assert again.head.size == 2


async def test_a_head_that_is_due_is_kept_though_nothing_more_happens(path: Path, tmp_path: Path) -> None:
    kept = tmp_path / "heads.jsonl"
    policy = HeadPolicy(signer=SIGNER, path=kept, interval=0.05)
    async with open_ledger("file", path, sync_interval=0.0, heads=policy) as ledger:
        for number in (1, 2):
            await ledger.append(record(number))
            await written(ledger, number)
        await until(lambda: kept.exists() and read_heads(kept).heads[-1].size == 2)


async def test_heads_that_cannot_be_kept_are_an_alarm_and_no_harm(path: Path, tmp_path: Path) -> None:
    policy = HeadPolicy(signer=SIGNER, path=tmp_path / "absent" / "heads.jsonl")
    with structlog.testing.capture_logs() as logs:
        async with open_ledger("file", path, sync_interval=0.0, heads=policy) as ledger:
            await ledger.append(record(1))
            await until(lambda: ledger.trouble)
    assert "absent/heads.jsonl: No such file" in str(ledger.trouble)
    assert [entry["event"] for entry in logs] == ["ledger head cannot be kept"]
    assert verify(path).lines == 1


def head(size: int) -> SignedHead:
    return SignedHead.make(SIGNER, ledger=bytes(32), size=size, head=bytes(32), signed_at=1, node="")


def test_a_torn_head_is_passed_over_and_replaced(tmp_path: Path) -> None:
    kept = tmp_path / "heads.jsonl"
    keep_head(kept, head(1))
    keep_head(kept, head(2))
    kept.write_bytes(kept.read_bytes()[:-40])
    found = read_heads(kept)
    assert ([each.size for each in found.heads], found.torn) == ([1], True)
    keep_head(kept, head(3))
    assert [each.size for each in read_heads(kept).heads] == [1, 3]


def test_somebody_elses_file_is_not_cut(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    diary.write_bytes(b"dear diary")
    with pytest.raises(OSError, match="no head"):
        keep_head(diary, head(1))
    assert diary.read_bytes() == b"dear diary"


def test_files_are_in_the_order_of_their_records(path: Path) -> None:
    path.parent.mkdir()
    for name in ("ledger.000002.jsonl", "ledger.000010.jsonl", "ledger.000001.jsonl", "ledger.jsonl", "x"):
        (path.parent / name).touch()
    assert [each.name for each in files_of(path)] == [
        "ledger.000001.jsonl",
        "ledger.000002.jsonl",
        "ledger.000010.jsonl",
        "ledger.jsonl",
    ]
