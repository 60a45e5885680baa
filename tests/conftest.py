"""Settings that all tests share, and the database servers that they start at most once."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from databases.postgres_cluster import PostgresCluster, private_cluster
from databases.postgres_databases import PostgresDatabases, databases_at, databases_of
from databases.redis_server import RedisServer, private_redis, redis_for_tests

# No time limit per example: the machines that run this are small and shared.
settings.register_profile("commucat", deadline=None)
settings.load_profile("commucat")


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresCluster]:
    """The private server; a test may stop it if it starts it again."""
    with private_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres_databases(request: pytest.FixtureRequest) -> Iterator[PostgresDatabases]:
    existing = os.environ.get("COMMUCAT_TEST_PG_DSN")
    if existing:
        with databases_at(existing) as databases:
            yield databases
    else:
        with databases_of(request.getfixturevalue("postgres_cluster")) as databases:
            yield databases


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A database that a test may fill, and that is not emptied between tests: names have to differ."""
    with redis_for_tests() as url:
        yield url


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A private server for one test, which may do with it what it likes."""
    with private_redis() as server:
        yield server
