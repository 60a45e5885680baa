"""What a pause costs on this machine: the disk and the interpreter, asked without one and after some.

    python benchmarks/rest.py [--folder .] [--times 200]

A server with little to do waits most of the time, and processors and disks that have waited are slower: the
caches belong to others meanwhile, and whoever serves a virtual machine's disk sleeps. For each pause
(milliseconds) this prints the median and the 99th percentile, in microseconds, of ``fdatasync`` after two
pages were written over, as a commit of the store does it, and of some work in Python. One JSON object.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from email.parser import Parser
from json.encoder import JSONEncoder
from pathlib import Path
from typing import Any

PAUSES_MS = (0, 1, 2, 5, 10, 20)
PAGES = 8 * 1024
FILE_LEN = 8 * 1024 * 1024
MAIL = (
    "From: a@example.org\nTo: b@example.org\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\nhi\n--x--\n"
)


def compute() -> None:
    """Python code of some width: what it touches must come from the caches."""
    Parser().parsestr(MAIL)
    list(JSONEncoder(indent=1).iterencode({"a": [1, 2, {"b": "c"}] * 3}))


def after_pauses(act: Callable[[], None], prepare: Callable[[], None], times: int) -> dict[str, Any]:
    """Microseconds of ``act`` by the pause before it, which ends with ``prepare``."""
    found: dict[str, Any] = {}
    for pause in PAUSES_MS:
        took: list[float] = []
        for _ in range(times):
            if pause:
                time.sleep(pause / 1e3)
            prepare()
            begun = time.perf_counter()
            act()
            took.append((time.perf_counter() - begun) * 1e6)
        took.sort()
        found[str(pause)] = {"p50": round(took[times // 2], 1), "p99": round(took[times * 99 // 100], 1)}
    return found


def of_the_disk(folder: Path, times: int) -> dict[str, Any]:
    """``fdatasync`` of what has just been written over.

    Raises:
        OSError: nothing can be written there.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        descriptor = file.fileno()
        os.pwrite(descriptor, bytes(FILE_LEN), 0)
        os.fsync(descriptor)
        places = itertools.cycle(range(0, FILE_LEN, PAGES))

        def write() -> None:
            os.pwrite(descriptor, os.urandom(PAGES), next(places))

        return after_pauses(lambda: os.fdatasync(descriptor), write, times)


def main() -> int:
    parser = argparse.ArgumentParser(description="What a pause costs on this machine.")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to be measured")
    parser.add_argument("--times", type=int, default=200, help="for each pause")
    options = parser.parse_args()
    if options.times < 1:
        parser.error("--times must be at least 1")
    try:
        disk = of_the_disk(options.folder, options.times)
    except OSError as exc:
        print(f"error: cannot write in {options.folder}: {exc.strerror}", file=sys.stderr)
        return 1
    python = after_pauses(compute, lambda: None, options.times)
    print(json.dumps({"fdatasync_us": disk, "python_us": python}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
