"""Settings that all tests share, and the database servers that they start at most once."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from databases.postgres_cluster import PostgresCluster, private_cluster
from databases.postgres_databases import PostgresDatabases, databases_at, databases_of
from databases.redis_server import RedisServer, private_redis, redis_for_tests

LONGEST = (
    "test_chaos.py",
    "test_chaos_damaged.py",
    "test_kill.py",
    "test_chaos_domains.py",
    "test_federation_faults.py",
    "test_federation.py",
    "test_bench.py",
    "test_operating_guide.py",
    "test_rest_document.py",
    "test_storage_model.py",
    "test_moving_model.py",
    "test_hostile_requests.py",
    "test_quickstart.py",
    "test_page_commands.py",
    "test_moving.py",
    "test_workers.py",
    "test_nodes.py",
    "test_ledger.py",
    "test_client_commands.py",
    "test_friends_and_files.py",
    "test_demo.py",
    "test_operator_moving.py",
    "test_faults.py",
    "test_chaos_services.py",
    "test_operator_postgres.py",
    "test_postgres_start.py",
)
"""Files of few and long tests. They come first, so that at the end no process is alone with one of them."""

# No time limit per example: the machines that run this are small and shared.
settings.register_profile("commucat", deadline=None)
settings.load_profile("commucat")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


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
