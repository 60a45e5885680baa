"""migrate, register-user and diagnose, on fresh data and beside a running server."""

import datetime
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cli.operator_builders import Operator, operator_in
from commucat_cli.diagnose.listening import lock_owner
from commucat_server.identity.tokens import enrolment_code_hash
from end_to_end.server_process import ServerProcess, run, server_process

CLOSED = '[server]\nauto_approve_devices = false\ndomain = "localhost"\n'


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    return operator_in(tmp_path, monkeypatch)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path, CLOSED) as process:
        yield process


def statuses(output: str) -> dict[str, str]:
    """The worst status of each check of a ``diagnose --json``."""
    order = ["ok", "warn", "fail"]
    worst: dict[str, str] = {}
    for check in json.loads(output)["checks"]:
        before = worst.get(check["name"], "ok")
        worst[check["name"]] = max(before, check["status"], key=order.index)
    return worst


def text_of(output: str, name: str) -> str:
    return " ".join(check["text"] for check in json.loads(output)["checks"] if check["name"] == name)


# -- migrate --------------------------------------------------------------------------------------


def test_migrate_makes_the_database_and_does_nothing_the_second_time(operator: Operator) -> None:
    code, out, err = operator.on_data("migrate")
    assert code == 0
    # Who has mistyped --data-dir shall see it.
    assert f"warning: there was no database at {operator.data_dir}" in err
    lines = out.splitlines()
    assert lines[0].startswith("applied=")
    version = lines[-1]
    assert version.startswith("schema_version=")

    assert operator.on_data("migrate") == (0, f"{version}\n", "")
    assert operator.data_dir.stat().st_mode & 0o777 == 0o700


def test_migrate_tells_a_database_of_another_program(operator: Operator) -> None:
    operator.data_dir.mkdir(mode=0o700)
    (operator.data_dir / "commucat.db").write_bytes(b"no database at all" * 100)
    code, out, err = operator.on_data("migrate")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_wrong_configuration_is_one_line(operator: Operator) -> None:
    (operator.home / "bad.toml").write_text('[server]\nbindd = "x"\n')
    code, out, err = operator.run("migrate", "--config", "bad.toml")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "did you mean bind?" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [["migrate"], ["register-user", "alice"], ["diagnose"]])
def test_the_environment_names_the_data_directory_and_the_flag_overrides_it(
    command: list[str], operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMMUCAT_DATA_DIR", str(operator.home / "from-environment"))
    assert str(operator.home / "from-environment") in "".join(map(str, operator.run(*command)))
    shown = "".join(map(str, operator.on_data(*command)))
    assert str(operator.data_dir) in shown
    assert "from-environment" not in shown


# -- register-user --------------------------------------------------------------------------------


def test_register_user_prints_the_user_and_a_code_of_which_only_the_hash_is_stored(
    operator: Operator,
) -> None:
    before = time.time()
    values = operator.values("register-user", "alice", "Al Ice", "https://example.org/a.png")
    assert list(values) == ["user_id", "handle", "display_name", "avatar_url", "code", "code_expires_at"]
    assert (values["handle"], values["display_name"]) == ("alice", "Al Ice")
    assert len(values["user_id"]) == 64
    expires = datetime.datetime.fromisoformat(values["code_expires_at"]).timestamp()
    assert before + 7 * 86_400 - 1 <= expires <= time.time() + 7 * 86_400

    database = operator.data_dir / "commucat.db"
    with sqlite3.connect(database) as connection:
        stored = connection.execute("SELECT code_hash, user_id, expires_at FROM enrolment_code").fetchall()
    connection.close()
    assert stored == [(enrolment_code_hash(values["code"]), values["user_id"], int(expires))]
    assert values["code"].encode() not in database.read_bytes()


def test_names_that_are_not_set_are_not_printed(operator: Operator) -> None:
    assert list(operator.values("register-user", "bob")) == ["user_id", "handle", "code", "code_expires_at"]
    only_avatar = operator.values("register-user", "carol", "", "https://example.org/c.png")
    assert "display_name" not in only_avatar
    assert only_avatar["avatar_url"] == "https://example.org/c.png"


def test_the_lifetime_of_a_code_can_be_chosen(operator: Operator) -> None:
    values = operator.values("register-user", "alice", "--code-ttl", "60")
    left = datetime.datetime.fromisoformat(values["code_expires_at"]).timestamp() - time.time()
    assert 0 < left <= 60


def test_an_existing_handle_needs_new_code(operator: Operator) -> None:
    first = operator.values("register-user", "alice")
    code, out, err = operator.on_data("register-user", "alice")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "--new-code" in err
    again = operator.values("register-user", "alice", "--new-code")
    assert again["user_id"] == first["user_id"]
    assert again["code"] != first["code"]


def test_a_new_code_for_nobody_is_refused(operator: Operator) -> None:
    code, out, err = operator.on_data("register-user", "nobody", "--new-code")
    assert (code, out) == (1, "")
    assert "error: there is no user nobody" in err


def test_a_database_that_had_to_be_made_is_mentioned(operator: Operator) -> None:
    # Who forgot --data-dir would otherwise wonder why the code opens no door.
    assert "warning: there was no database" in operator.on_data("register-user", "alice")[2]
    assert operator.on_data("register-user", "bob")[2] == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a b"],
        ["x" * 65],
        ["alice@example.org"],
        ["alice", "two\nlines"],
        ["alice", "n" * 129],
        ["alice", "Al", "http://example.org/a.png"],
        ["alice", "Al", "https://example.org/\x1b[2J"],
        ["alice", "Al", "https://e/" + "a" * 512],
        ["alice", "--code-ttl", "0"],
        ["alice", "--code-ttl", "soon"],
        ["alice", "Al", "--new-code"],
        ["alice", "Al", "https://e/a", "more"],
    ],
)
def test_wrong_usage_exits_with_two_and_makes_nothing(arguments: list[str], operator: Operator) -> None:
    assert operator.on_data("register-user", *arguments)[0] == 2
    assert os.listdir(operator.home) == []


