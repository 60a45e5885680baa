"""Chaos runs in which the services beside the server fail, too."""

import json
import secrets
import signal
from pathlib import Path

import pytest
import trio

from cli.chaos_builders import chaos
from commucat_cli.chaos import (
    ServiceFault,
    ServiceFaults,
    Setup,
    make_plan,
    run_chaos,
    service_faults,
)
from commucat_cli.chaos.services import scheduled
from commucat_cli.chaos.victim import Victim
from commucat_storage.postgres import cut_connections
from databases.postgres_cluster import PostgresCluster
from databases.redis_server import RedisServer

AWAY = 2.0
"""Seconds for which Redis stands still: longer than nodes wait for an answer."""


async def nothing() -> None:
    pass


# -- the plan -------------------------------------------------------------------------------------


def test_faults_of_services_come_at_moments_that_the_seed_gives() -> None:
    faults = [ServiceFault(str(number), nothing) for number in range(20)]

    def drawn(seed: int) -> list[tuple[int, ServiceFault]]:
        return scheduled(faults, seed=seed, service="redis", messages=1000)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    moments = [after for after, _ in drawn(1)]
    assert moments == sorted(moments)
    assert (min(moments) >= 1, max(moments) <= 950) == (True, True)
    assert sorted(fault.name for _, fault in drawn(1)) == sorted(fault.name for fault in faults)


def test_there_are_as_many_faults_as_asked_for() -> None:
    setup = Setup(dsns=("postgresql:///x",), redis_url="redis://h")
    faults = service_faults(setup, 3, 5)
    assert [fault.name for fault in faults.database] == ["database cut"] * 3
    assert [fault.name for fault in faults.redis] == ["redis emptied", "redis cut"] * 2 + ["redis emptied"]


async def test_the_databases_of_all_domains_are_struck_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    struck: list[str] = []

    async def cut(dsn: str) -> int:
        struck.append(dsn)
        return 1

    monkeypatch.setattr("commucat_storage.postgres.cut_connections", cut)
    faults = service_faults(Setup(dsns=("one", "two"), domains=2), 3, 0)
    for fault in faults.database:
        await fault.strike()
    assert struck == ["one", "two", "one"]


def test_every_server_is_told_the_database_of_its_own_domain(tmp_path: Path) -> None:
    setup = Setup(dsns=("postgresql:///x", "postgresql:///y"), domains=2)
    Victim(tmp_path / "two", setup, place=1)
    assert 'postgres_dsn = "postgresql:///y"\n' in (tmp_path / "two" / "commucat.toml").read_text("utf-8")


def test_every_node_is_told_its_services(tmp_path: Path) -> None:
    Victim(tmp_path / "one", Setup(dsns=("postgresql:///x",), redis_url="redis://h", nodes=1))
    text = (tmp_path / "one" / "commucat.toml").read_text("utf-8")
    assert '[storage]\npostgres_dsn = "postgresql:///x"\nredis_url = "redis://h"\n' in text


# -- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "text"), [("--database-faults", "add --dsn URL"), ("--redis-faults", "add --redis URL")]
)
def test_a_service_that_is_struck_must_be_named(tmp_path: Path, option: str, text: str) -> None:
    result = chaos(tmp_path, option, "1")
    assert result.returncode == 2
    assert text in result.stderr


def test_redis_of_somebody_else_is_not_emptied(tmp_path: Path, redis_server: RedisServer) -> None:
    redis_server.run("SET", "precious", "1", db=2)
    result = chaos(tmp_path, "--redis", redis_server.url(), "--redis-faults", "1")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "the server is not empty" in line
    assert redis_server.run("GET", "precious", db=2) == "1"


def test_redis_that_is_away_is_told_in_one_line(tmp_path: Path, redis_server: RedisServer) -> None:
    redis_server.stop()
    result = chaos(tmp_path, "--redis", redis_server.url(), "--redis-faults", "1")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "cannot be reached" in line


def test_the_promise_holds_beside_a_redis_that_fails(tmp_path: Path, redis_server: RedisServer) -> None:
    size = ("--devices", "4", "--messages", "300", "--kills", "1", "--duration-limit", "200", "--runs", "2")
    result = chaos(tmp_path, *size, "--redis", redis_server.url(), "--redis-faults", "3", "--json")

    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads(result.stdout)
    assert figures["holds"]
    # Of both runs.
    assert figures["service_faults"] == {"redis emptied": 4, "redis cut": 2}
    assert figures["full_disks"] == 2
    assert redis_server.run("INFO", "keyspace") == "# Keyspace"


async def test_the_promise_holds_on_three_nodes_whose_database_and_redis_fail(
    postgres_cluster: PostgresCluster, redis_server: RedisServer
) -> None:
    """Everything that can happen to the services, also what only their owner can do.

    The seed is drawn anew every time and stands in the output: that is what a failure is repeated with.
    """
    dsn = postgres_cluster.dsn(postgres_cluster.new_database())
    setup = Setup(dsns=(dsn,), nodes=3, redis_url=redis_server.url())
    plan = make_plan(seed=secrets.randbelow(2**32), devices=6, messages=600, kills=2)

    async def restart_database() -> None:
        await trio.to_thread.run_sync(postgres_cluster.restart)

    async def crash_database() -> None:
        await trio.to_thread.run_sync(postgres_cluster.restart, signal.SIGQUIT)

    async def kill_redis() -> None:
        await trio.to_thread.run_sync(redis_server.restart, signal.SIGKILL)

    async def stop_redis() -> None:
        redis_server.pause()
        await trio.sleep(AWAY)  # how long the fault lasts; nothing is waited for
        redis_server.resume()

    async def cut_database() -> None:
        cut.append(await cut_connections(dsn))

    cut: list[int] = []
    usual = service_faults(setup, 0, 2)
    faults = ServiceFaults(
        database=(
            *(ServiceFault("database cut", cut_database),) * 4,
            ServiceFault("database restarted", restart_database),
            ServiceFault("database crashed", crash_database),
        ),
        redis=(
            *usual.redis,
            ServiceFault("redis killed", kill_redis),
            ServiceFault("redis stopped", stop_redis),
        ),
    )
    result = await run_chaos(plan, kills=2, duration_limit=200, setup=setup, services=faults)

    print(json.dumps(result.figures))
    assert result.holds
    figures = result.figures
    assert (figures["nodes"], figures["kills"], figures["lost"]) == (3, 2, 0)
    assert figures["service_faults"] == {
        "database cut": 4,
        "database restarted": 1,
        "database crashed": 1,
        "redis emptied": 1,
        "redis cut": 1,
        "redis killed": 1,
        "redis stopped": 1,
    }
    assert figures["delivered"] > 0
    assert sum(cut) > 0
