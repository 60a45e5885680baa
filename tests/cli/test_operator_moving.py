"""backup, restore and transfer as an operator types them: what they print, refuse and leave behind."""

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cli.operator_builders import Operator, operator_in
from databases.postgres_cluster import run_sql
from databases.postgres_databases import PostgresDatabases
from end_to_end.server_process import BIN, clean_environment, run, server_process


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    found = operator_in(tmp_path, monkeypatch)
    found.values("register-user", "tom")
    return found


def error_of(result: tuple[int, str, str], status: int = 1) -> str:
    """The one line of a command that failed."""
    code, out, err = result
    assert (code, out) == (status, ""), err
    [line] = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: ")
    return line


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_server_is_restored_from_its_backup(tmp_path: Path) -> None:
    with server_process(tmp_path) as server:
        registered = run(["commucat-cli", "register-user", "tom", "--data-dir", "data"], tmp_path)
        assert registered.returncode == 0
        # Beside the running server.
        done = run(["commucat-cli", "backup", "copy", "--data-dir", "data"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert server.stop() == 0
    printed = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert printed["backup"] == "copy"
    assert int(printed["rows"]) >= 3
    assert len(printed["digest"]) == 64

    restored = run(["commucat-cli", "restore", "copy", "--data-dir", "other"], tmp_path)

    assert restored.returncode == 0, restored.stderr
    assert "revoke again what was revoked since" in restored.stderr
    assert "left out: 1 rows of enrolment_code" in restored.stderr
    for name in ("keys/federation.seed", "tls/cert.pem", "tls/key.pem", "ledger.jsonl"):
        copied, original = tmp_path / "other" / name, tmp_path / "data" / name
        assert original.read_bytes().startswith(copied.read_bytes())
        assert copied.stat().st_mode & 0o777 == (0o644 if name.endswith("cert.pem") else 0o600)
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o700
    home = tmp_path / "again"
    home.mkdir()
    (tmp_path / "other").rename(home / "data")
    with server_process(home) as again:
        found = run(
            ["commucat-cli", "diagnose", "--data-dir", "data", "--bind", f"127.0.0.1:{again.port}"], home
        )
        assert found.returncode == 0, found.stdout
        assert again.stop() == 0


def test_a_backup_never_goes_over_something(operator: Operator) -> None:
    assert operator.on_data("backup", "copy")[0] == 0
    before = files_below(operator.home / "copy")

    assert "holds a backup already" in error_of(operator.on_data("backup", "copy"))
    assert "is not empty already" in error_of(operator.on_data("backup", "data"))
    assert files_below(operator.home / "copy") == before


def test_a_restore_never_goes_over_something(operator: Operator) -> None:
    assert operator.on_data("backup", "copy")[0] == 0
    before = operator.values("migrate")

    assert "is not empty (app_user); move the file away" in error_of(operator.on_data("restore", "copy"))
    assert "is not empty (app_user)" in error_of(operator.on_data("restore", "copy", "--start-over"))
    assert operator.values("migrate") == before


def test_files_of_another_server_are_not_replaced(operator: Operator) -> None:
    (operator.data_dir / "keys").mkdir()
    (operator.data_dir / "keys" / "federation.seed").write_text("ab" * 32)
    assert operator.on_data("backup", "copy")[0] == 0
    other = operator.home / "other"
    (other / "keys").mkdir(parents=True)
    (other / "keys" / "federation.seed").write_text("cd" * 32)

    line = error_of(operator.run("restore", "copy", "--data-dir", "other"))

    assert "federation.seed: exists already, with other content; move it away" in line
    assert (other / "keys" / "federation.seed").read_text() == "cd" * 32
    assert not (other / "commucat.db").exists()


def test_a_damaged_backup_changes_nothing(operator: Operator) -> None:
    assert operator.on_data("backup", "copy")[0] == 0
    file = operator.home / "copy" / "tables" / "app_user.jsonl"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"tom", b"tim"))

    line = error_of(operator.run("restore", "copy", "--data-dir", "other"))

    assert f"{file} is damaged: its digest does not match" in line
    assert not (operator.home / "other").exists()
    file.unlink()
    assert "app_user.jsonl: cannot be read" in error_of(
        operator.run("restore", "copy", "--data-dir", "other")
    )
    assert "is no backup" in error_of(operator.run("restore", "nothing", "--data-dir", "other"))


