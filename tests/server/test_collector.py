"""What the garbage collector of a server process is set to, looked at in a process of its own."""

import subprocess
import sys

PROGRAM = """
import gc
from commucat_server.ops.collector import FIRST_GENERATION, settle_collector

class Knot:
    def __init__(self):
        self.me = self

built = [Knot() for _ in range(1000)]
settle_collector()
assert gc.get_freeze_count() > 1000
assert not any(isinstance(each, Knot) for each in gc.get_objects())
assert gc.get_threshold()[0] == FIRST_GENERATION

import weakref
freed = weakref.ref(Knot())
kept = []
while freed() is not None:
    kept.append([])
    assert len(kept) <= FIRST_GENERATION + 100, "a cycle made later is not found"
print("settled")
"""


def test_the_start_is_set_aside_and_later_cycles_are_still_found() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("settled\n", "")
