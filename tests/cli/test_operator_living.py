"""Commands for operators beside a running server with people on it: one server for the whole module."""

import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from typer.testing import CliRunner

from commucat_cli.main import app
from commucat_cli.profile import open_profile
from end_to_end.client_people import Person, login
from end_to_end.server_process import DEADLINE, ServerProcess, clean_environment, server_process

CONFIG = """[server]
auto_approve_devices = true
domain = "localhost"
[ledger]
deliveries = true
"""


@attrs.frozen
class Place:
    """The server, its people, and an operator."""

    server: ServerProcess
    alice: Person
    bob: Person

    def operator(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error of a command on the server's data."""
        environment = {name: None for name in os.environ if name.startswith("COMMUCAT_")}
        config = str(self.server.home / "commucat.toml")
        command = [*arguments, "--data-dir", str(self.server.data_dir), "--config", config]
        result = CliRunner().invoke(app, command, env=environment)
        return result.exit_code, result.stdout, result.stderr

    def json(self, *arguments: str) -> dict[str, Any]:
        code, out, err = self.operator(*arguments, "--json")
        assert code == 0, err
        document = json.loads(out)
        assert isinstance(document, dict)
        return document

    def values(self, *arguments: str) -> dict[str, str]:
        code, out, err = self.operator(*arguments)
        assert code == 0, err
        return dict(line.split("=", 1) for line in out.splitlines())

    def ledger(self, **members: object) -> list[dict[str, Any]]:
        """Metadata of the ledger's records with these members, once there is one."""

        def find() -> list[dict[str, Any]]:
            # The server may be writing the next line at this moment.
            lines = (self.server.data_dir / "ledger.jsonl").read_text().rpartition("\n")[0].splitlines()
            found = [json.loads(line)["metadata"] for line in lines]
            return [each for each in found if members.items() <= each.items()]

        return until(find)


def until(find: Callable[[], Any]) -> Any:
    """What ``find`` finds, asked again until that is something; the server looks twice a second."""
    end = time.monotonic() + DEADLINE
    while not (found := find()):
        assert time.monotonic() < end, "it does not happen"
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    assert "COMMUCAT_CONFIG" not in clean_environment()
    with server_process(tmp_path_factory.mktemp("living"), CONFIG) as server:
        yield Place(server, login(server, "alice"), login(server, "bob"))
        assert "Traceback" not in server.log.read_text()


# -- queue ----------------------------------------------------------------------------------------


def test_a_purged_queue_is_delivered_to_nobody_and_the_ledger_knows(place: Place) -> None:
    assert place.alice.send(place.bob, "--stdin", stdin="1\n2\n3\n").returncode == 0
    device = place.bob.device_id
    [queue] = place.json("queue", "show", "--device", device)["queues"]
    assert (queue["handle"], queue["status"], queue["waiting"]) == ("bob", "active", 3)
    assert queue["bytes"] > 0
    assert 0 <= queue["oldest_seconds"] <= 60

    code, out, err = place.operator("queue", "purge", "--device", device)
    assert (code, out) == (2, "")
    assert "repeat with --yes" in err
    assert place.values("queue", "purge", "--device", device, "--yes") == {"device": device, "purged": "3"}

    [queue] = place.json("queue", "show", "--device", device)["queues"]
    assert (queue["waiting"], queue["expired"]) == (0, 3)
    assert place.alice.send(place.bob, "after").returncode == 0
    assert [message["text"] for message in place.bob.listen(1)] == ["after"]
    [record] = place.ledger(scope="queue", event="purge")
    assert (record["device"], record["messages"], record["by"]) == (device, 3, "operator")


def test_queues_are_lines_of_values_for_scripts(place: Place) -> None:
    code, out, _ = place.operator("queue", "show", "--limit", "1")
    assert code == 0
    [line] = out.splitlines()
    assert re.match(r"device=\S+ handle=(alice|bob) status=active waiting=\d+ bytes=\d+ ", line)


def test_unknown_devices_are_named(place: Place) -> None:
    for command in (
        ["queue", "show"],
        ["queue", "purge", "--yes"],
        ["sessions", "list"],
        ["sessions", "end"],
        ["groups", "list"],
        ["calls"],
        ["stats"],
    ):
        code, out, err = place.operator(*command, "--device", "nobody'; DROP TABLE session; --")
        assert (code, out) == (1, "")
        assert "error: there is no device nobody" in err
        assert err.count("error:") == 1
    assert "there is no user nobody" in place.operator("sessions", "list", "--user", "nobody")[2]


# -- sessions -------------------------------------------------------------------------------------


def test_an_ended_session_ends_within_a_second_and_the_device_comes_back(place: Place) -> None:
    with place.bob.running("listen", "--json", "--count", "1") as listening:
        device = place.bob.device_id
        sessions = until(lambda: place.json("sessions", "list", "--device", device)["sessions"])
        assert {session["handle"] for session in sessions} == {"bob"}
        assert all(re.fullmatch("[0-9a-f]{16}", session["session"]) for session in sessions)
        before = {session["session"] for session in sessions}

        ended = int(place.values("sessions", "end", "--device", device)["ended"])
        assert ended == len(sessions)

        def renewed() -> bool:
            found = place.json("sessions", "list", "--device", device)["sessions"]
            return any(session["session"] not in before for session in found)

        until(renewed)
        assert place.alice.send(place.bob, "still there").returncode == 0
        assert json.loads(listening.line())["text"] == "still there"
        assert listening.end()[0] == 0
    [record] = place.ledger(scope="session", event="end")
    assert (record["device"], record["sessions"]) == (device, ended)


def test_sessions_can_be_asked_for_by_handle(place: Place) -> None:
    assert place.alice.send(place.bob, "x").returncode == 0
    found = place.json("sessions", "list", "--handle", "alice")["sessions"]
    assert {session["handle"] for session in found} == {"alice"}
    code, _, err = place.operator("sessions", "list", "--handle", "nobody")
    assert code == 1
    assert "there is no user nobody in localhost" in err
    assert place.operator("sessions", "list", "--handle", "a", "--user", "b")[0] == 2


# -- secrets --------------------------------------------------------------------------------------


def test_a_rotated_key_is_taken_over_and_learned_and_the_old_one_goes_on(place: Place) -> None:
    [first] = place.json("secrets", "list")["secrets"]
    assert (first["name"], first["state"], first["encrypted"]) == ("noise-static", "current", False)

    made = place.values("secrets", "rotate", "noise")
    assert (made["name"], made["version"]) == ("noise-static", "2")
    assert [each["state"] for each in place.json("secrets", "list")["secrets"]] == ["next", "current"]
    until(lambda: "noise key taken over" in place.server.log.read_text())
    [record] = place.ledger(scope="secret", event="rotate", name="noise-static")
    assert (record["version"], record["public"], record["by"]) == (2, made["public"], "operator")

    # Shown at once, instead of in a minute and a half: as a clock that has gone on would have it.
    with sqlite3.connect(place.server.database) as connection:
        connection.execute("UPDATE server_secret SET valid_after = 1 WHERE version = 2")
    connection.close()
    assert place.values("secrets", "rotate", "noise")["version"] == "3"  # has the rows read again
    until(lambda: place.server.log.read_text().count("noise key taken over") == 2)

    assert place.alice.send(place.bob, "with the old key").returncode == 0
    with open_profile(place.alice.profile) as profile:
        account = profile.account()
        assert (account.server_key_version, account.server_static.hex()) == (2, made["public"])
    assert place.alice.send(place.bob, "with the new key").returncode == 0
    texts = until(lambda: [each["text"] for each in place.bob.listen(1)])
    while texts[-1] != "with the new key":
        texts += [each["text"] for each in place.bob.listen(1)]
    assert texts[-2] == "with the old key"


def test_a_device_whose_key_was_revoked_finds_the_new_one(place: Place) -> None:
    carol = login(place.server, "carol")
    with open_profile(carol.profile) as profile:
        old = profile.account()
    place.values("secrets", "rotate", "noise")
    code, _, err = place.operator("secrets", "revoke", str(old.server_key_version), "--yes")
    assert code == 1
    assert "clients are told of version" in err
    with sqlite3.connect(place.server.database) as connection:
        connection.execute("UPDATE server_secret SET valid_after = 1")
    connection.close()

    newest = str(max(each["version"] for each in place.json("secrets", "list")["secrets"]))
    code, _, err = place.operator("secrets", "revoke", newest, "--yes")
    assert code == 1
    assert "run first: commucat-cli secrets rotate noise" in err
    assert place.operator("secrets", "revoke", str(old.server_key_version))[0] == 2
    place.values("secrets", "revoke", str(old.server_key_version), "--yes")
    place.ledger(scope="secret", event="revoke")

    assert carol.send(place.bob, "after the revocation").returncode == 0
    with open_profile(carol.profile) as profile:
        assert profile.account().server_key_version == int(newest)


def test_as_many_keys_as_may_be_are_not_exceeded_unless_that_is_meant(place: Place) -> None:
    def rotate(*more: str) -> tuple[int, str, str]:
        return place.operator("secrets", "rotate", "noise", *more)

    while (outcome := rotate())[0] == 0:
        pass
    assert "as many as security.rotation.noise_max_versions allows" in outcome[2]
    assert rotate("--beyond-limit")[0] == 0
    assert place.operator("secrets", "rotate", "admin")[0] == 2
    assert place.operator("secrets", "revoke", "9999", "--yes")[0] == 1


def test_tokens_are_shown_once_and_stand_nowhere(place: Place) -> None:
    made = place.values("admin-token", "new")
    assert re.fullmatch("[0-9a-f]{64}", made["token"])
    assert (made["version"], made["expires_at"]) == ("1", "never")
    again = place.json("admin-token", "new", "--days", "30")
    assert again["previous_1_expires_at"].startswith("20")
    [second, first] = place.json("admin-token", "list")["tokens"]
    assert (first["state"], second["state"], second["version"]) == ("good", "good", 2)

    assert place.operator("admin-token", "revoke", "1")[0] == 2
    place.values("admin-token", "revoke", "1", "--yes")
    assert place.json("admin-token", "list")["tokens"][1]["state"] == "expired"
    assert place.operator("admin-token", "revoke", "9", "--yes")[0] == 1

    records = place.ledger(scope="secret", name="admin-token", event="revoke")
    assert [record["version"] for record in records] == [1]
    for file in place.server.home.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert made["token"].encode() not in content
            assert again["token"].encode() not in content


# -- keys -----------------------------------------------------------------------------------------


def test_a_bot_gets_a_key_and_its_history_is_whole(place: Place, tmp_path: Path) -> None:
    values = place.values("rotate-keys", "--handle", "alice", "--device", "alice-bot")
    assert list(values) == [
        "user_id",
        "device_id",
        "public_key",
        "private_key",
        "issuer_public",
        "certificate_serial",
        "certificate_expires_at",
        "certificate",
    ]
    certificate = json.loads(values["certificate"])
    assert (certificate["device_id"], certificate["public_key"]) == ("alice-bot", values["public_key"])

    file = tmp_path / "bot.json"
    again = place.json("rotate-keys", "alice-bot", "--user", values["user_id"], "--out", str(file))
    assert "private_key" not in again
    kept = json.loads(file.read_text())
    assert (kept["device_id"], kept["public_key"]) == ("alice-bot", again["public_key"])
    assert len(kept["private_key"]) == 64
    assert file.stat().st_mode & 0o777 == 0o600
    assert place.operator("rotate-keys", "--handle", "alice", "--out", str(file))[0] == 1

    assert len(place.ledger(device="alice-bot", source="operator")) >= 1
    until(lambda: place.operator("key-history", "--device", "alice-bot")[0] == 0)
    history = place.json("key-history", "--device", "alice-bot")
    assert [event["action"] for event in history["events"]] == ["register", "rotate"]
    assert [event["source"] for event in history["events"]] == ["operator", "operator"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "--user or --handle"),
        (["--user", "x", "--handle", "y"], 2, "exactly one"),
        (["--handle", "nobody"], 1, "there is no user nobody"),
        (["--handle", "alice", "--device", "d", "d"], 2, "once"),
        (["--handle", "alice", "--device", "x" * 5000], 2, "characters"),
    ],
)
def test_wrong_calls_of_rotate_keys(place: Place, arguments: list[str], code: int, words: str) -> None:
    status, out, err = place.operator("rotate-keys", *arguments)
    assert (status, out) == (code, "")
    assert words in err


