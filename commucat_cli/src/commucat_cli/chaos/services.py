"""What happens to the services beside the server: its database and its Redis."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle, islice

import attrs
import trio

from commucat_cli.chaos.plan import moments, stream_of
from commucat_cli.chaos.victim import Setup
from commucat_cli.errors import CliError
from commucat_storage import StorageError


@attrs.frozen
class ServiceFault:
    """Something that happens to a service while clients talk."""

    name: str
    """As the result counts it."""
    strike: Callable[[], Awaitable[object]]
    """Returns when the service can be reached again."""


@attrs.frozen(kw_only=True)
class ServiceFaults:
    """Everything that happens to services in a run.

    No node is killed while the database is struck, as one that starts needs it; the rest may meet.
    """

    database: tuple[ServiceFault, ...] = ()
    redis: tuple[ServiceFault, ...] = ()


def service_faults(setup: Setup, database: int, redis: int) -> ServiceFaults:
    """So many faults that a client of these services can bring about.

    The nodes' connections to the database, of each domain's in turn, are ended; Redis is emptied, and its
    clients' connections are ended, in turn.
    """
    cuts: tuple[ServiceFault, ...] = ()
    turns: tuple[ServiceFault, ...] = ()
    redis_url = setup.redis_url
    # Only now: it changes how asyncio works.
    if setup.dsns and database:
        from commucat_storage.postgres import cut_connections

        of_each = [ServiceFault("database cut", partial(cut_connections, dsn)) for dsn in setup.dsns]
        cuts = tuple(islice(cycle(of_each), database))
    if redis_url is not None and redis:
        from commucat_storage.redis import cut_redis_clients, empty_redis

        kinds = (
            ServiceFault("redis emptied", lambda: empty_redis(redis_url)),
            ServiceFault("redis cut", lambda: cut_redis_clients(redis_url)),
        )
        turns = tuple(islice(cycle(kinds), redis))
    return ServiceFaults(database=cuts, redis=turns)


@asynccontextmanager
async def empty_redis_for_a_run(url: str) -> AsyncIterator[None]:
    """See that nobody loses anything when Redis is emptied, and leave nothing of the run behind.

    Raises:
        CliError: it holds something, or cannot be asked.
    """
    from commucat_storage.redis import empty_redis, place_of, redis_is_empty

    try:
        if not await redis_is_empty(url):
            raise CliError(f"{place_of(url)}: the server is not empty, and would be emptied")
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):  # each step of it has a deadline
                await empty_redis(url)
    except StorageError as exc:
        raise CliError(str(exc)) from exc


def scheduled(
    faults: Sequence[ServiceFault], *, seed: int, service: str, messages: int
) -> list[tuple[int, ServiceFault]]:
    """When each strikes, in that order: as soon as so many messages are finished."""
    # Shuffled, as those of one kind stand together.
    chance = stream_of(seed, service)
    order = chance.sample(faults, len(faults))
    return list(zip(sorted(moments(chance, messages, len(faults))), order, strict=True))