def test_the_identity_of_the_configuration_must_be_that_of_the_data(operator: Operator) -> None:
    (operator.home / "commucat.toml").write_text(f'[crypto]\nfederation_seed = "{"ab" * 32}"\n')
    code, _, err = operator.on_data("backup", "copy")
    assert code == 0
    assert "not included: crypto.federation_seed; keep the configuration, too" in err
    (operator.home / "commucat.toml").write_text(f'[crypto]\nfederation_seed = "{"cd" * 32}"\n')
    assert "is not that of the server whose data this is" in error_of(
        operator.run("restore", "copy", "--data-dir", "other")
    )
    (operator.home / "commucat.toml").unlink()
    assert "set crypto.federation_seed to the same value" in error_of(
        operator.run("restore", "copy", "--data-dir", "other")
    )


def test_another_domain_is_refused(operator: Operator) -> None:
    assert operator.on_data("backup", "copy")[0] == 0
    (operator.home / "commucat.toml").write_text('[server]\ndomain = "b.example"\n')

    line = error_of(operator.run("restore", "copy", "--data-dir", "other"))

    assert "the data of the domain 'localhost', and the configuration says 'b.example'" in line


def test_nothing_is_moved_under_a_running_server(tmp_path: Path) -> None:
    new = '[storage]\npath = "new.db"\n'
    (tmp_path / "new.toml").write_text(new)
    with server_process(tmp_path) as server:
        moved = run(
            ["commucat-cli", "transfer", "--from", "/dev/null", "--to", "new.toml", "--data-dir", "data"],
            tmp_path,
        )
        assert run(["commucat-cli", "backup", "copy", "--data-dir", "data"], tmp_path).returncode == 0
        restored = run(["commucat-cli", "restore", "copy", "--data-dir", "data"], tmp_path)
        assert server.stop() == 0
    for done in (moved, restored):
        assert done.returncode == 1
        assert "another server uses this data directory" in done.stderr


def test_a_store_that_was_given_up_starts_no_server_until_it_is_taken_back(operator: Operator) -> None:
    (operator.home / "new.toml").write_text('[storage]\npath = "new.db"\n')
    options = ("--from", "/dev/null", "--to", "new.toml")
    values = operator.values("transfer", *options)
    assert values["from"] == str(operator.data_dir / "commucat.db")
    assert values["to"] == str(operator.home / "new.db")
    assert int(values["rows"]) == 2

    started = run(["commucat-server", "--data-dir", "data", "--bind", "127.0.0.1:0"], operator.home)
    assert started.returncode == 1
    assert "was moved to" in started.stderr
    assert "Traceback" not in started.stderr
    assert "was moved to" in error_of(operator.on_data("register-user", "kit"))
    assert "was moved to" in error_of(operator.on_data("transfer", *options))
    assert "was moved to" in error_of(operator.on_data("backup", "copy"))

    code, out, err = operator.on_data("transfer", "--unmark", "/dev/null")
    assert (code, out) == (0, f"usable={operator.data_dir / 'commucat.db'}\n")
    assert "two servers must not live from one identity" in err
    assert operator.on_data("register-user", "kit")[0] == 0
    code, _, err = operator.on_data("transfer", "--unmark", "/dev/null")
    assert code == 0
    assert "was not marked" in err


