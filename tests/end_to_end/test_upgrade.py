"""The server and the client of today go on with what an older version has written."""

import contextlib
import glob
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from commucat_ledger import verify
from commucat_storage import sqlite_status
from end_to_end.server_process import ServerProcess, run, server_process

OLD = Path(__file__).parents[1] / "vectors" / "upgrade" / "schema-3"
OLD_URL = "https://localhost:18555"
OLD_SCHEMA = 3
WAITING = "written before the upgrade"


def day_after() -> dict[str, str]:
    """What a process needs in its environment to live on the day after, whatever the day is here."""
    [library] = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    return {
        "LD_PRELOAD": library,
        "TZ": "UTC",
        "FAKETIME": "@2026-11-29 18:00:00",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def restore_database(dump: Path, to: Path, replaced: dict[str, str]) -> None:
    text = dump.read_text(encoding="utf-8")
    for was, now in replaced.items():
        text = text.replace(was, now)
    with contextlib.closing(sqlite3.connect(to)) as connection:
        connection.executescript(text)


def lay_out(old: Path, to: Path, replaced: dict[str, str]) -> None:
    """A directory as it was; modes are not in git."""
    to.mkdir(mode=0o700)
    for source in sorted(old.rglob("*")):
        target = to / source.relative_to(old)
        if source.is_dir():
            target.mkdir(mode=0o700)
            continue
        if source.name.endswith(".db.sql"):
            target = target.with_suffix("")
            restore_database(source, target, replaced)
        else:
            shutil.copyfile(source, target)
        target.chmod(0o600)


@attrs.frozen
class Upgraded:
    server: ServerProcess
    was: int
    """The schema before the server was started."""
    alice: str
    bob: str

    def cli(self, *arguments: str) -> list[str]:
        done = run(["commucat-cli", *arguments], self.server.home, **day_after())
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()


@pytest.fixture
def upgraded(tmp_path: Path) -> Iterator[Upgraded]:
    lay_out(OLD / "data", tmp_path / "data", {})
    was = sqlite_status(tmp_path / "data" / "commucat.db").schema_version
    config = (OLD / "commucat.toml").read_text(encoding="utf-8")
    prefix = ("env", *(f"{name}={value}" for name, value in day_after().items()))
    with server_process(tmp_path, config, prefix) as server:
        for name in ("alice", "bob"):
            # The port of then may be taken.
            lay_out(OLD / name, tmp_path / name, {OLD_URL: server.url})
        devices = [
            json.loads((OLD / name / "keys.json").read_text())["device_id"] for name in ("alice", "bob")
        ]
        yield Upgraded(server, was, *devices)


def text_of(heard: list[str]) -> list[str]:
    return [line.partition("] ")[2] for line in heard]


def test_what_waited_is_delivered_and_all_goes_on_after_the_upgrade(upgraded: Upgraded) -> None:
    server, alice, bob = upgraded.server, upgraded.alice, upgraded.bob

    heard = upgraded.cli("listen", "--profile", "bob", "--count", "1", "--timeout", "30")
    assert text_of(heard) == [f"{alice}: {WAITING}"]
    upgraded.cli("send", "--profile", "bob", "--to", alice, "written after it")
    heard = upgraded.cli("listen", "--profile", "alice", "--count", "1", "--timeout", "30")
    assert text_of(heard) == [f"{bob}: written after it"]

    status = sqlite_status(server.database)
    assert upgraded.was == OLD_SCHEMA
    assert (status.schema_version, status.pending) == (status.latest_version, ())
    # The history of keys begins before the upgrade, and so does the ledger.
    assert "ok=yes" in upgraded.cli("keys", "check", "--profile", "alice")
    assert server.stop() == 0
    assert verify(server.data_dir / "ledger.jsonl").size > len(
        (OLD / "data" / "ledger.jsonl").read_text().splitlines()
    )


def test_a_backup_of_an_older_version_is_restored(tmp_path: Path) -> None:
    lay_out(OLD / "backup", tmp_path / "backup", {})

    done = run(["commucat-cli", "restore", "backup", "--data-dir", "data"], tmp_path, **day_after())

    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "restored=backup")
    database = tmp_path / "data" / "commucat.db"
    status = sqlite_status(database)
    assert (status.schema_version, status.pending) == (status.latest_version, ())
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM relay_queue").fetchone() == (1,)


@pytest.mark.parametrize(
    "command",
    [
        ("queue", "show"),
        ("stats",),
        ("secrets", "rotate", "noise"),
        ("cleanup",),
        ("key-history", "--device", "anybody"),
        ("devices", "list", "--handle", "alice"),
        ("register-user", "carol"),
        ("autopair", "--handle", "alice"),
        ("rotate-keys", "--handle", "alice", "--device", "bot"),
    ],
    ids=lambda command: command[0],
)
def test_a_command_leaves_an_older_schema_as_it_is(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A server of the older version may be running on it, which would not know the newer one."""
    lay_out(OLD / "data", tmp_path / "data", {})
    done = run(["commucat-cli", *command, "--data-dir", "data"], tmp_path, **day_after())

    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert "has an older schema" in line
    assert "run first: commucat-cli migrate" in line
    assert sqlite_status(tmp_path / "data" / "commucat.db").schema_version == OLD_SCHEMA
