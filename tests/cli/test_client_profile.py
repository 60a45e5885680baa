"""Profile directories: private, complete or refused with one clear line, and durable."""

import json
import os
import sqlite3
import stat
from pathlib import Path

import attrs
import pytest

from cli.cli_builders import LATER, ScriptedServer, device, make_profile, profile_of
from commucat_cli.errors import ProfileError
from commucat_cli.profile import (
    Cursor,
    KeptUpload,
    ProfileKeys,
    keep_undecryptable,
    open_profile,
    open_profile_for_login,
    open_state,
)
from commucat_cli.profile import state as state_module
from commucat_cli.profile import undecryptable as undecryptable_module
from commucat_cli.profile.files import write_private
from commucat_cli.profile.keys import load_keys, save_keys
from commucat_cli.transport import Via


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.lstat().st_mode) for path in directory.rglob("*")}


def refused(directory: Path) -> str:
    with pytest.raises(ProfileError) as caught, open_profile(directory):
        pass
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_new_profile_is_private_and_its_keys_are_on_the_disk_first(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "me"
    with open_profile_for_login(directory) as profile:
        assert load_keys(directory) == profile.keys
        assert profile.state.account() is None
        assert all(mode & 0o077 == 0 for mode in modes(directory).values())
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert "never completed" in refused(directory)
    with open_profile_for_login(directory) as again:
        assert again.keys == profile.keys
        assert again.keys.device.private == profile.keys.device.private


def test_two_devices_are_never_the_same() -> None:
    one, two = ProfileKeys.generate(), ProfileKeys.generate()
    assert one.device_id != two.device_id
    assert one.device.private != two.device.private
    assert one.static.private != one.device.private
    assert one.device.private.hex() not in repr(one)


def test_a_login_is_not_let_into_a_directory_of_other_things(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "letter.txt").touch()
    with pytest.raises(ProfileError, match="holds other files"), open_profile_for_login(tmp_path):
        pass
    assert not (tmp_path / "keys.json").exists()


def test_what_is_no_profile_is_named(tmp_path: Path) -> None:
    assert "there is no profile" in refused(tmp_path / "missing")
    (tmp_path / "file").touch()
    assert "no directory" in refused(tmp_path / "file")
    assert "cannot open" in refused(tmp_path / "file" / "below")
    empty = tmp_path / "empty"
    empty.mkdir(0o700)
    assert "keys.json is missing" in refused(empty)
    save_keys(empty, ProfileKeys.generate())
    assert "incomplete" in refused(empty)
    with pytest.raises(ProfileError, match="cannot create"), open_profile_for_login(tmp_path / "file" / "x"):
        pass


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"version": 2}',
        b'{"version": 1, "device_id": "x"}',
        b'{"version": 1, "device_id": 7, "device_private": "00", "static_private": "00"}',
        b'{"version": 1, "device_id": "x", "device_private": "00", "static_private": "zz"}',
        b" " * 5000,
    ],
)
def test_damaged_keys_are_named(tmp_path: Path, content: bytes) -> None:
    make_profile(tmp_path / "me", ScriptedServer())
    write_private(tmp_path / "me" / "keys.json", content)
    assert "keys.json is" in refused(tmp_path / "me")


