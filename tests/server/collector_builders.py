"""What is alive while the garbage collector does not run."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def no_collector(*kinds: type[object]) -> Iterator[Callable[[], int]]:
    """Objects in cycles stay; what is yielded counts those of these very classes that were made since."""
    gc.collect()
    gc.disable()
    # Kept alive, so that no new object can have the address of one of them.
    before = [each for each in gc.get_objects() if type(each) in kinds]
    known = set(map(id, before))
    try:
        yield lambda: sum(type(each) in kinds and id(each) not in known for each in gc.get_objects())
    finally:
        before.clear()
        gc.enable()
