"""migrate, register-user and diagnose on PostgreSQL, and a server that cannot use it."""

from pathlib import Path

import pytest

from databases.postgres_cluster import PostgresCluster, run_sql
from databases.postgres_databases import PostgresDatabases
from end_to_end.server_process import run, server_process


@pytest.fixture
def dsn(postgres_databases: PostgresDatabases) -> str:
    return postgres_databases.empty()


def configure(home: Path, dsn: str) -> str:
    text = f'[server]\nauto_approve_devices = false\n[storage]\npostgres_dsn = "{dsn}"\n'
    (home / "commucat.toml").write_text(text)
    return text


def test_migrate_register_and_diagnose_work_on_the_database(tmp_path: Path, dsn: str) -> None:
    config = configure(tmp_path, dsn)
    options = ["--config", "commucat.toml", "--data-dir", "data"]

    before = run(["commucat-cli", "diagnose", *options], tmp_path)
    migrated = run(["commucat-cli", "migrate", *options], tmp_path)
    again = run(["commucat-cli", "migrate", *options], tmp_path)

    assert "migrations pending" in before.stdout
    assert migrated.returncode == 0, migrated.stderr
    assert migrated.stdout.startswith("applied=initial\n")
    assert again.stdout == migrated.stdout.splitlines()[-1] + "\n"
    assert not (tmp_path / "data" / "commucat.db").exists()
    with server_process(tmp_path, config) as server:
        registered = run(["commucat-cli", "register-user", "tom", *options], tmp_path)
        assert registered.returncode == 0, registered.stderr
        code = dict(line.split("=", 1) for line in registered.stdout.splitlines())["code"]
        login = ["commucat-cli", "login", "--server", server.url, "--handle", "tom", "--profile", "tom"]
        done = run([*login, "--code", code, "--tls-ca", str(server.ca_file)], tmp_path)
        assert done.returncode == 0, done.stderr
        rotated = run(["commucat-cli", "secrets", "rotate", "noise", *options], tmp_path)
        assert rotated.returncode == 0, rotated.stderr
        queue = run(["commucat-cli", "queue", "show", *options], tmp_path)
        assert " handle=tom status=active waiting=0 " in queue.stdout
        found = run(["commucat-cli", "diagnose", *options, "--bind", f"127.0.0.1:{server.port}"], tmp_path)
        assert server.stop() == 0
    assert "PostgreSQL at" in found.stdout
    assert "a commit took" in found.stdout
    assert "2 accepted, version 2" in found.stdout
    assert found.returncode == 0, found.stdout
    assert run_sql(dsn, "SELECT handle, domain FROM users") == "tom|localhost"


@pytest.mark.parametrize("command", [["migrate"], ["register-user", "tom"]])
def test_a_database_that_is_away_is_told_in_one_line(tmp_path: Path, command: list[str]) -> None:
    configure(tmp_path, "postgresql://me:hunter2@127.0.0.1:1/cats")

    done = run(["commucat-cli", *command, "--config", "commucat.toml", "--data-dir", "data"], tmp_path)

    assert done.returncode == 1
    assert "PostgreSQL at 127.0.0.1:1, database cats: cannot be reached" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_without_its_database_ends_with_one_line(tmp_path: Path) -> None:
    configure(tmp_path, "postgresql://me:hunter2@127.0.0.1:1/cats")

    done = run(["commucat-server", "--config", "commucat.toml", "--data-dir", "data"], tmp_path)

    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot be reached" in line
    assert "hunter2" not in done.stderr + done.stdout


def test_a_server_with_a_wrong_password_or_database_ends_with_one_line(
    tmp_path: Path, postgres_cluster: PostgresCluster
) -> None:
    postgres_cluster.sql("DROP ROLE IF EXISTS forgetful")
    postgres_cluster.sql("CREATE ROLE forgetful LOGIN PASSWORD 'right'")
    for dsn, told in (
        (postgres_cluster.tcp_dsn("postgres", "forgetful", "hunter2"), "refuses the user or its password"),
        (postgres_cluster.tcp_dsn("absent", "forgetful", "right"), "there is no such database"),
    ):
        configure(tmp_path, dsn)

        done = run(["commucat-server", "--config", "commucat.toml", "--data-dir", "data"], tmp_path)

        assert done.returncode == 1
        [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert told in line
        assert "hunter2" not in done.stderr + done.stdout
        assert "Traceback" not in done.stderr


def test_two_servers_of_two_domains_do_not_share_a_database(tmp_path: Path, dsn: str) -> None:
    config = configure(tmp_path, dsn)
    with server_process(tmp_path, config):
        other = tmp_path / "other"
        other.mkdir()
        (other / "commucat.toml").write_text(config.replace("[server]", '[server]\ndomain = "b.example"'))
        done = run(["commucat-server", "--config", "commucat.toml", "--data-dir", "data"], other)

    assert done.returncode == 1
    assert "belongs to the server of the domain" in done.stderr