def test_a_code_made_beside_a_running_server_lets_one_device_in(
    operator: Operator, server: ServerProcess
) -> None:
    config = str(server.home / "commucat.toml")
    values = operator.values("register-user", "alice", "--config", config)

    def login(profile: str, code: str) -> tuple[int, str]:
        command = ["commucat-cli", "login", "--server", server.url, "--handle", "alice", "--code", code]
        command += ["--profile", profile, "--tls-ca", str(server.ca_file)]
        done = run(command, server.home)
        return done.returncode, done.stdout

    code, out = login("phone", values["code"])
    assert code == 0
    assert f"user_id={values['user_id']}" in out
    assert login("thief", values["code"])[0] == 1, "a code is good for one device"
    further = operator.values("register-user", "alice", "--new-code", "--config", config)
    assert login("laptop", further["code"])[0] == 0


# -- diagnose -------------------------------------------------------------------------------------


def test_a_fresh_directory_fails_clearly_and_stays_fresh(operator: Operator) -> None:
    code, out, _ = operator.on_data("diagnose")
    assert code == 1
    lines = out.splitlines()
    assert all(line.startswith(("ok   ", "warn ", "fail ")) for line in lines)
    failed = {line.split()[1].rstrip(":") for line in lines if line.startswith("fail")}
    assert failed == {"data-directory", "tls", "federation-seed", "database", "ledger"}
    assert "start the server once" in out
    assert os.listdir(operator.home) == []


def test_a_running_server_is_well_and_not_disturbed(operator: Operator, server: ServerProcess) -> None:
    def files() -> set[str]:
        return {str(path) for path in server.home.rglob("*")}

    before = files()
    bind = f"127.0.0.1:{server.port}"
    config = str(server.home / "commucat.toml")
    code, out, err = operator.on_data("diagnose", "--json", "--config", config, "--bind", bind)
    assert code == 0, out + err
    found = statuses(out)
    assert json.loads(out)["ok"] is True
    assert set(found) >= {
        "configuration",
        "data-directory",
        "disk",
        "tls",
        "federation-seed",
        "database",
        "database-integrity",
        "database-writable",
        "noise-keys",
        "ledger",
        "clock",
        "server",
    }
    assert found["server"] == "ok"
    assert server.running
    assert files() == before


def test_a_server_that_runs_elsewhere_than_configured_fails(
    operator: Operator, server: ServerProcess
) -> None:
    # Port 1 needs a privilege that no server of ours has asked for, and nothing listens there.
    code, out, _ = operator.on_data("diagnose", "--json", "--bind", "127.0.0.1:1")
    assert code == 1
    assert statuses(out)["server"] == "fail"
    assert f"pid {server.pid}" in text_of(out, "server")