def test_keys_and_ledger_go_along_to_another_data_directory(tmp_path: Path) -> None:
    with server_process(tmp_path) as server:
        assert server.stop() == 0
    command = ["commucat-cli", "transfer", "--from", "/dev/null", "--to", "/dev/null"]
    done = run([*command, "--data-dir", "data", "--to-data-dir", "other"], tmp_path)
    assert done.returncode == 0, done.stderr
    before, after = files_below(tmp_path / "data"), files_below(tmp_path / "other")
    for name in ("keys/federation.seed", "tls/cert.pem", "tls/key.pem", "ledger.jsonl"):
        assert after[name] == before[name]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "both are needed"),
        (("--from", "a.toml"), "both are needed"),
        (("--unmark", "a.toml", "--to", "b.toml"), "goes without --from and --to"),
        (("--from", "a", "--to", "b", "--leave-out", "cats"), "'cats' is no table that can be left"),
        (("--from", "a", "--to", "b", "--leave-out", "device"), "'device' is no table that can be left"),
    ],
)
def test_wrong_usage_is_told(operator: Operator, arguments: tuple[str, ...], text: str) -> None:
    code, out, err = operator.on_data("transfer", *arguments)
    assert (code, out) == (2, "")
    assert text in err


def test_a_store_is_not_transferred_to_itself(operator: Operator) -> None:
    line = error_of(operator.on_data("transfer", "--from", "/dev/null", "--to", "/dev/null"))
    assert "both configurations name the same store" in line
    missing = operator.on_data("transfer", "--from", "x.toml", "--to", "/dev/null")
    assert "x.toml: configuration file does not exist" in error_of(missing)


def test_a_database_that_is_away_is_one_line(operator: Operator) -> None:
    (operator.home / "new.toml").write_text(
        '[storage]\npostgres_dsn = "postgresql://me:hunter2@127.0.0.1:1/cats"\n'
    )
    result = operator.on_data("transfer", "--from", "/dev/null", "--to", "new.toml")
    assert "PostgreSQL at 127.0.0.1:1, database cats: cannot be reached" in error_of(result)
    assert "hunter2" not in result[2]
    assert operator.on_data("register-user", "kit")[0] == 0


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(
    tmp_path: Path, postgres_databases: PostgresDatabases
) -> None:
    dsn = postgres_databases.empty()
    (tmp_path / "new.toml").write_text(f'[storage]\npostgres_dsn = "{dsn}"\n')
    options = ["--data-dir", "data"]
    assert run(["commucat-cli", "migrate", "--config", "new.toml", *options], tmp_path).returncode == 0
    assert run(["commucat-cli", "register-user", "tom", "--config", "/dev/null", *options], tmp_path)
    command = ["commucat-cli", "transfer", "--from", "/dev/null", "--to", "new.toml", *options]
    with rows_refused(dsn, "enrolment_code"):
        with subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            cwd=tmp_path,
            env=clean_environment(),
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            # In the middle: the users are there, and the next row waits.
            while run_sql(dsn, "SELECT count(*) FROM pg_locks WHERE NOT granted") == "0":
                assert process.poll() is None
            # The row still waits: what runs is given up, not waited for.
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert process.stderr.read() == "error: interrupted\n"
        assert process.returncode == 130
    assert run_sql(dsn, "SELECT state FROM store_move") == "filling"

    done = run(command, tmp_path)

    assert done.returncode == 0, done.stderr
    assert (
        run_sql(dsn, "SELECT (SELECT count(*) FROM app_user), (SELECT count(*) FROM enrolment_code)") == "1|1"
    )


@contextmanager
def rows_refused(dsn: str, table: str) -> Iterator[None]:
    """Somebody else's transaction, behind which every insertion into the table waits."""
    with subprocess.Popen(
        ["psql", "-X", "-q", dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(f"BEGIN;\nLOCK TABLE {table} IN SHARE MODE;\n\\echo locked\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "locked\n"
        yield
        holder.kill()


def test_a_terminal_sees_how_far_it_is(operator: Operator) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(BIN / "commucat-cli"), "backup", "copy", "--data-dir", "data"],
        cwd=operator.home,
        env=clean_environment(TERM="xterm"),
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with process, suppress(OSError):  # the end of a terminal, on Linux
        while part := os.read(ours, 65_536):
            shown += part
    os.close(ours)
    assert process.returncode == 0
    assert b"copying app_user" in shown
    assert b"1/1" in shown
