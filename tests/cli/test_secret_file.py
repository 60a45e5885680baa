"""``--out`` of rotate-keys and autopair: private keys are on disk before the store knows their devices."""

import json
import os
import shutil
from pathlib import Path

import pytest

from cli.operator_builders import Operator, operator_in
from commucat_cli.commands.operator.secret_file import SecretFile
from commucat_cli.commands.operator.settings import OperatorError
from commucat_storage import StorageUnavailableError
from end_to_end.server_process import server_process

SECRET = {"private_key": "ab" * 32}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a server that was started once, which makes its keys."""
    with server_process(tmp_path_factory.mktemp("fresh")) as server:
        pass
    return server.data_dir


@pytest.fixture
def operator(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    operator = operator_in(tmp_path, monkeypatch)
    shutil.copytree(fresh, operator.data_dir)
    operator.values("register-user", "alice")
    return operator


def devices(operator: Operator) -> list[tuple[str, str]]:
    code, out, err = operator.on_data("devices", "list", "--handle", "alice", "--json")
    assert code == 0, err
    return [(row["device_id"], row["public_key"]) for row in json.loads(out)]


@pytest.mark.parametrize("command", [("rotate-keys", "--device", "bot"), ("autopair",)], ids=lambda c: c[0])
@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("absent/key.json", "No such file or directory"),
        ("taken.json", "exists already"),
        ("dangling", "exists already"),
        ("taken.json/key.json", "Not a directory"),
    ],
)
def test_a_file_that_cannot_be_written_changes_nothing(
    command: tuple[str, ...], out: str, words: str, operator: Operator
) -> None:
    operator.values("rotate-keys", "--handle", "alice", "--device", "bot")
    (operator.home / "taken.json").write_text("mine")
    (operator.home / "dangling").symlink_to("nowhere")
    before, files = devices(operator), sorted(operator.home.iterdir())

    code, printed, err = operator.on_data(*command, "--handle", "alice", "--out", out)

    assert (code, printed) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert devices(operator) == before
    assert sorted(operator.home.iterdir()) == files
    assert (operator.home / "taken.json").read_text() == "mine"


@pytest.mark.parametrize("command", [("rotate-keys", "--device", "bot"), ("autopair",)], ids=lambda c: c[0])
def test_what_is_written_belongs_to_the_device_of_the_store(
    command: tuple[str, ...], operator: Operator
) -> None:
    files = set(operator.home.iterdir())
    values = operator.values(*command, "--handle", "alice", "--out", "key.json")
    assert "private_key" not in values
    file = operator.home / "key.json"
    assert set(operator.home.iterdir()) == files | {file}
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.stat().st_nlink == 1
    kept = json.loads(file.read_text())
    assert devices(operator) == [(kept["device_id"], kept["public_key"])]


def test_a_device_that_is_refused_leaves_no_file(operator: Operator) -> None:
    operator.values("register-user", "bob")
    operator.values("rotate-keys", "--handle", "bob", "--device", "bobs")
    files = set(operator.home.iterdir())
    code, _, err = operator.on_data(
        "rotate-keys", "--handle", "alice", "--device", "bobs", "--out", "key.json"
    )
    assert code == 1
    assert "belongs to another user" in err
    assert set(operator.home.iterdir()) == files


def only_file(folder: Path) -> Path:
    [file] = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    return file


@pytest.mark.parametrize("failure", [StorageUnavailableError("gone"), KeyboardInterrupt()], ids=repr)
def test_the_key_stays_when_nobody_knows_whether_the_device_was_made(
    failure: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(failure)), SecretFile(tmp_path / "key.json", SECRET):
        raise failure
    file = only_file(tmp_path)
    assert json.loads(file.read_text()) == SECRET
    assert f"its private key is in {file}" in capsys.readouterr().err


def test_a_name_that_was_taken_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    with pytest.raises(OperatorError, match=r"File exists; the private key is in "), SecretFile(path, SECRET):
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"
    path.unlink()
    assert json.loads(only_file(tmp_path).read_text()) == SECRET


def test_an_answer_that_cannot_be_written_leaves_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    def make() -> None:
        with SecretFile(tmp_path / "key.json", SECRET) as file:
            monkeypatch.setattr(os, "fsync", full)
            file.complete(SECRET | {"status": "active"})

    with pytest.raises(OperatorError, match=r"No space left on device; the private key is in "):
        make()
    assert json.loads(only_file(tmp_path).read_text()) == SECRET


def test_an_answer_completes_the_file(tmp_path: Path) -> None:
    with SecretFile(tmp_path / "key.json", SECRET) as file:
        assert json.loads(only_file(tmp_path).read_text()) == SECRET
        file.complete(SECRET | {"status": "active"})
    assert only_file(tmp_path).name == "key.json"
    assert json.loads((tmp_path / "key.json").read_text()) == SECRET | {"status": "active"}


def test_without_a_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with SecretFile(None, SECRET) as file:
        file.complete(SECRET)
    assert list(tmp_path.iterdir()) == []


def test_options_of_the_network_are_refused_in_the_store_and_a_variable_is_not(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option in (("--name", "phone"), ("--ttl", "60")):
        code, _, err = operator.on_data("autopair", "--handle", "alice", *option)
        assert code == 2
        assert "over the network" in err
    # It is there for another command, perhaps.
    monkeypatch.setenv("COMMUCAT_SESSION", "ab" * 32)
    assert operator.on_data("autopair", "--handle", "alice", "--json")[0] == 0
