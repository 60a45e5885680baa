"""Changes that are told once they are stored, also when whoever asked for them is gone by then."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from commucat_storage import CommitFailedError

TIMEOUT: Final = 30.0
"""Seconds for storing a change and telling of it, also when its caller is cancelled."""

T = TypeVar("T")


async def finished(work: Callable[[], Awaitable[T]]) -> T:
    """Store and tell: no cancellation comes between the two.

    Raises:
        CommitFailedError: the store does not answer; perhaps it is stored.
    """
    with trio.move_on_after(TIMEOUT, shield=True):
        return await work()
    raise CommitFailedError("the store does not answer")
