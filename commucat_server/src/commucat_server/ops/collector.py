"""The process's garbage collector, set for a server that holds much and throws away little in cycles.

It looks for cycles by walking through objects while everybody waits. What was imported and built at the
start stays for ever and need not be walked through again: 86,000 objects, 60 ms and more for each full
collection. And frames, batches and rows are freed without it, so it may look less often than after 700 of
them. But a connection that ends leaves a hundred objects in cycles, and everybody waits while they are freed:
6 to 8 ms for 10,000, more than anything else in a burst of connects takes at a time.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

FIRST_GENERATION = 2_000
"""Objects made and not yet freed before the youngest are looked through. What a connection leaves in cycles
comes back after some hundred connections at the latest."""
SECOND_GENERATION = 10
THIRD_GENERATION = 50


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Around imports: what they make is kept, and would be walked through again and again while it grows."""
    gc.disable()
    try:
        yield
    finally:
        # Set aside unseen, until there is time to look for the little that was thrown away.
        gc.freeze()
        gc.enable()


def settle_collector() -> None:
    """Set it for the rest of the process; to be called once, when the server is up."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(FIRST_GENERATION, SECOND_GENERATION, THIRD_GENERATION)
