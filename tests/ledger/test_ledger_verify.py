from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_ledger import GENESIS, MAX_LINE_BYTES, LedgerBrokenError, head_of, verify
from ledger.ledger_builders import lines_of, write_lines


def broken(path: Path, lines: list[bytes], expected_head: bytes | None = None) -> LedgerBrokenError:
    with pytest.raises(LedgerBrokenError) as caught:
        verify(write_lines(path, lines), expected_head=expected_head)
    assert str(caught.value) == f"line {caught.value.line_number}: {caught.value.reason}"
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_an_untouched_file_verifies(path: Path) -> None:
    lines = lines_of(5)
    verified = verify(write_lines(path, lines))
    assert (verified.lines, verified.head) == (5, head_of(lines[-1]))


def test_an_empty_file_has_no_lines(path: Path) -> None:
    assert verify(write_lines(path, [])).head == GENESIS


def test_an_edited_line_shows_at_its_successor(path: Path) -> None:
    lines = lines_of(5)
    lines[2] = lines[2].replace(b'"number":3', b'"number":9')
    error = broken(path, lines)
    assert error.line_number == 4
    assert "line 3 was changed" in error.reason


def test_an_edited_prev_is_named(path: Path) -> None:
    lines = lines_of(5)
    lines[2] = lines[2].replace(b'"prev":"', b'"prev":"0')[:-2] + b"}\n"
    assert broken(path, lines).line_number == 3


def test_swapped_lines_show_at_the_first_of_them(path: Path) -> None:
    lines = lines_of(5)
    lines[1], lines[2] = lines[2], lines[1]
    assert broken(path, lines).line_number == 2


def test_a_line_removed_from_the_middle_shows_at_the_gap(path: Path) -> None:
    lines = lines_of(5)
    del lines[2]
    error = broken(path, lines)
    assert error.line_number == 3
    assert "removed" in error.reason


def test_a_line_removed_from_the_start_shows_at_line_one(path: Path) -> None:
    assert broken(path, lines_of(3)[1:]).line_number == 1


def test_a_doubled_line_is_named(path: Path) -> None:
    lines = lines_of(4)
    lines.insert(2, lines[1])
    assert broken(path, lines).line_number == 3


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"garbage\n",
        b"\xff\xfe\n",
        b"null\n",
        b"[]\n",
        b"{}\n",
        b"{" + b'"a":1,' * 3 + b'"b":2}\n',
    ],
)
def test_garbage_is_named(path: Path, garbage: bytes) -> None:
    lines = lines_of(4)
    lines.insert(2, garbage)
    assert broken(path, lines).line_number == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"digest":"01', b'"digest":"0G'),
        (b'"digest":"01', b'"digest":"'),
        (b'"metadata":{"number":1,"scope":"test"}', b'"metadata":[]'),
        (b"+00:00", b"Z"),
        (b".000001", b".00001"),
        (b'{"digest"', b'{"added":1,"digest"'),
    ],
)
def test_a_line_of_another_form_is_named_itself(path: Path, old: bytes, new: bytes) -> None:
    lines = lines_of(3)
    assert old in lines[0]
    lines[0] = lines[0].replace(old, new)
    assert broken(path, lines).line_number == 1


def test_an_unfinished_last_line_is_named(path: Path) -> None:
    lines = lines_of(3)
    lines[2] = lines[2][:-1]
    error = broken(path, lines)
    assert error.line_number == 3
    assert "no end" in error.reason


def test_a_line_without_end_does_not_fill_the_memory(path: Path) -> None:
    assert broken(path, [*lines_of(1), b"x" * (MAX_LINE_BYTES * 2)]).line_number == 2


def test_a_cut_at_the_end_is_found_with_the_kept_head_only(path: Path) -> None:
    lines = lines_of(5)
    head = head_of(lines[4])
    assert verify(write_lines(path, lines[:3])).lines == 3

    error = broken(path, lines[:3], head)

    assert error.line_number == 4
    assert "missing" in error.reason


def test_a_changed_last_line_is_found_with_the_kept_head_only(path: Path) -> None:
    lines = lines_of(3)
    head = head_of(lines[2])
    lines[2] = lines[2].replace(b'"number":3', b'"number":9')
    assert verify(write_lines(path, lines)).lines == 3
    assert "rewritten" in broken(path, lines, head).reason


def test_a_grown_file_still_leads_through_an_older_head(path: Path) -> None:
    lines = lines_of(5)
    write_lines(path, lines)
    assert verify(path, expected_head=head_of(lines[1])).lines == 5
    assert verify(path, expected_head=head_of(lines[4])).lines == 5
    assert verify(path, expected_head=GENESIS).lines == 5


def test_a_missing_file_is_an_error_of_the_system(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        verify(path)


LINES = lines_of(4)
WHOLE = b"".join(LINES)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found_with_the_kept_head(
    tmp_path_factory: pytest.TempPathFactory, position: int, change: int
) -> None:
    damaged = bytearray(WHOLE)
    damaged[position] ^= change
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    with pytest.raises(LedgerBrokenError):
        verify(write_lines(path, [bytes(damaged)]), expected_head=head_of(LINES[-1]))
