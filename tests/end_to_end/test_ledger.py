"""The ledger of the real server: written, killed, shut out, rewritten, and checked by its commands."""

import json
import shutil
import sqlite3
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commucat_ledger import files_of
from end_to_end.client_people import Person, error_line, login
from end_to_end.server_process import DEADLINE, ServerProcess, run, server_process

# Whoever asks again and again how it is must not be told to wait.
CONFIG = """
[server]
auto_approve_devices = true
[security.rate_limit]
http_burst = 1000000
[ledger]
target = "audit/ledger.jsonl"
heads = "second/heads.jsonl"
heads_interval = 1
"""
ROTATING = CONFIG + "rotate_bytes = 2500\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "second").mkdir()
    with server_process(tmp_path, CONFIG) as server:
        yield server


def target(server: ServerProcess) -> Path:
    return server.home / "audit" / "ledger.jsonl"


def get(server: ServerProcess, path: str) -> str:
    context = ssl.create_default_context(cafile=str(server.ca_file))
    with urllib.request.urlopen(server.url + path, context=context, timeout=DEADLINE) as answer:
        text: str = answer.read().decode()
    return text


def until(holds: Callable[[], bool]) -> None:
    """Ask another process until something is so; only a hang takes until the deadline."""
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end, "it did not come to pass"


def health(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(server, "/healthz"))["ledger"]
    return found


def ledger(server: ServerProcess, *arguments: str) -> "subprocess.CompletedProcess[str]":
    options = ["--config", str(server.home / "commucat.toml"), "--data-dir", str(server.data_dir)]
    return run(["commucat-cli", "ledger", "verify", *arguments, *options], server.home)


def history(server: ServerProcess, person: Person, *arguments: str) -> "subprocess.CompletedProcess[str]":
    options = ["--config", str(server.home / "commucat.toml"), "--data-dir", str(server.data_dir)]
    return run(
        ["commucat-cli", "key-history", "--device", person.device_id, *arguments, *options], server.home
    )


def metadata(server: ServerProcess) -> list[dict[str, Any]]:
    return [
        json.loads(line)["metadata"]
        for path in files_of(target(server))
        # The server may be writing the next line at this moment.
        for line in path.read_bytes().rpartition(b"\n")[0].splitlines()
    ]


def heads(server: ServerProcess) -> list[dict[str, Any]]:
    path = server.home / "second" / "heads.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def remembered(person: Person) -> int:
    done = run(["commucat-cli", "ledger", "heads", "--profile", str(person.profile)], person.home)
    assert done.returncode == 0, done.stderr
    return max((json.loads(line)["size"] for line in done.stdout.splitlines()), default=0)


def login_until_told(server: ServerProcess, handle: str) -> Person:
    """Log in until the server has told a head: it tells only what is safely on its disk."""
    person = login(server, handle)
    until(lambda: len(heads(server)) > 0)
    login(server, handle)
    assert remembered(person) > 0
    return person


def test_a_ledger_over_restarts_kills_and_rotation_verifies_with_its_heads(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with server_process(tmp_path, ROTATING) as server:
        check_restarts(server)


def check_restarts(server: ServerProcess) -> None:
    for number in range(4):
        login(server, f"user{number}")
        if number % 2:
            server.kill()
        else:
            assert server.stop() == 0
        if number == 1:
            # What a write that the kill came into leaves.
            with target(server).open("ab") as file:
                file.write(b'{"digest":"00ab')
        server.start()
    assert server.stop() == 0

    done = ledger(server, "--json")

    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)["ledgers"]
    assert found["records"] == found["confirmed"] == len(metadata(server))
    assert len(files_of(target(server))) > 1
    events = [entry.get("event") for entry in metadata(server)]
    assert (events.count("start"), events.count("stop"), events.count("torn")) == (5, 3, 1)
    logins = [entry for entry in metadata(server) if entry.get("action") == "register"]
    assert len(logins) == 4


