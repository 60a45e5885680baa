"""Commands for operators while no server runs: re-encryption of secrets, keys of devices."""

import json
import time
from pathlib import Path

import pytest

from cli.operator_builders import Operator, operator_in
from end_to_end.server_process import DEADLINE, server_process
from server.config_builders import hex_key


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    operator = operator_in(tmp_path, monkeypatch)
    with server_process(tmp_path):
        pass  # makes its first key
    return operator


def states(operator: Operator) -> list[tuple[str, bool]]:
    code, out, err = operator.on_data("secrets", "list", "--json")
    assert code == 0, err
    return [(row["public"], row["encrypted"]) for row in json.loads(out)["secrets"]]


def test_plain_secrets_are_encrypted_moved_to_another_key_and_back(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = operator.home / "first.key", operator.home / "second.key"
    [(public, encrypted)] = states(operator)
    assert not encrypted

    code, out, err = operator.on_data("secrets", "rekey", "--new-key", str(first), "--generate")
    assert (code, out) == (0, "rekeyed=1\nencrypted=yes\n")
    assert "restart every server" in err
    assert first.stat().st_mode & 0o777 == 0o600
    assert states(operator) == [(public, True)]

    # Without the key nothing works, and the error says what is needed.
    code, _, err = operator.on_data("secrets", "rotate", "noise")
    assert code == 1
    assert "is encrypted; set COMMUCAT_SECRET_KEY" in err

    monkeypatch.setenv("COMMUCAT_SECRET_KEY", first.read_text().strip())
    assert operator.on_data("secrets", "rotate", "noise")[0] == 0
    second.write_text(hex_key())
    second.chmod(0o600)
    assert operator.on_data("secrets", "rekey", "--new-key", str(second))[:2] == (
        0,
        "rekeyed=2\nencrypted=yes\n",
    )
    code, _, err = operator.on_data("secrets", "rekey", "--new-key", str(second))
    assert code == 1
    assert "encrypted with another key" in err

    monkeypatch.setenv("COMMUCAT_SECRET_KEY", second.read_text())
    assert operator.on_data("diagnose", "--json")[1].count('"noise-keys"') == 1
    assert operator.on_data("secrets", "rekey", "--remove")[:2] == (0, "rekeyed=2\nencrypted=no\n")
    monkeypatch.delenv("COMMUCAT_SECRET_KEY")
    assert [encrypted for _, encrypted in states(operator)] == [False, False]
    assert operator.on_data("secrets", "rotate", "noise")[0] == 0


def test_the_new_key_appears_in_no_output(operator: Operator) -> None:
    file = operator.home / "key"
    _, out, err = operator.on_data("secrets", "rekey", "--new-key", str(file), "--generate")
    assert file.read_text().strip() not in out + err


def test_wrong_key_files_are_refused_and_change_nothing(operator: Operator) -> None:
    before = states(operator)
    file = operator.home / "key"

    def rekey(*more: str) -> tuple[int, str]:
        code, out, err = operator.on_data("secrets", "rekey", *more)
        assert out == ""
        return code, err

    assert rekey()[0] == 2
    assert rekey("--new-key", str(file), "--remove")[0] == 2
    assert rekey("--generate", "--remove")[0] == 2
    assert "No such file" in rekey("--new-key", str(file))[1]
    file.write_text(hex_key())
    file.chmod(0o644)
    assert "chmod 600" in rekey("--new-key", str(file))[1]
    assert "File exists" in rekey("--new-key", str(file), "--generate")[1]
    file.chmod(0o600)
    file.write_text("zz" * 32)
    assert "64 hexadecimal digits" in rekey("--new-key", str(file))[1]
    assert states(operator) == before


def test_a_key_that_was_given_out_while_no_server_ran_is_in_the_ledger_after_the_next_start(
    operator: Operator,
) -> None:
    assert operator.on_data("register-user", "alice")[0] == 0
    operator.values("rotate-keys", "--handle", "alice", "--device", "bot")

    code, out, err = operator.on_data("key-history", "--device", "bot", "--json")
    assert code == 0, err
    [event] = json.loads(out)["events"]
    assert (event["action"], event["source"]) == ("register", "operator")
    assert event["ledger"] == "the store, to be written to the ledger"

    ledger = operator.data_dir / "ledger.jsonl"
    with server_process(operator.home):
        end = time.monotonic() + DEADLINE
        while '"source":"operator"' not in ledger.read_text():
            assert time.monotonic() < end, "it is not written"
    code, out, err = operator.on_data("key-history", "--device", "bot", "--json")
    assert code == 0, err
    [event] = json.loads(out)["events"]
    assert "ledger.jsonl line" in event["ledger"]


def test_a_pair_for_the_configuration_seeds_a_server_of_its_own(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = operator.run("secrets", "generate-noise")
    assert code == 0
    pair = dict(line.split("=") for line in out.splitlines())
    assert list(pair) == ["noise_private", "noise_public"]
    for name, value in pair.items():
        monkeypatch.setenv(f"COMMUCAT_{name.upper()}", value)
    assert operator.run("diagnose", "--data-dir", "other")[1].startswith("ok   configuration")


def test_statistics_tell_how_to_know_more(operator: Operator) -> None:
    code, _, err = operator.on_data("stats")
    assert code == 0
    assert "[ledger] deliveries = true" in err


def test_diagnose_reminds_of_tokens_that_end(operator: Operator) -> None:
    def said() -> str:
        checks = json.loads(operator.on_data("diagnose", "--json")[1])["checks"]
        return " ".join(f"{check['status']} {check['text']}" for check in checks if "admin" in check["name"])

    assert said() == ""
    assert operator.on_data("admin-token", "new")[0] == 0
    assert said() == "ok 1 good"
    assert operator.on_data("admin-token", "revoke", "1", "--yes")[0] == 0
    assert "warn all have expired" in said()
