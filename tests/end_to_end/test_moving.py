"""A server with waiting messages goes to another store, or back to its backup: clients notice nothing."""

import os
from pathlib import Path

import pytest

from databases.postgres_databases import PostgresDatabases
from end_to_end.client_people import CLI, Person, login
from end_to_end.server_process import ServerProcess, run, server_process

COUNT = 20


def texts(person: Person, count: int) -> list[str]:
    return [message["text"] for message in person.listen(count)]


def command(server: ServerProcess, *arguments: str) -> None:
    done = run(["commucat-cli", *arguments, "--data-dir", str(server.data_dir)], server.home)
    assert done.returncode == 0, done.stderr


def send_many(sender: Person, to: Person, first: int) -> list[str]:
    lines = [f"message {number}" for number in range(first, first + COUNT)]
    done = sender.send(to, "--stdin", stdin="".join(f"{line}\n" for line in lines))
    assert done.returncode == 0, done.stderr
    return lines


@pytest.mark.parametrize("direction", ["to-postgres", "from-postgres"])
def test_a_transferred_server_delivers_everything_once(
    tmp_path: Path, postgres_databases: PostgresDatabases, direction: str
) -> None:
    on_postgres = (
        f'[server]\nauto_approve_devices = true\n[storage]\npostgres_dsn = "{postgres_databases.empty()}"\n'
    )
    on_sqlite = "[server]\nauto_approve_devices = true\n"
    old, new = (on_sqlite, on_postgres) if direction == "to-postgres" else (on_postgres, on_sqlite)
    with server_process(tmp_path, old) as server:
        tom, kit = login(server, "tom"), login(server, "kit")
        # Kit has an epoch and a number to resume from, of the store that is given up.
        seen = send_many(tom, kit, 0)
        assert texts(kit, COUNT) == seen
        waiting = send_many(tom, kit, COUNT)
        assert server.stop() == 0

        (tmp_path / "old.toml").write_text(old)
        (tmp_path / "new.toml").write_text(new)
        command(server, "transfer", "--from", "old.toml", "--to", "new.toml")
        refused = run(["commucat-server", "--config", "old.toml", "--data-dir", "data"], tmp_path)
        assert refused.returncode == 1
        assert "was moved to" in refused.stderr

        server.config = new
        server.start()
        more = send_many(tom, kit, 2 * COUNT)
        assert texts(kit, 2 * COUNT) == waiting + more
        # And the other direction, with certificates and keys as they were.
        back = send_many(kit, tom, 0)
        assert texts(tom, COUNT) == back
        assert server.stop() == 0


def test_a_restored_server_delivers_what_waited_when_the_backup_was_made(tmp_path: Path) -> None:
    with server_process(tmp_path, "[server]\nauto_approve_devices = true\n") as server:
        tom, kit = login(server, "tom"), login(server, "kit")
        waiting = send_many(tom, kit, 0)
        command(server, "backup", "copy")
        # After the backup: Kit gets further than the restored server will ever know.
        later = send_many(tom, kit, COUNT)
        assert texts(kit, 2 * COUNT) == waiting + later
        assert server.stop() == 0
        server.data_dir.rename(tmp_path / "lost")
        command(server, "restore", "copy")
        server.start()

        # Numbers that Kit has confirmed there are given again here: none of these may be taken for seen.
        again = send_many(tom, kit, 2 * COUNT)
        assert texts(kit, COUNT) == again
        assert server.stop() == 0


@pytest.mark.parametrize("attachments", [True, False])
def test_files_of_users_are_in_the_backup_and_found_after_it(tmp_path: Path, attachments: bool) -> None:
    photo, picture = os.urandom(300_000), b"\x89PNG\r\n\x1a\n" + os.urandom(1000)
    (tmp_path / "photo.jpg").write_bytes(photo)
    (tmp_path / "face.png").write_bytes(picture)
    with server_process(tmp_path) as server:
        tom, kit = login(server, "tom"), login(server, "kit")
        assert tom.send(kit, "--file", "photo.jpg").returncode == 0
        avatar = run([CLI, "profile", "avatar", "face.png", "--profile", str(tom.profile)], tmp_path)
        assert avatar.returncode == 0, avatar.stderr
        # Strangers in the folders are left where they are.
        (server.data_dir / "uploads" / "notes.txt").write_text("x")
        (server.data_dir / "attachments" / ("a" * 64)).write_text("x")
        (server.data_dir / "uploads" / f"{'a' * 64}.png").symlink_to(tmp_path / "face.png")
        command(server, "backup", "copy", *([] if attachments else ["--no-attachments"]))
        assert server.stop() == 0
        server.data_dir.rename(tmp_path / "lost")
        command(server, "restore", "copy")
        server.start()

        got = run(
            [
                CLI,
                "listen",
                "--count",
                "1",
                "--timeout",
                "40",
                "--save",
                "got",
                "--profile",
                str(kit.profile),
            ],
            tmp_path,
        )
        assert got.returncode == 0, got.stderr
        saved = tmp_path / "got" / "photo.jpg"
        assert (saved.read_bytes() if saved.exists() else None) == (photo if attachments else None)
        [restored] = [path for path in (server.data_dir / "uploads").iterdir() if path.suffix == ".png"]
        assert restored.read_bytes() == picture
        assert {path.name for path in (tmp_path / "copy").iterdir()} == {
            *("manifest.json", "tables", "keys", "tls", "ledger", "avatars"),
            *(["attachments"] if attachments else []),
        }
        assert server.stop() == 0