def test_openssl_verifies_a_signed_head(server: ServerProcess) -> None:
    login(server, "alice")
    assert server.stop() == 0
    head = heads(server)[-1]
    key = pinned_key(server)
    message = (
        b"commucat:ledger-head:v1\n"
        + bytes.fromhex(head["ledger"])
        + head["size"].to_bytes(8, "big")
        + bytes.fromhex(head["head"])
        + head["signed_at"].to_bytes(8, "big")
        + head["node"].encode()
    )
    home = server.home
    # RFC 8410: the DER of an Ed25519 public key is this prefix and the key.
    (home / "key.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + key)
    (home / "signature").write_bytes(bytes.fromhex(head["signature"]))
    openssl = shutil.which("openssl")
    assert openssl is not None

    def verifies(text: bytes) -> bool:
        (home / "message").write_bytes(text)
        command = [openssl, "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "key.der", "-rawin"]
        command += ["-in", "message", "-sigfile", "signature"]
        return subprocess.run(command, cwd=home, capture_output=True, check=False).returncode == 0

    assert verifies(message)
    assert not verifies(message[:-1] + b"x")


def pinned_key(server: ServerProcess) -> bytes:
    """The server's key as the profile of alice has pinned it."""
    with sqlite3.connect(server.home / "alice" / "profile.db") as connection:
        [[key]] = connection.execute("SELECT device_ca FROM account").fetchall()
    connection.close()
    return bytes(key)


def test_every_way_to_change_it_is_found(server: ServerProcess) -> None:
    alice = login_until_told(server, "alice")
    assert server.stop() == 0
    path = files_of(target(server))[0]
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)

    path.write_bytes(whole.replace(b'"register"', b'"certified"', 1))
    changed = next(number for number, line in enumerate(lines, start=1) if b'"register"' in line)
    line = error_line(ledger(server))
    assert line.startswith(f"error: record {changed}: {path} line {changed + 1}: ")

    path.write_bytes(b"".join(lines[:-1]))
    line = error_line(ledger(server))
    assert f"the server signed for {len(lines)} records, and {len(lines) - 1} are here" in line

    # Without the second place, what a device remembers still tells.
    (server.home / "second" / "heads.jsonl").unlink()
    kept = run(["commucat-cli", "ledger", "heads", "--profile", str(alice.profile)], server.home)
    (server.home / "kept.jsonl").write_text(kept.stdout)
    size = remembered(alice)
    path.write_bytes(b"".join(lines[: size - 1]))
    found = ledger(server, str(path), "--heads", "kept.jsonl", "--json")
    assert found.returncode == 1
    assert json.loads(found.stdout)["record"] == size
    assert "does not verify" not in found.stderr

    wrong = ledger(server, str(path), "--heads", "kept.jsonl", "--key", "00" * 32)
    assert "was signed with the key" in error_line(wrong)
    assert ledger(server, "--key", "zz").returncode == 2
    assert "cannot read" in error_line(ledger(server, "absent.jsonl"))


def test_a_client_warns_when_records_were_removed(server: ServerProcess) -> None:
    alice = login_until_told(server, "alice")
    size = remembered(alice)
    assert server.stop() == 0
    path = target(server)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
    server.start()

    done = alice.run("login", "--server", server.url, "--handle", "alice", "--tls-ca", str(server.ca_file))

    assert done.returncode == 0
    assert f"records, and had {size} when this device last saw it" in done.stderr
    assert remembered(alice) == size


def test_a_ledger_that_cannot_be_written_raises_an_alarm_and_keeps_all(server: ServerProcess) -> None:
    login(server, "alice")
    until(lambda: health(server)["waiting"] == 0)
    shutil.move(target(server).parent, server.home / "away")
    (server.home / "audit").write_bytes(b"")  # a file, where the directory was

    login(server, "bob")
    login(server, "carol")

    until(lambda: health(server)["degraded"])
    assert get(server, "/readyz") == "ready\ndegraded: ledger\n"
    assert (health(server)["waiting"], health(server)["lost"]) == (4, 0)
    (server.home / "audit").unlink()
    until(lambda: not health(server)["degraded"])
    assert get(server, "/readyz") == "ready"
    assert server.stop() == 0

    log = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    alarms = [entry for entry in log if entry.get("level") == "error" and "ledger" in entry["event"]]
    told = [entry["event"] for entry in alarms]
    # What was written last may have been waiting for its sync.
    assert [each for each in told if each != "ledger sync failed"] == [
        "ledger cannot be written, records wait"
    ]
    kept = [entry.get("action") for entry in metadata(server) if entry.get("source") == "certificate"]
    assert kept == ["register", "register"]
    files = [
        str(path) for path in [*files_of(server.home / "away" / "ledger.jsonl"), *files_of(target(server))]
    ]
    heads_file = str(server.home / "second" / "heads.jsonl")
    done = ledger(server, *files, "--heads", heads_file)
    assert done.returncode == 0, done.stderr


def test_deliveries_are_recorded_on_request(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with server_process(tmp_path, CONFIG + "deliveries = true\n") as server:
        alice, bob = login(server, "alice"), login(server, "bob")
        assert alice.send(bob, "hello").returncode == 0
        [message] = bob.listen(1)
        assert server.stop() == 0
        entries = [
            entry for each in metadata(server) if each.get("scope") == "delivery" for entry in each["entries"]
        ]
    [stored] = [entry for entry in entries if entry["result"] == "queued"]
    assert (stored["sender"], stored["target"]) == (alice.device_id, bob.device_id)
    assert stored["number"] == message["sequence"]
    assert {"result": "confirmed", "target": bob.device_id, "number": stored["number"]} in entries


def test_key_history_finds_what_one_side_lacks(server: ServerProcess) -> None:
    alice = login(server, "alice")
    assert server.stop() == 0
    good = history(server, alice, "--json")
    assert good.returncode == 0, good.stderr
    [event] = json.loads(good.stdout)["events"]
    assert (event["stored"], event["action"], event["problem"]) == ("database", "register", None)
    assert history(server, alice, "--known", event["link"]).returncode == 0

    def change(statement: str, *values: object) -> None:
        with sqlite3.connect(server.database) as connection:
            connection.execute(statement, values)
        connection.close()

    change("UPDATE device_key_event SET recorded_at = recorded_at - 5")
    done = history(server, alice, "--known", event["link"])
    assert error_line(done) == f"error: the history does not lead through the link {event['link']}"
    change("INSERT INTO device_key_event VALUES ('made-up', ?, zeroblob(32), ?)", alice.device_id, 10)
    assert history(server, alice).returncode == 0, "the ledger knows nothing of what was before it"
    change("UPDATE device_key_event SET public_key = zeroblob(32)")
    assert "the ledger names another key" in error_line(history(server, alice))
    change("DELETE FROM device_key_event")
    assert "missing in the database and its archive" in error_line(history(server, alice))
    assert "nothing is known of a device" in error_line(
        history(server, Person(alice.profile, "nobody", alice.home))
    )
