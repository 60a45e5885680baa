import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commucat_cli.conformance.vectors import NOT_SUPPORTED, RUNNERS, Counts, run_directory

VECTORS = Path(__file__).parents[1] / "vectors"


def load(stem: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((VECTORS / f"{stem}.json").read_text())
    return document


def run(path: Path) -> tuple[Counts, list[str]]:
    lines: list[str] = []
    counts = run_directory(path, lines.append)
    assert lines[-1] == f"{counts.passed} passed, {counts.failed} failed, {counts.skipped} skipped"
    assert not any("\n" in line for line in lines)
    return counts, lines


def run_file(directory: Path, name: str, content: str | bytes) -> tuple[Counts, list[str]]:
    (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return run(directory)


def test_all_published_vectors_hold() -> None:
    sizes = {file.stem: len(load(file.stem)["cases"]) for file in VECTORS.glob("*.json")}
    assert sizes.keys() == RUNNERS.keys() | NOT_SUPPORTED
    skipped = sum(sizes[stem] for stem in NOT_SUPPORTED)

    counts, lines = run(VECTORS)

    assert [line for line in lines if line.startswith("FAILED")] == []
    assert counts == Counts(passed=sum(sizes.values()) - skipped, failed=0, skipped=skipped)
    assert counts.passed > 300
    for stem in NOT_SUPPORTED:
        assert f"{stem}: {sizes[stem]} skipped, not supported by this version" in lines


def test_no_file_is_both_run_and_skipped() -> None:
    assert RUNNERS.keys().isdisjoint(NOT_SUPPORTED)


def flip_last_digit(case: dict[str, Any], member: str) -> None:
    text = case[member]
    case[member] = text[:-1] + ("0" if text[-1] != "0" else "1")


def break_text(case: dict[str, Any], member: str) -> None:
    case[member] = case[member].replace('"c"', '"d"', 1)


BROKEN: list[tuple[str, str, Callable[[dict[str, Any], str], None]]] = [
    ("varint", "hex", flip_last_digit),
    ("frames_good", "frame_hex", flip_last_digit),
    ("frames_good", "sha256", flip_last_digit),
    ("call_messages", "normalised_text", break_text),
    ("device_keys", "signature_hex", flip_last_digit),
    ("certificates", "canonical_hex", flip_last_digit),
    ("certificates", "signature_hex", flip_last_digit),
    ("zkp", "challenge_hex", flip_last_digit),
    ("zkp", "response_hex", flip_last_digit),
    ("noise", "handshake_hash_hex", flip_last_digit),
    ("federation", "digest_hex", flip_last_digit),
    ("federation", "preimage_hex", flip_last_digit),
    ("federation", "wire", flip_last_digit),
]


@pytest.mark.parametrize(("stem", "member", "damage"), BROKEN)
def test_one_damaged_member_fails_its_case_and_no_other(
    tmp_path: Path, stem: str, member: str, damage: Callable[[dict[str, Any], str], None]
) -> None:
    document = load(stem)
    case = next(case for case in document["cases"] if member in case)
    # Beside an intact copy of itself only: other cases may build on it.
    damaged = dict(case)
    damage(damaged, member)
    document["cases"] = [damaged, case]

    counts, lines = run_file(tmp_path, f"{stem}.json", json.dumps(document))

    assert counts == Counts(passed=1, failed=1, skipped=0)
    assert lines[0].startswith(f"FAILED {stem}, case 1 ({case['name']}): ")


def test_a_case_expected_to_fail_that_succeeds_is_a_failure(tmp_path: Path) -> None:
    document = {
        "cases": [{"name": "fine", "op": "decode", "error": "UnexpectedEof", "frame_hex": "0405010100"}]
    }
    counts, _ = run_file(tmp_path, "frames_bad.json", json.dumps(document))
    assert counts == Counts(failed=1)


@pytest.mark.parametrize("stem", sorted(RUNNERS))
def test_a_case_of_unknown_kind_fails_everywhere(tmp_path: Path, stem: str) -> None:
    case = {"name": "new", "kind": "of_next_year", "op": "of_next_year"}
    counts, lines = run_file(tmp_path, f"{stem}.json", json.dumps({"cases": [case]}))
    assert counts == Counts(failed=1)
    assert "(new)" in lines[0]


@pytest.mark.parametrize("stem", sorted(RUNNERS))
def test_an_unknown_member_in_any_first_case_fails(tmp_path: Path, stem: str) -> None:
    document = load(stem)
    document["cases"] = [document["cases"][0] | {"member_of_next_year": 1}]
    counts, _ = run_file(tmp_path, f"{stem}.json", json.dumps(document))
    assert counts == Counts(failed=1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"cases": []}',
        b'{"cases": {}}',
        b'{"cases": 7}',
        b'{"cases": [',
        b"\xff\xfe\xfd",
        b"[" * 200_000,
        b'{"cases": [{"name": "a", "name": "b"}]}',
    ],
)
@pytest.mark.parametrize("name", ["varint.json", "ice.json"])
def test_a_file_without_readable_cases_is_one_failure(tmp_path: Path, name: str, content: bytes) -> None:
    counts, lines = run_file(tmp_path, name, content)
    assert counts == Counts(failed=1)
    assert lines[0].startswith("FAILED ")


def test_a_case_that_is_no_object_fails(tmp_path: Path) -> None:
    assert run_file(tmp_path, "varint.json", '{"cases": [1, null, []]}')[0] == Counts(failed=3)


def test_an_unknown_file_is_one_failure_beside_the_others(tmp_path: Path) -> None:
    (tmp_path / "varint.json").write_bytes((VECTORS / "varint.json").read_bytes())
    counts, lines = run_file(tmp_path, "quantum_cats.json", json.dumps({"cases": [{"name": "a"}] * 3}))
    assert counts == Counts(passed=38, failed=1, skipped=0)
    assert "FAILED quantum_cats: nobody knows how to run this file" in lines


def test_an_unreadable_file_is_one_failure(tmp_path: Path) -> None:
    (tmp_path / "varint.json").mkdir()
    assert run(tmp_path)[0] == Counts(failed=1)


def test_a_directory_without_vectors_is_a_failure(tmp_path: Path) -> None:
    counts, lines = run_file(tmp_path, "README.md", "nothing here")
    assert counts == Counts(failed=1)
    assert "no vector files" in lines[0]


def test_a_missing_directory_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run_directory(tmp_path / "absent", lambda line: None)


def test_any_exception_of_a_runner_fails_its_case_with_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trip(document: dict[str, Any], case: dict[str, Any]) -> None:
        raise KeyError("a member\nthat is absent")

    monkeypatch.setitem(RUNNERS, "varint", trip)
    counts, lines = run_file(tmp_path, "varint.json", json.dumps({"cases": [{"name": "a"}, {}]}))
    assert counts == Counts(failed=2)
    assert lines[0] == r"FAILED varint, case 1 (a): KeyError: 'a member\nthat is absent'"
    assert lines[1].startswith("FAILED varint, case 2: ")


def test_endless_details_are_cut(tmp_path: Path) -> None:
    document = {"cases": [{"name": "x" * 5000, "kind": "new"}]}
    _, lines = run_file(tmp_path, "varint.json", json.dumps(document))
    assert len(lines[0]) < 600
