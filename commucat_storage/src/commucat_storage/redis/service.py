"""Opens everything that a server has of Redis, and takes it down again."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from commucat_storage.asyncio_loop import open_loop
from commucat_storage.buckets import Buckets
from commucat_storage.bus import BusCounters, HintInlet, NodeBus
from commucat_storage.errors import StorageUnavailableError
from commucat_storage.redis.address import EXAMPLE, AddressError, RedisAddress
from commucat_storage.redis.asks import Asks
from commucat_storage.redis.bus import RedisBus
from commucat_storage.redis.health import Health, Tell
from commucat_storage.redis.link import LINK, Link
from commucat_storage.redis.outbox import HintOutbox
from commucat_storage.redis.pairing import RedisPairing
from commucat_storage.redis.rates import RedisBuckets
from commucat_storage.redis.sessions import SessionTable
from commucat_storage.redis.settings import RedisSettings
from commucat_storage.redis.subscriber import Subscriber
from commucat_storage.redis.trouble import TroubleError

_DEFAULT_SETTINGS = RedisSettings()


@attrs.frozen(kw_only=True)
class Redis:
    """What a server has of Redis. Nothing of it raises when Redis is away."""

    bus: NodeBus
    buckets: Buckets
    pairing: RedisPairing
    counters: BusCounters


def place_of(url: str) -> str:
    """Host and database of a URL, without user and password.

    Raises:
        StorageUnavailableError: the URL cannot be used.
    """
    return address_of(url).place


def address_of(url: str) -> RedisAddress:
    """What a URL says. Raises as :func:`place_of`."""
    try:
        return RedisAddress.parse(url)
    except AddressError as exc:
        raise StorageUnavailableError(f"the address of Redis {exc}; it looks like {EXAMPLE}") from exc


@asynccontextmanager
async def open_redis(
    url: str,
    *,
    node: str,
    tell: Tell,
    settings: RedisSettings = _DEFAULT_SETTINGS,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Redis]:
    """Use Redis while the block lasts.

    Once it is open, whatever happens to Redis is told to ``tell`` and mended here. So is a server that
    cannot be reached at the start: only what a change of the configuration can mend ends the start.

    Args:
        node: the name of this node, see :class:`NodeBus`.
        clock: the time of day in seconds, for lifetimes that others read.

    Raises:
        StorageUnavailableError: the URL, the user, the password, the database or the certificate is wrong.
    """
    address = address_of(url)
    try:
        address.check_files()
    except AddressError as exc:
        raise StorageUnavailableError(f"the address of Redis {exc}") from exc
    health, inlet = Health(tell), HintInlet()
    async with open_loop() as loop:
        link = Link(loop, address, settings, health, name=f"commucat-{node}")
        subscriber = Subscriber(
            loop, address, settings, health, inlet, link, node=node, name=f"commucat-{node}-hints"
        )
        asks = Asks(link, health)
        sessions = SessionTable(
            link, node=node, ttl=settings.presence_ttl, interval=settings.refresh_interval, clock=clock
        )
        outbox = HintOutbox(link, health, address.db)
        link.serve((asks, sessions, outbox))
        try:
            await link.connect()
        except TroubleError as trouble:
            if trouble.lasting:
                raise StorageUnavailableError(str(trouble)) from trouble
            health.failed(LINK, trouble)
        bus = RedisBus(
            node,
            sessions=sessions,
            outbox=outbox,
            inlet=inlet,
            asks=asks,
            health=health,
            seconds=settings.answer_timeout,
        )
        pairing = RedisPairing(asks, seconds=settings.answer_timeout, clock=clock)
        buckets = RedisBuckets(asks, seconds=settings.decision_timeout)
        async with _running(link, subscriber):
            yield Redis(bus=bus, buckets=buckets, pairing=pairing, counters=health.counters)
            health.close()
            sessions.forget_all()
            with trio.move_on_after(settings.close_timeout):
                await link.finish()


@asynccontextmanager
async def _running(link: Link, subscriber: Subscriber) -> AsyncIterator[None]:
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            nursery.start_soon(subscriber.run)
            try:
                yield
            finally:
                # What is in the middle of a conversation is not cancelled: its connection goes away.
                subscriber.abort()
                link.abort()
                nursery.cancel_scope.cancel()
    finally:
        # Connections that were being made just then.
        subscriber.abort()
        link.abort()
