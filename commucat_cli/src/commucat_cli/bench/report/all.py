"""Measures everything and writes a report."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import orjson

from commucat_cli.bench.coordinator import measure
from commucat_cli.bench.environment import commit
from commucat_cli.bench.plan import Plan
from commucat_cli.bench.report.markdown import comparison, page
from commucat_cli.bench.report.plots import PlotsUnavailableError, draw
from commucat_cli.bench.result import Result
from commucat_cli.bench.scenarios import (
    Calls,
    Churn,
    Connect,
    Fanout,
    Federation,
    Idle,
    Latency,
    Offline,
    Relay,
)
from commucat_cli.errors import CliError

FULL: tuple[Plan, ...] = (
    Relay(messages=100_000),
    Latency(duration=30.0),
    Connect(connects=2000, burst=2000),
    Idle(),
    Offline(messages=1_000_000, kill=True),
    Fanout(),
    Federation(messages=50_000),
    Calls(seconds=60.0, overload=40),
    Churn(),
)
"""The sizes of the targets."""
QUICK: tuple[Plan, ...] = (
    Relay(messages=5000, warmup=500),
    Latency(rate=500.0, duration=2.0, warmup=0.5),
    Connect(connects=50, burst=20, rate=100.0, duration=2.0),
    Idle(sessions=50, settle=1.0),
    Offline(messages=5000, warmup=500, kill=True),
    Fanout(members=30, messages=5, rate=10.0, sustained=10),
    Federation(messages=2000, warmup=200, backlog=3000),
    Calls(parties=3, seconds=2.0, messages=50.0, overload=2, step_seconds=1.0),
    Churn(connects=100, messages=3000, warmup=500),
)
"""To see whether everything works; the figures mean little."""

Tell = Callable[[str], None]


@attrs.frozen(kw_only=True)
class Report:
    """What was measured and written."""

    results: Mapping[str, Result]
    """By name of the scenario."""
    table: str
    folder: Path

    @property
    def whole(self) -> bool:
        """Whether every message of every scenario came exactly once."""
        return all(result.whole for result in self.results.values())


async def measure_all(*, runs: int, quick: bool, out: Path, tell: Tell) -> Report:
    """Run every scenario and write ``out/<date>-<commit>/`` with README.md, results.json and plots.

    Args:
        runs: of each scenario but ``churn``, which is run once.
        tell: is told what a person should know at once, line by line.

    Raises:
        CliError: a scenario could not be run, or the report not be written.
    """
    folder = _make_folder(out)
    results: dict[str, Result] = {}
    for plan in QUICK if quick else FULL:
        # Tens of thousands of connects one after the other are many runs in themselves, and take minutes.
        result = await measure(attrs.evolve(plan, runs=1 if isinstance(plan, Churn) else runs))
        for text in (*result.problems, *result.figures["warnings"]):
            tell(f"{plan.name}: {text}")
        results[plan.name] = result
        # After each: a long run that is interrupted leaves what it has.
        _write(folder / "results.json", _json(results))
    figures = {name: result.figures for name, result in results.items()}
    try:
        plots = draw(figures, folder)
    except PlotsUnavailableError as exc:
        tell(str(exc))
        plots = []
    except OSError as exc:
        raise CliError(f"cannot draw into {folder}: {exc.strerror}") from exc
    command = f"commucat-cli bench all --runs {runs}{' --quick' if quick else ''}"
    _write(folder / "README.md", page(figures, command=command, plots=plots, small=quick).encode())
    return Report(results=results, table=comparison(figures), folder=folder)


def _make_folder(out: Path) -> Path:
    name = f"{time.strftime('%Y-%m-%d')}-{commit() or 'unknown'}"
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        folder = out / f"{name}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue  # of an earlier run; nothing is overwritten
        except OSError as exc:
            raise CliError(f"cannot make {folder}: {exc.strerror}") from exc
        return folder
    raise CliError(f"{out} holds too many reports of today's {name}")


def _json(results: Mapping[str, Result]) -> bytes:
    figures = {name: result.figures for name, result in results.items()}
    return orjson.dumps(figures, option=orjson.OPT_INDENT_2) + b"\n"


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as exc:
        raise CliError(f"cannot write {file}: {exc.strerror}") from exc
