import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_ledger import GENESIS, LedgerBrokenError, LedgerTargetError, verify
from commucat_ledger.file import LedgerFile
from ledger.ledger_builders import lines_of, record, write_lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def append(path: Path, *numbers: int) -> None:
    file = LedgerFile(path)
    try:
        for number in numbers:
            file.append(record(number))
        file.sync()
    finally:
        file.close()


def torn_of(path: Path) -> Path:
    return path.with_name(path.name + ".torn")


def metadata_of(path: Path) -> list[object]:
    return [orjson.loads(line)["metadata"] for line in path.read_bytes().splitlines()]


def test_parents_are_made_and_only_the_owner_may_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "ledger.jsonl"
    append(path, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_bytes_are_the_lines_of_the_core(path: Path) -> None:
    append(path, 1, 2, 3)
    assert path.read_bytes() == b"".join(lines_of(3))


def test_a_reopened_file_continues_its_chain(path: Path) -> None:
    append(path, 1, 2)
    append(path, 3)
    append(path)
    append(path, 4)
    assert path.read_bytes() == b"".join(lines_of(4))


def test_a_line_is_one_system_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    file = LedgerFile(path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: sizes.append(len(data)) or write(fd, data))
    file.append(record(1))
    file.close()
    assert sizes == [len(lines_of(1)[0])]


@pytest.mark.parametrize("cut", [1, 2, 60, 150])
def test_a_torn_last_line_is_set_aside_and_recorded(path: Path, cut: int) -> None:
    lines = lines_of(3)
    torn = lines[2][:-cut]
    write_lines(path, [*lines[:2], torn])
    with pytest.raises(LedgerBrokenError):
        verify(path)

    append(path, 9)

    assert verify(path).lines == 4
    assert torn_of(path).read_bytes() == torn + b"\n"
    assert stat.S_IMODE(torn_of(path).stat().st_mode) == 0o600
    assert metadata_of(path)[2] == {"scope": "ledger", "event": "torn", "bytes": len(torn)}
    assert path.read_bytes().startswith(lines[0] + lines[1])


@given(st.data())
def test_wherever_a_crash_cuts_the_file_the_chain_goes_on(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = b"".join(lines_of(3))
    kept = data.draw(st.integers(0, len(whole)))
    directory = tmp_path_factory.mktemp("cut")
    path = write_lines(directory / "ledger.jsonl", [whole[:kept]])
    whole_lines = whole[:kept].count(b"\n")
    torn = whole[:kept].rsplit(b"\n", 1)[-1]

    append(path, 9)

    assert verify(path).lines == whole_lines + bool(torn) + 1
    assert torn_of(path).exists() == bool(torn)


def test_a_tail_of_zeros_from_a_lost_write_is_torn_too(path: Path) -> None:
    write_lines(path, [bytes(4096)])
    append(path, 1)
    assert verify(path).lines == 2


def test_several_torn_lines_stand_one_below_the_other(path: Path) -> None:
    for _ in range(2):
        with path.open("ab") as file:
            file.write(b'{"digest":"torn')
        append(path)
    assert torn_of(path).read_bytes() == b'{"digest":"torn\n' * 2
    assert verify(path).lines == 2


@pytest.mark.parametrize(
    "content",
    [b"my diary", b"line\nline\n", b"line\nunfinished", b'{"digest":"x","metadata":{}}\n', b"x" * 400_000],
)
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerTargetError, match="ledger"):
        LedgerFile(path)
    assert path.read_bytes() == content
    assert not torn_of(path).exists()


def test_a_directory_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LedgerTargetError, match="not a regular file"):
        LedgerFile(tmp_path / "pipe")
    with pytest.raises(LedgerTargetError, match="directory"):
        LedgerFile(tmp_path)