def test_the_device_of_somebody_else_keeps_its_key(place: Place) -> None:
    code, out, err = place.operator("rotate-keys", "--handle", "alice", "--device", place.bob.device_id)
    assert (code, out) == (1, "")
    assert "belongs to another user than alice" in err
    assert place.bob.send(place.alice, "mine").returncode == 0


# -- the rest -------------------------------------------------------------------------------------


def test_cleaning_up_beside_a_running_server(place: Place) -> None:
    assert set(place.json("cleanup")) >= {"sessions", "codes", "secrets", "groups", "idempotency"}
    assert place.alice.send(place.bob, "unharmed").returncode == 0


def test_groups_there_are_none(place: Place) -> None:
    assert place.json("groups", "list") == {"groups": []}
    assert place.operator("groups", "list") == (0, "", "")
    code, _, err = place.operator("groups", "show", "nothing")
    assert code == 1
    assert "there is no group nothing" in err


def test_statistics_count_messages_and_connects_of_today(place: Place) -> None:
    assert place.alice.send(place.bob, "counted").returncode == 0

    def counted() -> bool:
        document = place.json("stats", "--device", place.alice.device_id)
        [device] = document["devices"]
        assert device["handle"] == "alice"
        return any(day["sent"] and day["connects"] for day in document["days"])

    assert until(counted)
    code, out, _ = place.operator("stats")
    assert code == 0
    assert re.search(r"^day=\d{4}-\d\d-\d\d device=\S+ connects=\d+ sent=\d+ deliveries=\d+$", out, re.M)


def test_a_wrong_place_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    empty = tmp_path / "nothing"
    for command in (
        ["secrets", "list"],
        ["secrets", "rotate", "noise"],
        ["admin-token", "new"],
        ["sessions", "list"],
        ["queue", "show"],
        ["groups", "list"],
        ["calls", "--all"],
        ["cleanup"],
        ["stats"],
        ["rotate-keys", "--handle", "alice"],
    ):
        result = CliRunner().invoke(app, [*command, "--data-dir", str(empty)])
        assert result.exit_code == 1
        assert "error: there is no database at" in result.stderr
        assert result.stderr.count("\n") == 1
    assert not empty.exists()