@pytest.mark.parametrize("name", ["", "keys.json", "profile.db"])
def test_what_others_may_read_is_refused(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "me"
    make_profile(directory, ScriptedServer())
    (directory / name).chmod(0o750)
    text = refused(directory)
    assert "open to other users (mode 0750)" in text
    assert "chmod" in text


def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_profile(tmp_path / "me", ScriptedServer())
    monkeypatch.setattr(os, "geteuid", lambda: 54_321)
    assert "belongs to another user" in refused(tmp_path / "me")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "me"
    make_profile(directory, ScriptedServer())
    (directory / "keys.json").rename(tmp_path / "elsewhere.json")
    (directory / "keys.json").symlink_to(tmp_path / "elsewhere.json")
    assert "cannot read" in refused(directory)


def test_a_damaged_or_foreign_database_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "me"
    make_profile(directory, ScriptedServer())
    database = directory / "profile.db"
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE account SET certificate = '{}'")
    connection.close()
    assert "cannot be used" in refused(directory)
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "layout 99" in refused(directory)
    database.write_bytes(b"this is no database" * 100)
    for leftover in directory.glob("profile.db-*"):
        leftover.unlink()
    assert "cannot be used" in refused(directory)


def test_one_inbox_has_one_reader_but_others_may_open_the_profile(tmp_path: Path) -> None:
    with profile_of(tmp_path / "me", ScriptedServer()) as profile, profile.reading_inbox():
        with open_profile(tmp_path / "me") as other:
            with pytest.raises(ProfileError, match="another commucat-cli"), other.reading_inbox():
                pass
            other.state.settle(Cursor("e", 1), [])
        with pytest.raises(ProfileError, match="another"), open_profile_for_login(tmp_path / "me"):
            pass
    with open_profile(tmp_path / "me") as profile, profile.reading_inbox():
        assert profile.state.cursor() == Cursor("e", 1)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    write_private(file, b"one")
    (tmp_path / ".keys.json.new").write_bytes(b"left over from a crash, and longer")
    write_private(file, b"two")
    assert file.read_bytes() == b"two"
    assert modes(tmp_path) == {"keys.json": 0o600}
    with pytest.raises(ProfileError, match="cannot write"):
        write_private(tmp_path / "missing" / "file", b"")


def test_state_survives_and_accounts_are_replaced(tmp_path: Path) -> None:
    server = ScriptedServer()
    with profile_of(tmp_path / "me", server) as profile:
        account = profile.account()
        renewed = server.add_device(profile.keys.device_id, profile.keys.device, expires_at=LATER - 1)
        profile.state.save_certificate(renewed)
        profile.state.settle(Cursor("e", 5), [("alice", b"1" * 16)])
        profile.state.save_channel_attempt("bob", 3)
    with open_profile(tmp_path / "me") as profile:
        assert profile.account() == attrs.evolve(account, certificate=renewed)
        assert profile.state.cursor() == Cursor("e", 5)
        assert profile.state.was_shown("alice", b"1" * 16)
        assert not profile.state.was_shown("bob", b"1" * 16)
        assert profile.state.channel_attempt("bob") == 3
        assert profile.state.channel_attempt("alice") == 0


def test_a_profile_from_before_there_were_ways_to_connect_is_brought_up_to_date(tmp_path: Path) -> None:
    with profile_of(tmp_path / "me", ScriptedServer()) as profile:
        account = profile.account()
    database = sqlite3.connect(tmp_path / "me" / "profile.db")
    database.executescript(
        "ALTER TABLE account DROP COLUMN via; ALTER TABLE account DROP COLUMN server_key_version; "
        "DROP TABLE ledger_head; DROP TABLE key_history; DROP TABLE upload; PRAGMA user_version = 1;"
    )
    database.close()
    with open_profile(tmp_path / "me") as profile:
        assert profile.account() == account
        assert profile.state.ledger_heads() == []
        assert profile.state.upload(b"m" * 32, since=0) is None
        profile.state.save_account(attrs.evolve(account, via=Via.WEBSOCKET))
    with open_profile(tmp_path / "me") as profile:
        assert profile.account().via is Via.WEBSOCKET


def test_pins_are_kept_and_replaced_only_knowingly(tmp_path: Path) -> None:
    one, two = device(1).public, device(2).public
    with profile_of(tmp_path / "me", ScriptedServer()) as profile:
        state = profile.state
        assert state.pin_peer("bob", one)
        assert state.pin_peer("bob", one)
        assert not state.pin_peer("bob", two)
        assert not state.pin_peer("bob", two, instead_of=two) or state.peer_key("bob") == one
        assert state.peer_key("bob") == one
        assert state.pin_peer("bob", two, instead_of=one)
        assert state.peer_key("bob") == two


def test_remembered_message_ids_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "SHOWN_MESSAGES", 10)
    with profile_of(tmp_path / "me", ScriptedServer()) as profile:
        for number in range(25):
            profile.state.settle(Cursor("e", number), [("alice", bytes([number]) * 16)])
        known = [number for number in range(25) if profile.state.was_shown("alice", bytes([number]) * 16)]
        assert known == list(range(15, 25))


def test_two_commands_write_to_one_database(tmp_path: Path) -> None:
    make_profile(tmp_path / "me", ScriptedServer())
    with (
        open_state(tmp_path / "me", create=False) as one,
        open_state(tmp_path / "me", create=False) as two,
    ):
        one.settle(Cursor("e", 1), [])
        two.settle(Cursor("e", 2), [])
        assert one.cursor() == Cursor("e", 2)


def test_a_database_locked_for_long_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "BUSY_TIMEOUT", 0.01)
    with profile_of(tmp_path / "me", ScriptedServer()) as profile:
        other = sqlite3.connect(tmp_path / "me" / "profile.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ProfileError, match="locked"):
            profile.state.settle(Cursor("e", 1), [])
        other.execute("ROLLBACK")
        other.close()
        profile.state.settle(Cursor("e", 1), [])


def test_kept_messages_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undecryptable_module, "MAX_FILES", 5)
    paths = [keep_undecryptable(tmp_path, "e", number, b"x") for number in range(8)]
    for age, path in enumerate(reversed(paths)):
        if path.exists():
            os.utime(path, (1000 - age, 1000 - age))
    keep_undecryptable(tmp_path, "e", 99, b"y")
    names = {path.name for path in (tmp_path / "undecryptable").iterdir()}
    assert len(names) == 5
    assert "e-99.bin" in names
    assert "e-7.bin" in names


def test_the_key_file_is_readable_json(tmp_path: Path) -> None:
    keys = make_profile(tmp_path / "me", ScriptedServer())
    document = json.loads((tmp_path / "me" / "keys.json").read_text())
    assert document["device_id"] == keys.device_id
    assert len(bytes.fromhex(document["device_private"])) == 32


def test_an_upload_is_remembered_until_it_is_done_or_old(tmp_path: Path) -> None:
    kept = KeptUpload(attachment_id="ab" * 32, key=b"k" * 32)
    mark = b"m" * 32
    with profile_of(tmp_path / "me", ScriptedServer()) as profile:
        profile.state.keep_upload(mark, kept, begun_at=1000)
    with open_profile(tmp_path / "me") as profile:
        state = profile.state
        assert state.upload(mark, since=1000) == kept
        assert state.upload(mark, since=1001) is None
        assert state.upload(b"n" * 32, since=0) is None
        state.forget_upload(mark)
        assert state.upload(mark, since=0) is None
        for number in range(state_module.REMEMBERED_UPLOADS + 1):
            state.keep_upload(number.to_bytes(32, "big"), kept, begun_at=1000)
        assert state.upload(bytes(32), since=0) is None
        assert state.upload((1).to_bytes(32, "big"), since=0) == kept
