"""Senders learn what became of their messages: ``send --wait-delivered`` and the marks of ``chat``."""

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from end_to_end.client_people import Person, error_line, login, read_until
from end_to_end.server_process import ServerProcess, server_process


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path) as server:
        yield server
        assert "Traceback" not in server.log.read_text()


def rows(server: ServerProcess, person: Person) -> int:
    """How much waits in the person's inbox."""
    query = "SELECT count(*) FROM relay_message WHERE device_id = ?"
    connection = sqlite3.connect(f"file:{server.database}?mode=ro", uri=True)
    try:
        [count] = connection.execute(query, (person.device_id,)).fetchone()
        return int(count)
    finally:
        connection.close()


def test_a_listening_receiver_is_reported_at_once(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    with bob.running("listen", "--json") as listening:
        done = alice.send(bob, "--wait-delivered", "30", "--stdin", stdin="one\ntwo\n")
        got = [json.loads(listening.line()) for _ in range(2)]
        told = alice.send(bob, "--wait-delivered", "30", "--json", "three")
        third = json.loads(listening.line())

    assert json.loads(told.stdout) == {
        "to": bob.device_id,
        "sent": 1,
        "refused": 0,
        "delivered": [third["id"]],
    }
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"delivered device={bob.device_id} id={message['id']}" for message in got
    ]
    assert (done.stderr, [message["text"] for message in got]) == ("", ["one", "two"])
    # The reports do not stay behind.
    assert rows(server, alice) == 0


def test_a_receiver_that_is_away_is_told_in_one_line_and_may_come_later(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")

    missed = alice.send(bob, "--wait-delivered", "0.5", "early")
    with alice.running("send", "--to", bob.device_id, "--wait-delivered", "60", "late") as sending:
        got = [message["id"] for message in bob.listen(2)]
        assert sending.line() == f"delivered device={bob.device_id} id={got[1]}"
        assert sending.end() == (0, "", "")

    assert error_line(missed) == (
        f"error: 1 of 1 messages to {bob.device_id} were not delivered: 1 not confirmed by it within 0.5 s"
    )
    assert missed.stdout == ""
    # Nobody waited for the report of the first any more; listening passes over it.
    assert bob.send(alice, "an answer").returncode == 0
    listened = alice.run("listen", "--count", "1", "--timeout", "30", "--json")
    assert json.loads(listened.stdout)["text"] == "an answer"
    assert listened.stderr == ""


def test_waiting_leaves_messages_to_listen(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    assert bob.send(alice, "for alice").returncode == 0
    with bob.running("listen"):
        assert alice.send(bob, "--wait-delivered", "30", "hello").returncode == 0

    assert [message["text"] for message in alice.listen(1)] == ["for alice"]


def test_waiting_and_listening_exclude_each_other(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    with alice.running("listen", "--json") as listening:
        assert bob.send(alice, "x").returncode == 0
        listening.line()
        assert "another commucat-cli" in error_line(alice.send(bob, "--wait-delivered", "5", "hello"))
    assert rows(server, bob) == 0


def test_a_report_survives_the_death_of_the_server(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    with alice.running("send", "--to", bob.device_id, "--wait-delivered", "60", "x") as sending:
        while rows(server, bob) == 0:
            assert sending.process.poll() is None
        server.kill()
        server.start()
        # If the answer died with the server, two copies wait: shown once, and alice knows the second.
        with bob.running("listen", "--json") as listening:
            message = json.loads(listening.line())
            assert sending.line() == f"delivered device={bob.device_id} id={message['id']}"
        assert sending.end()[0] == 0


def test_expiry_is_told(server: ServerProcess) -> None:
    alice, bob, carol = login(server, "alice"), login(server, "bob"), login(server, "carol")
    with alice.running("send", "--to", bob.device_id, "--wait-delivered", "60", "too late") as sending:
        while rows(server, bob) == 0:
            assert sending.process.poll() is None
        database = sqlite3.connect(server.database)
        with database:
            database.execute("UPDATE relay_queue SET expires_at = 1")  # 30 days go by
        database.close()
        assert carol.send(bob, "in time").returncode == 0
        assert [message["text"] for message in bob.listen(1)] == ["in time"]
        status, out, errors = sending.end()

    reason = f"1 of 1 messages to {bob.device_id} were not delivered: 1 because it expired on the server"
    assert (status, out, errors) == (1, "", f"error: {reason}\n")


def test_a_server_that_reports_nothing_is_named(tmp_path: Path) -> None:
    with server_process(
        tmp_path, config="[server]\nauto_approve_devices = true\n[delivery]\nstatus = false\n"
    ) as server:
        alice, bob = login(server, "alice"), login(server, "bob")

        assert "does not report deliveries" in error_line(alice.send(bob, "--wait-delivered", "5", "x"))
        assert rows(server, bob) == 0


def test_chat_marks_what_was_delivered(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    with alice.chat_on_a_terminal(bob) as ours:
        seen = read_until(ours, b"> ")
        os.write(ours, b"typed\n")
        assert bob.listen(1)[0]["text"] == "typed"
        read_until(ours, b"[delivered] typed", seen)
