"""What a person sees who starts the server wrongly: one line that says what to do, never a traceback."""

import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from end_to_end.prepared_commands import fresh_interpreters
from end_to_end.server_process import ServerProcess, run, server_process


@pytest.fixture(autouse=True)
def from_the_very_start() -> Iterator[None]:
    with fresh_interpreters():
        yield


def refused(home: Path, *arguments: str, code: int = 1) -> str:
    """Start with these arguments; the one line that it fails with."""
    result = run(["commucat-server", "--bind", "127.0.0.1:0", *arguments], home)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def stopped_server(home: Path) -> ServerProcess:
    """A data directory that a server has used and left in order."""
    with server_process(home) as server:
        assert server.stop() == 0
    return server


def test_nothing_is_needed_and_everything_is_generated(tmp_path: Path) -> None:
    with server_process(tmp_path) as server:
        assert server.ca_file.exists()
        assert server.database.exists()
        assert (server.data_dir.stat().st_mode & 0o777) == 0o700
        assert (server.data_dir / "tls" / "key.pem").stat().st_mode & 0o077 == 0
        assert (server.data_dir / "keys" / "federation.seed").stat().st_mode & 0o077 == 0
        assert server.stop() == 0


def test_busy_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refused(tmp_path, "--data-dir", "data", "--bind", address)

    assert address in line
    assert "in use" in line
    assert "--bind" in line


def test_data_directory_in_use_by_another_server_is_named(tmp_path: Path) -> None:
    with server_process(tmp_path) as server:
        line = refused(tmp_path, "--data-dir", str(server.data_dir))

        assert f"pid {server.pid}" in line
        assert server.running


@pytest.mark.parametrize("place", ["file/below", "/proc/commucat"])
def test_unwritable_data_directory_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")

    assert place in refused(tmp_path, "--data-dir", place)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--bind", "nonsense"),
        ("--bind", "127.0.0.1:99999"),
        ("--workers", "0"),
        ("--workers", "2"),
    ],
)
def test_a_flag_that_cannot_be_used_is_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert arguments[0] in refused(tmp_path, *arguments, code=2)
    assert list(tmp_path.iterdir()) == []


def test_workers_of_the_configuration_need_postgresql_as_well(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text("[server]\nworkers = 2\n")

    assert "leave server.workers out" in refused(tmp_path, "--config", "two.toml")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server\n", "line 1"),
        ("[server]\ndomain = 'exa", "not valid TOML"),
        ("[server]\nbnd = 'x:1'\n", "bind"),
        ("[servr]\n", "server"),
        ("[server]\nkeepalive = 'soon'\n", "keepalive"),
        ("[server]\nworkers = 0\n", "workers"),
        ("[storage]\nredis_url = 'x:6379'\n", "must look like redis://"),
        ("[storage]\npostgres_dsn = 'host=x'\n", "must look like postgresql://"),
        ("[federation]\npeers = ''\n", "federation.peers: is empty"),
    ],
)
def test_bad_configuration_is_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "bad.toml").write_text(text)

    line = refused(tmp_path, "--config", "bad.toml", "--data-dir", "data")

    assert "bad.toml" in line
    assert named in line
    assert not (tmp_path / "data").exists()


def test_missing_configuration_is_named(tmp_path: Path) -> None:
    assert "absent.toml" in refused(tmp_path, "--config", "absent.toml")


def test_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    result = run(["commucat-server", "--colour", "blue"], tmp_path)

    assert result.returncode == 2
    assert "--colour" in result.stderr


@pytest.mark.parametrize("damage", ["garbage", "truncated", "newer", "edited"])
def test_database_that_cannot_be_used_is_named(tmp_path: Path, damage: str) -> None:
    server = stopped_server(tmp_path)
    database = server.database
    if damage == "garbage":
        database.write_bytes(b"this is no database" * 500)
    elif damage == "truncated":
        database.write_bytes(database.read_bytes()[:5000])
    else:
        change = {
            "newer": "INSERT INTO schema_migration SELECT 9999, 'x', checksum, applied_at "
            "FROM schema_migration WHERE version = 1",
            "edited": "UPDATE schema_migration SET checksum = zeroblob(32)",
        }[damage]
        with sqlite3.connect(database) as connection:
            connection.execute(change)
        connection.close()
    before = database.read_bytes()

    line = refused(tmp_path, "--data-dir", str(server.data_dir))

    assert "commucat.db" in line
    assert database.read_bytes() == before


def test_half_a_key_pair_is_named_and_not_replaced(tmp_path: Path) -> None:
    server = stopped_server(tmp_path)
    (server.data_dir / "tls" / "key.pem").unlink()
    certificate = server.ca_file.read_bytes()

    line = refused(tmp_path, "--data-dir", str(server.data_dir))

    assert "key.pem" in line
    assert server.ca_file.read_bytes() == certificate


def test_restart_keeps_every_identity(tmp_path: Path) -> None:
    with server_process(tmp_path) as server:
        files = [server.ca_file, server.data_dir / "keys" / "federation.seed"]
        before = [file.read_bytes() for file in files]
        server.kill()
        server.start()

        assert [file.read_bytes() for file in files] == before
        assert server.stop() == 0


def test_configuration_file_closes_registration(tmp_path: Path) -> None:
    with server_process(tmp_path, config="[server]\ndomain = 'localhost'\n") as server:
        login = ["commucat-cli", "login", "--server", server.url, "--handle", "eve", "--profile", "eve"]
        result = run([*login, "--tls-ca", str(server.ca_file)], tmp_path)

    assert result.returncode == 1
    assert "code" in result.stderr


def test_a_server_loads_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """Each of these is installed here, for tests or for another store, and takes long to import."""
    with server_process(tmp_path, prefix=("env", "PYTHONPROFILEIMPORTTIME=1")) as server:
        assert server.stop() == 0
        imported = {line.rpartition("|")[2].strip() for line in server.log.read_text().splitlines()}
    assert {"litestar", "commucat_storage.sqlite"} <= imported
    unused = {"pydantic", "opentelemetry.sdk", "asyncpg", "redis", "typer", "matplotlib"}
    assert imported.isdisjoint(unused)
