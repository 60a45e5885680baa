"""Friends, avatars and files with the client's commands, against the real server."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from end_to_end.client_people import CLI, Person, Running, error_line, login
from end_to_end.server_process import DEADLINE, ServerProcess, run, server_process

FAR = 2**21
"""Bytes of an upload that is well under way."""
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server_process(tmp_path_factory.mktemp("server")) as server:
        yield server
        assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="module")
def alice(server: ServerProcess) -> Person:
    return login(server, "alice")


@pytest.fixture(scope="module")
def bob(server: ServerProcess) -> Person:
    return login(server, "bob")


def do(person: Person, *command: str) -> "subprocess.CompletedProcess[str]":
    return run([CLI, *command, "--profile", str(person.profile)], person.home)


def listen(person: Person, folder: Path, count: int = 1) -> "subprocess.CompletedProcess[str]":
    return do(person, "listen", "--count", str(count), "--timeout", "40", "--json", "--save", str(folder))


def test_a_blob_that_was_changed_or_is_gone_is_not_saved_and_the_message_is_shown(
    server: ServerProcess, alice: Person, bob: Person, tmp_path: Path
) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(os.urandom(200_000))
    before = blobs_of(server)
    assert alice.send(bob, "--file", str(file)).returncode == 0
    assert alice.send(bob, "--file", str(file)).returncode == 0
    first, second = blobs_of(server) - before
    blob = bytearray(first.read_bytes())
    blob[-1] ^= 1
    first.write_bytes(blob)
    second.unlink()

    got = listen(bob, tmp_path / "saved", 2)

    assert got.returncode == 0, got.stderr
    assert "does not decrypt" in got.stderr
    assert "attachment not found" in got.stderr
    assert [json.loads(line)["attachment"]["saved"] for line in got.stdout.splitlines()] == [None, None]
    assert list((tmp_path / "saved").iterdir()) == []


def blobs_of(server: ServerProcess) -> set[Path]:
    return {path for path in (server.data_dir / "attachments").rglob("*") if path.is_file()}


def begun_upload(sending: Running, server: ServerProcess, before: set[Path]) -> Path:
    """The blob of an upload that is under way and has come far."""
    end = time.monotonic() + DEADLINE
    while True:
        for blob in blobs_of(server) - before:
            if blob.stat().st_size > FAR:
                return blob
        assert time.monotonic() < end
        assert sending.process.poll() is None


def test_an_upload_goes_on_where_a_killed_server_left_it(
    server: ServerProcess, alice: Person, bob: Person, tmp_path: Path
) -> None:
    data = os.urandom(24 * 2**20)
    file = tmp_path / "large.bin"
    file.write_bytes(data)
    before = blobs_of(server)
    with alice.running("send", "--to", bob.device_id, "--file", str(file)) as sending:
        blob = begun_upload(sending, server, before)
        server.kill()
        reached = blob.stat().st_size
        server.start()
        status, _, errors = sending.end()
    assert status == 0, errors
    assert FAR < reached < len(data)
    assert blobs_of(server) - before == {blob}

    assert listen(bob, tmp_path / "saved").returncode == 0

    assert (tmp_path / "saved" / "large.bin").read_bytes() == data


def test_an_upload_goes_on_where_a_killed_client_left_it(
    server: ServerProcess, alice: Person, bob: Person, tmp_path: Path
) -> None:
    data = os.urandom(24 * 2**20)
    file = tmp_path / "huge.bin"
    file.write_bytes(data)
    before = blobs_of(server)
    with alice.running("send", "--to", bob.device_id, "--file", str(file)) as sending:
        blob = begun_upload(sending, server, before)
        sending.end(signal.SIGKILL)
    assert FAR < blob.stat().st_size < len(data)
    written = blob.read_bytes()[: 2**20]

    assert alice.send(bob, "--file", str(file)).returncode == 0

    # The same blob under the same key, and its beginning was not sent again.
    assert blobs_of(server) - before == {blob}
    assert blob.read_bytes()[: 2**20] == written
    assert listen(bob, tmp_path / "saved").returncode == 0
    assert (tmp_path / "saved" / "huge.bin").read_bytes() == data
    # What was sent is sent anew when somebody asks for it: as another blob, under another key.
    assert alice.send(bob, "--file", str(file)).returncode == 0
    assert len(blobs_of(server) - before) == 2
    assert listen(bob, tmp_path / "saved").returncode == 0


def test_friends_from_the_request_to_the_devices(server: ServerProcess, alice: Person, bob: Person) -> None:
    asked = do(alice, "friends", "request", "bob", "--message", "it is alice")
    assert asked.returncode == 0, asked.stderr
    assert "status=pending" in asked.stdout
    # The notice waited in bob's inbox, and is no message.
    told = do(bob, "listen", "--count", "1", "--timeout", "1")
    assert "alice@localhost asks to become a friend (it is alice)" in told.stderr

    assert "status=accepted" in do(bob, "friends", "accept", "alice").stdout

    [line] = do(alice, "friends", "list").stdout.splitlines()
    assert line.endswith(" devices=1")
    [device] = do(alice, "friends", "devices", "bob").stdout.splitlines()
    assert device.startswith(f"{bob.device_id} active key=")
    assert "friend request not found" in error_line(do(alice, "friends", "reject", "bob"))


def test_an_avatar_is_set(server: ServerProcess, alice: Person, tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(PNG)

    done = do(alice, "profile", "avatar", str(picture))

    assert done.returncode == 0, done.stderr
    address = done.stdout.strip().removeprefix("avatar_url=")
    assert address.startswith("https://localhost/uploads/")
    assert (server.data_dir / "uploads" / address.rpartition("/")[2]).read_bytes() == PNG
    again = json.loads(do(alice, "profile", "avatar", str(picture), "--json").stdout)
    assert again.keys() == {"avatar_url"}


def test_files_arrive_unread_by_the_server_and_overwrite_nothing(
    server: ServerProcess, alice: Person, bob: Person, tmp_path: Path
) -> None:
    data = b"a very secret page\n" * 60_000
    file, empty, folder = tmp_path / "the plan.txt", tmp_path / "empty", tmp_path / "saved"
    file.write_bytes(data)
    empty.write_bytes(b"")
    for each, via in ((file, "binary"), (file, "websocket"), (empty, "binary")):
        sent = alice.send(bob, "--file", str(each), "--via", via)
        assert sent.returncode == 0, sent.stderr

    got = listen(bob, folder, 3)

    assert got.returncode == 0, got.stderr
    messages = [json.loads(line) for line in got.stdout.splitlines()]
    assert [message["attachment"]["saved"] for message in messages] == [
        str(folder / name) for name in ("the plan.txt", "the plan (2).txt", "empty")
    ]
    assert messages[0]["attachment"]["size"] == len(data)
    assert sorted(path.name for path in folder.iterdir()) == ["empty", "the plan (2).txt", "the plan.txt"]
    assert {path.read_bytes() for path in folder.iterdir()} == {data, b""}
    for blob in (server.data_dir / "attachments").rglob("*"):
        assert not blob.is_file() or b"secret" not in blob.read_bytes()


def test_a_file_that_is_too_large_is_told_in_one_line(alice: Person, bob: Person, tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(101 * 2**20)

    assert "attachment too large" in error_line(alice.send(bob, "--file", str(huge)))
