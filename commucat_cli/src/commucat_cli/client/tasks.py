"""Small patterns of running things at once, with plain exceptions instead of groups."""

from collections.abc import Awaitable, Callable

import trio

Work = Callable[[], Awaitable[None]]


async def race(*works: Work) -> None:
    """Run all at once until the first returns or fails; the others are cancelled.

    The first exception comes out as it is, not inside a group.
    """
    failures: list[Exception] = []

    async def run(work: Work, scope: trio.CancelScope) -> None:
        try:
            await work()
        except Exception as exc:  # noqa: BLE001 - the first one is raised below
            failures.append(exc)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(run, work, nursery.cancel_scope)
    if failures:
        raise failures[0]


async def finish_within(grace: float, work: Work) -> None:
    """Run ``work`` to its end; a cancellation from outside leaves it ``grace`` seconds more."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        with trio.CancelScope(shield=True) as scope:

            async def watch() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    scope.deadline = trio.current_time() + grace

            nursery.start_soon(watch)
            try:
                await work()
            except Exception as exc:  # noqa: BLE001 - raised below, outside of the nursery's group
                failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
