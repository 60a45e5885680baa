"""Runs a directory of CCP-1 test vectors and counts.

Every ``*.json`` file is an object with a list ``cases``; the name of the file says what the cases are
about. Nothing passes unread: a file or a case that nobody knows is a failure, and what this version
does not implement is counted as skipped, by name.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from commucat_cli.conformance import crypto_cases, federation_cases, frame_cases, ice_cases
from commucat_cli.conformance.failure import ConformanceFailure

Case = dict[str, Any]
Runner = Callable[[Case, Case], None]

RUNNERS: Final[dict[str, Runner]] = {
    **crypto_cases.RUNNERS,
    **federation_cases.RUNNERS,
    **frame_cases.RUNNERS,
    **ice_cases.RUNNERS,
}
NOT_SUPPORTED: Final = frozenset({"obfuscation"})
"""Vector files of features that this version does not have."""
DETAIL_CHARACTERS: Final = 500


@attrs.frozen(kw_only=True)
class Counts:
    """Cases by outcome. A file that cannot be run at all counts as one failed case."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            passed=self.passed + other.passed,
            failed=self.failed + other.failed,
            skipped=self.skipped + other.skipped,
        )

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def run_directory(path: Path, report: Callable[[str], None]) -> Counts:
    """Run every ``*.json`` file directly in a directory, in order of their names.

    ``report`` is called with one line of text (no newline) for each file and each failed case, and at
    last with ``N passed, N failed, N skipped``. A directory without vectors is one failure: an empty
    check must not look like a good one.

    Raises:
        OSError: the directory does not exist or cannot be read.
    """
    files = sorted(entry for entry in path.iterdir() if entry.suffix == ".json")
    counts = Counts()
    for file in files:
        counts += _run_file(file, report)
    if not files:
        counts += _failed(report, str(path), "no vector files")
    report(str(counts))
    return counts


def _run_file(file: Path, report: Callable[[str], None]) -> Counts:
    name = file.stem
    try:
        document, cases = _read(file)
    except ConformanceFailure as exc:
        return _failed(report, name, str(exc))
    if name in NOT_SUPPORTED:
        report(f"{name}: {len(cases)} skipped, not supported by this version")
        return Counts(skipped=len(cases))
    runner = RUNNERS.get(name)
    if runner is None:
        return _failed(report, name, "nobody knows how to run this file")
    counts = Counts()
    for number, case in enumerate(cases, start=1):
        counts += _run_case(runner, document, case, f"{name}, case {number}", report)
    report(f"{name}: {counts.passed} passed, {counts.failed} failed")
    return counts


def _read(file: Path) -> tuple[Case, list[Any]]:
    try:
        document = json.loads(file.read_bytes(), object_pairs_hook=_without_doubles)
    except (OSError, ValueError, RecursionError) as exc:
        raise ConformanceFailure(f"not readable as JSON: {exc}") from exc
    if not isinstance(document, dict) or not isinstance(document.get("cases"), list):
        raise ConformanceFailure("not an object with a list of cases")
    if not document["cases"]:
        raise ConformanceFailure("without cases")
    return document, document["cases"]


def _without_doubles(members: list[tuple[str, Any]]) -> Case:
    # JSON readers keep the last of two equal members: the first would pass unread.
    value = dict(members)
    if len(value) != len(members):
        raise ValueError("a member occurs twice in one object")
    return value


def _run_case(
    runner: Runner, document: Case, case: object, label: str, report: Callable[[str], None]
) -> Counts:
    if not isinstance(case, dict):
        return _failed(report, label, "not an object")
    if "name" in case:
        label = f"{label} ({case['name']})"
    try:
        runner(document, case)
    except ConformanceFailure as exc:
        return _failed(report, label, str(exc))
    except Exception as exc:  # noqa: BLE001 - whatever a runner trips over, its case has not passed
        return _failed(report, label, f"{type(exc).__name__}: {exc}")
    return Counts(passed=1)


def _failed(report: Callable[[str], None], label: str, text: str) -> Counts:
    # On one line, whatever a damaged file brings along.
    line = " ".join(f"FAILED {label}: {text}".split())
    report(line if len(line) <= DETAIL_CHARACTERS else line[:DETAIL_CHARACTERS] + "...")
    return Counts(failed=1)
