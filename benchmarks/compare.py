"""Compares two commits by a benchmark: A B A B ... on the same machine, medians and their ratio.

Each commit is checked out into a temporary worktree and set up with a virtual environment of its own by
its own ``scripts/setup.sh``; ``.`` means this directory as it is. A machine's mood changes within
minutes: only runs that take turns can be compared.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HERE = "."
NOT_MEASURED = {
    "runs",
    "acknowledged",
    "refused",
    "lost",
    "duplicates",
    "out_of_order",
    "damaged",
    "unanswered",
}


class CompareError(Exception):
    """Something cannot be compared; the text says what."""


@contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """The folder of a revision's installed programs, as long as the block lasts."""
    if revision == HERE:
        yield Path(sys.executable).parent
        return
    git("worktree", "add", "--quiet", "--detach", str(folder), revision)
    try:
        print(f"compare: setting up {revision}", file=sys.stderr, flush=True)
        environment = {**os.environ, "VENV": ".venv"}
        command = ["sh", "scripts/setup.sh"]
        done = subprocess.run(command, cwd=folder, env=environment, check=False)  # noqa: S603 - our own
        if done.returncode:
            raise CompareError(f"scripts/setup.sh of {revision} failed")
        yield folder / ".venv" / "bin"
    finally:
        git("worktree", "remove", "--force", str(folder))


def git(*arguments: str) -> str:
    """Output of a git command in this repository."""
    command = ["git", *arguments]  # as the user has it
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise CompareError(f"git {arguments[0]}: {last[0]}")
    return done.stdout.strip()


def bench(programs: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """One run; returns its figures."""
    command = [str(programs / "commucat-cli"), "bench", *arguments, "--json"]
    # With this in it, both would run the same code.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=ROOT, env=own, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise CompareError(f"bench {' '.join(arguments)} failed (status {done.returncode})")
    try:
        figures: dict[str, Any] = json.loads(done.stdout)
    except ValueError as exc:
        raise CompareError(f"bench {' '.join(arguments)} gives no figures") from exc
    return figures


def numbers_of(figures: dict[str, Any], asked: Sequence[str]) -> dict[str, float]:
    """What was measured; options repeat themselves and say nothing."""
    options = {word.removeprefix("--").partition("=")[0].replace("-", "_") for word in asked}
    return {
        name: float(value)
        for name, value in figures.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and name not in NOT_MEASURED | options
    }


def table(names: tuple[str, str], runs: tuple[list[dict[str, float]], list[dict[str, float]]]) -> str:
    """Medians of both, and the second over the first, for every figure that all runs have."""
    first, second = runs
    common = [name for name in first[0] if all(name in run for run in (*first, *second))]
    width = max([len(name) for name in common], default=0)
    lines = [f"{'':{width}}{names[0]:>16}{names[1]:>16}{'ratio':>8}"]
    for name in common:
        before, after = (median(run[name] for run in found) for found in runs)
        if before == after and all(run[name] == before for run in (*first, *second)):
            continue  # an option's default, the same in every run
        ratio = f"{after / before:8.3f}" if before else f"{'-':>8}"
        lines.append(f"{name:{width}}{before:16,.2f}{after:16,.2f}{ratio}")
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """Compare and print; returns the exit status."""
    words = list(words)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        description="Compare two commits by a benchmark.",
        usage="%(prog)s REV_A REV_B [--rounds N] [-- SCENARIO OPTIONS...]",
    )
    parser.add_argument("first", metavar="REV_A", help="a commit, or . for this directory as it is")
    parser.add_argument("second", metavar="REV_B")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (default: 5)")
    options = parser.parse_args(words[:cut])
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    arguments = words[cut + 1 :] or ["relay"]
    if arguments[0] == "all":
        parser.error("all has no figures of its own; compare one scenario")
    try:
        print(compare(options.first, options.second, options.rounds, arguments))
    except CompareError as exc:
        print(f"compare: {exc}", file=sys.stderr)
        return 1
    return 0


def compare(first: str, second: str, rounds: int, arguments: Sequence[str]) -> str:
    """Run in turns; returns the table.

    Raises:
        CompareError: a revision cannot be set up, or a run failed.
    """
    runs: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    with (
        tempfile.TemporaryDirectory(prefix="commucat-compare-") as name,
        checked_out(first, Path(name) / "a") as one,
        checked_out(second, Path(name) / "b") as other,
    ):
        for turn in range(rounds):
            for programs, found in zip((one, other), runs, strict=True):
                print(f"compare: round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
                found.append(numbers_of(bench(programs, arguments), arguments))
    return table((first, second), runs)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
