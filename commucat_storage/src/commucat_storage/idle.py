"""The moment in which an event loop has nothing else to do."""

import trio
from trio.testing import wait_all_tasks_blocked

MOST_GATHERED = 64
"""How many that wait for each other go at once: of more, the first would wait long for the last."""


async def until_idle(deadline: float) -> None:
    """Return when no task can run and nothing has come from outside, or at ``deadline`` (Trio's clock).

    Whoever waits so for company loses no time: it comes as long as others are being served, and when nobody
    is, nobody is waited for. Tasks that wait for a thread count as waiting. The loop only looks at its
    sockets meanwhile and does not sleep, which to :class:`commucat_storage.sqlite.turns.Turns` is a busy one.
    """
    with trio.move_on_at(deadline):
        await wait_all_tasks_blocked()
