"""The bar that shows how far a backup, restore or transfer is, on a terminal only."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from commucat_storage.moving import Progress as Report
from commucat_storage.moving import Step


class _Bars:
    """One line for each step of each table."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[tuple[Step, str], TaskID] = {}

    def report(self, step: Step, name: str, done: int, total: int) -> None:
        """May be called in any thread; rich locks."""
        task = self._tasks.get((step, name))
        if task is None:
            task = self._progress.add_task(f"{step.value} {name}", total=total)
            self._tasks[step, name] = task
        self._progress.update(task, completed=done, total=total)


@contextmanager
def shown_progress() -> Iterator[Report]:
    """A function to report progress to. Writes to standard error, and nothing where that is no terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda step, name, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as progress:
        yield _Bars(progress).report
