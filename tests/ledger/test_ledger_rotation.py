"""A ledger over several files: put away, continued, verified together."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commucat_ledger import (
    GENESIS,
    LedgerBrokenError,
    SignedHead,
    Signer,
    Verified,
    files_of,
    head_of,
    verify_files,
)
from commucat_ledger.file import LedgerFile, Rotation
from ledger.ledger_builders import NOON, record

SMALL = Rotation(max_bytes=900)
SIGNER = Signer(key=bytes(32), sign=lambda _message: bytes(64))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def write(path: Path, *numbers: int, rotation: Rotation = SMALL, node: str = "n1") -> None:
    file = LedgerFile(path, node=node, rotation=rotation)
    for number in numbers:
        file.attend()
        file.rotate_if_due()
        file.append(record(number))
    file.sync()
    file.close()


def names(path: Path) -> list[str]:
    return [each.name for each in files_of(path)]


def verified(path: Path, heads: tuple[SignedHead, ...] = ()) -> Verified:
    [result] = verify_files(files_of(path), heads=heads)
    return result


def broken(paths: list[Path], heads: tuple[SignedHead, ...] = ()) -> LedgerBrokenError:
    with pytest.raises(LedgerBrokenError) as caught:
        verify_files(paths, heads=heads)
    return caught.value


def test_a_large_file_is_put_away_and_the_chain_goes_on(path: Path) -> None:
    write(path, *range(1, 11))
    assert names(path) == ["ledger.000001.jsonl", "ledger.000002.jsonl", "ledger.jsonl"]
    assert all(each.stat().st_size < 2000 for each in files_of(path))
    result = verified(path)
    assert (result.first, result.size, result.lines) == (1, 12, 12)


def test_it_goes_on_over_restarts_and_whatever_order_the_files_are_named_in(path: Path) -> None:
    for number in range(1, 11):
        write(path, number)
    assert len(names(path)) == 3
    assert verify_files(files_of(path)[::-1]) == verify_files(files_of(path))


def test_an_old_file_is_put_away(path: Path) -> None:
    moment = NOON
    file = LedgerFile(path, rotation=Rotation(max_age=60.0), now=lambda: moment)
    file.append(record(1))
    assert not file.rotate_if_due()
    moment = NOON + timedelta(seconds=61)
    assert file.rotate_if_due()
    assert not file.rotate_if_due()
    file.close()
    assert names(path) == ["ledger.000001.jsonl", "ledger.jsonl"]


def test_an_existing_archive_is_never_replaced(path: Path) -> None:
    path.write_bytes(b"")
    write(path, 1)
    path.with_name("ledger.000007.jsonl").write_bytes(b"theirs")
    write(path, *range(2, 6))
    assert names(path) == ["ledger.000007.jsonl", "ledger.000008.jsonl", "ledger.jsonl"]
    assert path.with_name("ledger.000007.jsonl").read_bytes() == b"theirs"


def test_a_crash_between_two_files_loses_nothing(path: Path) -> None:
    write(path, 1, 2, 3)
    head = verified(path).head
    path.rename(path.with_name("ledger.000001.jsonl"))  # and killed before the next was made
    write(path, 4)
    result = verified(path)
    assert result.size == 5
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0][:50])  # or in its first line
    write(path, 4)
    assert verified(path).size == 6
    assert result.head != head


def test_files_before_may_be_away(path: Path) -> None:
    write(path, *range(1, 11))
    [result] = verify_files(files_of(path)[1:], partial=True)
    assert (result.first, result.size) == (5, 12)
    assert "begins with record 5" in broken(files_of(path)[1:]).reason


def test_a_file_missing_between_is_named(path: Path) -> None:
    write(path, *range(1, 11))
    first, _, last = files_of(path)
    error = broken([first, last])
    assert (error.path, error.line_number, error.record) == (last, 1, 5)
    assert "missing before it: records 5 to " in error.reason


def test_two_ledgers_are_verified_side_by_side(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    write(one, 1, 2, 3)
    write(two, 4, 5)
    assert sorted(each.size for each in verify_files([one, two])) == [2, 3]


def head_at(path: Path, size: int) -> SignedHead:
    lines = b"".join(each.read_bytes() for each in files_of(path)).splitlines(keepends=True)
    head = head_of(lines[size - 1]) if size else GENESIS
    return SignedHead.make(
        SIGNER, ledger=head_of(lines[0]), size=size, head=head, signed_at=1_700_000_000, node=""
    )


def test_a_head_finds_a_cut_a_rewritten_end_and_a_ledger_written_anew(path: Path, tmp_path: Path) -> None:
    write(path, *range(1, 4), rotation=Rotation())
    old, last = head_at(path, 2), head_at(path, 3)
    assert verified(path, (old, last)).confirmed == 3
    lines = path.read_bytes().splitlines(keepends=True)

    path.write_bytes(b"".join(lines[:2]))
    error = broken([path], (old, last))
    assert (error.record, error.line_number) == (3, 3)
    assert "record 3 were cut off" in error.reason or "record 3 was cut off" in error.reason

    path.write_bytes(b"".join(lines[:2]) + lines[2].replace(b'"number":3', b'"number":8'))
    error = broken([path], (old, last))
    assert (error.record, error.line_number) == (3, 3)
    assert "after record 2" in error.reason

    anew = tmp_path / "anew.jsonl"
    write(anew, 5, 6, 7)
    assert "of which no file is here" in broken([anew], (last,)).reason


def test_times_of_the_first_line_survive_a_restart(path: Path) -> None:
    write(path, 1, rotation=Rotation())
    begun = datetime.fromisoformat("2025-10-01T12:00:00.000001+00:00")
    file = LedgerFile(path, rotation=Rotation(max_age=10.0), now=lambda: begun + timedelta(seconds=10))
    assert file.rotate_if_due()
    file.close()


# -- every edit is found, and where ------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> list[list[bytes]]:
    """The lines of three files of one ledger."""
    path = tmp_path_factory.mktemp("original") / "ledger.jsonl"
    write(path, *range(1, 13))
    found = [each.read_bytes().splitlines(keepends=True) for each in files_of(path)]
    assert len(found) >= 3
    return found


def spread(directory: Path, original: list[list[bytes]], changed: list[list[bytes]]) -> list[Path]:
    """The changed lines of each file, as files."""
    assert len(changed) == len(original)
    paths = [directory / f"{index}.jsonl" for index in range(len(changed))]
    for path, lines in zip(paths, changed, strict=True):
        path.write_bytes(b"".join(lines))
    return paths


def at(original: list[list[bytes]], record: int) -> tuple[int, int]:
    """File and index in it of a record."""
    for number, part in enumerate(original):
        if record <= len(part):
            return number, record - 1
        record -= len(part)
    raise AssertionError(record)


def heads_of(lines: list[bytes]) -> tuple[SignedHead, ...]:
    return tuple(
        SignedHead.make(
            SIGNER, ledger=head_of(lines[0]), size=size, head=head_of(lines[size - 1]), signed_at=1, node=""
        )
        for size in (len(lines) // 2, len(lines))
    )


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_every_change_is_found_and_its_place_told(
    original: list[list[bytes]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    lines = [line for part in original for line in part]
    heads = heads_of(lines)
    count = len(lines)
    kind = data.draw(st.sampled_from(["edit", "remove", "swap", "copy", "insert", "cut"]))
    first = data.draw(st.integers(1, count))
    changed = [list(part) for part in original]
    file, index = at(original, first)
    here = changed[file]
    if kind == "edit":
        line = bytearray(here[index])
        line[data.draw(st.integers(0, len(line) - 1))] ^= data.draw(st.integers(1, 255))
        here[index] = bytes(line)
    elif kind == "remove":
        del here[index : data.draw(st.integers(index + 1, len(here)))]
    elif kind == "swap":
        other = data.draw(st.integers(1, count).filter(lambda number: number != first))
        first, other = min(first, other), max(first, other)
        for place, record in ((at(original, first), other), (at(original, other), first)):
            changed[place[0]][place[1]] = lines[record - 1]
        index = min(at(original, first)[1], at(original, other)[1])
    elif kind == "copy":
        copied = lines[data.draw(st.integers(1, count)) - 1]
        here.insert(index, copied)
        first += copied == lines[first - 1]  # of two equal lines the second is too much
    elif kind == "insert":
        here.insert(index, data.draw(st.sampled_from([b"\n", b"{}\n", b"x\n", b"\xff\n"])))
    else:
        del here[index:]
        for later in changed[file + 1 :]:
            later.clear()

    error = broken(spread(tmp_path_factory.mktemp("changed"), original, changed), heads)

    assert error.record is not None
    # What a file's first line should be says which file it is: without it, files may seem to be away.
    if index > 0:
        assert error.record == first


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_without_heads_all_is_found_but_a_changed_or_missing_end(
    original: list[list[bytes]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    count = sum(map(len, original))
    first = data.draw(st.integers(2, count - 1))
    changed = [list(part) for part in original]
    file, index = at(original, first)
    if data.draw(st.booleans()):
        changed[file][index] = changed[file][index].replace(b'"digest":"', b'"digest":"f', 1)
    else:
        del changed[file][index]
    error = broken(spread(tmp_path_factory.mktemp("changed"), original, changed))
    assert index == 0 or error.record == first
