"""What trials do to the database and to Redis hits servers, and nobody else."""

from urllib.parse import urlsplit, urlunsplit

import pytest
import trio

from commucat_storage import StorageError
from commucat_storage.postgres import cut_connections, open_postgres
from commucat_storage.redis import cut_redis_clients, empty_redis, redis_is_empty
from databases.postgres_databases import PostgresDatabases
from databases.redis_server import RedisServer
from storage.redis_builders import DEADLINE, Told, node, quick
from storage.storage_builders import add_devices


async def test_the_connections_to_one_database_are_cut(postgres_databases: PostgresDatabases) -> None:
    one, other = postgres_databases.empty(), postgres_databases.empty()
    async with open_postgres(one) as storage:
        await add_devices(storage, "alice")
        assert await cut_connections(other) == 0
        assert await cut_connections(one) > 0
        with trio.fail_after(DEADLINE):
            # The database is told to end them, and takes its time.
            while await cut_connections(one):
                await trio.lowlevel.checkpoint()
        await add_devices(storage, "bob")


async def test_a_database_that_is_not_there_is_told(postgres_databases: PostgresDatabases) -> None:
    parts = urlsplit(postgres_databases.empty())
    absent = urlunsplit(parts._replace(path="/absent_database"))
    with pytest.raises(StorageError, match="absent_database"):
        await cut_connections(absent)


async def test_redis_is_emptied_in_all_databases(redis_server: RedisServer) -> None:
    assert await redis_is_empty(redis_server.url())
    redis_server.run("SET", "a", "1", db=3)
    assert not await redis_is_empty(redis_server.url())
    await empty_redis(redis_server.url())
    assert await redis_is_empty(redis_server.url())


async def test_a_server_connects_again_after_its_connections_to_redis_were_cut(
    redis_server: RedisServer,
) -> None:
    told = Told()
    async with node(redis_server.url(), told=told, settings=quick()) as redis:
        before = redis.counters.connections
        assert await cut_redis_clients(redis_server.url()) >= 1
        with trio.fail_after(DEADLINE):
            while redis.counters.connections == before:
                await trio.lowlevel.checkpoint()


async def test_redis_that_cannot_be_struck_is_told_in_one_line(redis_server: RedisServer) -> None:
    redis_server.stop()
    for act in (redis_is_empty, empty_redis, cut_redis_clients):
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            await act(redis_server.url())
        assert "\n" not in str(caught.value)