def test_an_unusable_parent_is_a_target_error(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(LedgerTargetError, match=r"below/it\.jsonl"):
        LedgerFile(path / "below" / "it.jsonl")


def test_the_same_file_is_not_opened_twice(path: Path) -> None:
    first = LedgerFile(path)
    with pytest.raises(LedgerTargetError, match="another process is writing"):
        LedgerFile(path)
    first.close()
    append(path, 1)


HOLDER = """
import sys
from pathlib import Path
from commucat_ledger.file import LedgerFile

file = LedgerFile(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_is_kept_out_until_the_first_is_killed(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LedgerTargetError, match="another process is writing"):
            LedgerFile(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    append(path, 1)
    assert verify(path).lines == 1


BUSY = """
import itertools
import sys
from pathlib import Path
from ledger.ledger_builders import record
from commucat_ledger.file import LedgerFile

file = LedgerFile(Path(sys.argv[1]))
for number in itertools.count(1):
    file.append(record(number))
    if number == 200:
        print("busy", flush=True)
"""


def test_a_process_killed_while_it_writes_leaves_a_chain_to_continue(path: Path) -> None:
    tests = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": tests},
    ) as busy:
        assert busy.stdout is not None
        assert busy.stdout.readline() == b"busy\n"
        busy.kill()
        busy.wait()
    append(path, 1)
    assert verify(path).lines > 200


Write = Callable[[int, bytes], int]


def refuse_once(after: int) -> Write:
    """A disk that takes ``after`` bytes of the next write, fails, and is well again."""
    write = os.write
    pending = [after]

    def limited(fd: int, data: bytes) -> int:
        if not pending:
            return write(fd, data)
        taken = pending.pop()
        if taken == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[:taken])

    return limited


@pytest.mark.parametrize("after", [0, 1, 50])
def test_after_a_failed_write_the_chain_goes_on_from_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    file = LedgerFile(path)
    file.append(record(1))
    monkeypatch.setattr(os, "write", refuse_once(after))
    with pytest.raises(OSError, match=r"No space|only"):
        file.append(record(2))

    file.append(record(3))
    file.append(record(4))
    file.close()

    assert verify(path).lines == 3 + bool(after)
    assert torn_of(path).exists() == bool(after)
    assert [entry["number"] for entry in metadata_of(path) if "number" in entry] == [1, 3, 4]  # type: ignore[operator,index]  # JSON objects


def test_a_write_that_arrived_but_was_reported_as_failed_stays_in_the_chain(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = LedgerFile(path)
    write = os.write

    def write_then_fail(fd: int, data: bytes) -> int:
        write(fd, data)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_then_fail)
        with pytest.raises(OSError, match="Input"):
            file.append(record(1))
    file.append(record(2))
    file.close()

    assert path.read_bytes() == b"".join(lines_of(2))


def test_a_full_disk_that_stays_full_fails_every_record_and_harms_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = LedgerFile(path)
    file.append(record(1))
    before = path.read_bytes()

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                file.append(record(2))
    assert path.read_bytes() == before
    file.append(record(2))
    file.close()
    assert path.read_bytes() == b"".join(lines_of(2))


def test_a_file_emptied_by_somebody_else_goes_on_with_the_chain(path: Path) -> None:
    file = LedgerFile(path)
    file.append(record(1))
    place = file.place
    os.truncate(path, 0)
    file.append(record(3))
    file.close()
    verified = verify(path)
    assert (verified.ledger, verified.first, verified.size) == (place.ledger, 2, 3)
    assert metadata_of(path)[0] == {
        "scope": "ledger",
        "event": "continue",
        "ledger": place.ledger.hex(),
        "reason": "emptied",
        "node": "",
    }


def test_lines_written_by_somebody_else_stay_and_verification_names_them(path: Path) -> None:
    file = LedgerFile(path)
    file.append(record(1))
    with path.open("ab") as other:
        other.write(b"garbage\n")
    file.append(record(2))
    file.close()
    with pytest.raises(LedgerBrokenError) as caught:
        verify(path)
    assert caught.value.line_number == 2


def test_genesis_is_zeros() -> None:
    assert bytes(32) == GENESIS