def test_a_stopped_server_is_a_warning(operator: Operator, server: ServerProcess) -> None:
    server.stop()
    code, out, _ = operator.on_data("diagnose", "--json", "--bind", f"127.0.0.1:{server.port}")
    assert code == 0
    assert statuses(out)["server"] == "warn"


def test_a_server_with_another_certificate_than_the_file_fails(
    operator: Operator, server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with server_process(tmp_path_factory.mktemp("other"), CLOSED) as other:
        code, out, _ = operator.on_data("diagnose", "--json", "--bind", f"127.0.0.1:{other.port}")
    assert code == 1
    assert "another certificate" in text_of(out, "server")


def damage_seed(data: Path) -> None:
    (data / "keys" / "federation.seed").write_text("not hexadecimal\n")


def remove_tls_key(data: Path) -> None:
    (data / "tls" / "key.pem").unlink()


def take_key_of_another_certificate(data: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (data / "tls" / "key.pem").write_bytes(key.private_bytes(*form))


def open_key_to_all(data: Path) -> None:
    (data / "tls" / "key.pem").chmod(0o644)


def damage_ledger(data: Path) -> None:
    (data / "ledger.jsonl").write_text("{}\n")


def remove_ledger(data: Path) -> None:
    (data / "ledger.jsonl").unlink()


def remove_noise_keys(data: Path) -> None:
    change_store(data, "DELETE FROM server_secret")


def unknown_migration(data: Path) -> None:
    change_store(data, "INSERT INTO schema_migration VALUES (9999, 'future', zeroblob(32), 0)")


def garble_database(data: Path) -> None:
    with (data / "commucat.db").open("r+b") as file:
        file.write(b"\x00" * 4096)


def change_store(data: Path, statement: str) -> None:
    with sqlite3.connect(data / "commucat.db") as connection:
        connection.execute(statement)
    connection.close()


def set_clock_back(data: Path) -> None:
    # The same as a clock that is an hour slow: the file is from the future.
    later = time.time() + 3600
    os.utime(data / "commucat.db", (later, later))


@pytest.mark.parametrize(
    ("breaks", "name"),
    [
        (damage_seed, "federation-seed"),
        (remove_tls_key, "tls"),
        (take_key_of_another_certificate, "tls"),
        (open_key_to_all, "permissions"),
        (damage_ledger, "ledger"),
        (remove_ledger, "ledger"),
        (remove_noise_keys, "noise-keys"),
        (unknown_migration, "database"),
        (garble_database, "database"),
        (set_clock_back, "clock"),
    ],
)
def test_what_is_broken_fails_by_its_name(
    breaks: Callable[[Path], None], name: str, operator: Operator, server: ServerProcess
) -> None:
    server.stop()
    breaks(server.data_dir)
    code, out, _ = operator.on_data("diagnose", "--json", "--bind", f"127.0.0.1:{server.port}")
    assert code == 1
    assert {check for check, status in statuses(out).items() if status == "fail"} == {name}


def test_a_certificate_without_the_domain_is_a_warning(operator: Operator, server: ServerProcess) -> None:
    server.stop()
    domain = "[server]\nauto_approve_devices = false\ndomain = 'other.example'\n"
    (operator.home / "other.toml").write_text(domain)
    _, out, _ = operator.on_data("diagnose", "--json", "--config", "other.toml", "--bind", "127.0.0.1:1")
    assert statuses(out)["tls"] == "warn"
    assert "does not name the domain other.example" in text_of(out, "tls")


def test_a_configuration_that_cannot_be_read_is_the_only_finding(operator: Operator) -> None:
    code, out, _ = operator.on_data("diagnose", "--json", "--config", "absent.toml")
    assert code == 1
    assert statuses(out) == {"configuration": "fail"}


def test_an_open_data_directory_is_a_warning(operator: Operator, server: ServerProcess) -> None:
    server.data_dir.chmod(0o755)
    _, out, _ = operator.on_data("diagnose", "--json", "--bind", f"127.0.0.1:{server.port}")
    assert statuses(out)["data-directory"] == "warn"
    assert "chmod 700" in text_of(out, "data-directory")


def test_the_lock_tells_who_holds_it_and_is_not_taken(server: ServerProcess) -> None:
    lock = server.data_dir / "server.lock"
    assert lock_owner(lock) == server.pid
    server.stop()
    assert lock_owner(lock) is None
    assert lock_owner(server.data_dir / "absent") is None
