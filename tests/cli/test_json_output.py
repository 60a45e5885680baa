"""Commands of the operator with ``--json``: one object with what they print without it."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.operator_builders import Operator, operator_in
from end_to_end.server_process import server_process

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    return operator_in(tmp_path, monkeypatch)


def document(result: tuple[int, str, str], code: int = 0) -> dict[str, Any]:
    assert result[0] == code, result[2]
    found: dict[str, Any] = json.loads(result[1])
    return found


def test_migrate_and_register_user(operator: Operator) -> None:
    first = document(operator.on_data("migrate", "--json"))
    assert len(first["applied"]) >= 1
    again = document(operator.on_data("migrate", "--json"))
    assert again == {"applied": [], "schema_version": first["schema_version"]}

    made = document(operator.on_data("register-user", "zoe", "Zo\xeb  Z", "--json"))
    assert list(made) == ["user_id", "handle", "display_name", "avatar_url", "code", "code_expires_at"]
    assert (made["display_name"], made["avatar_url"]) == ("Zo\xeb  Z", None)
    code = operator.values("register-user", "zoe", "--new-code")
    assert code["display_name"] == "Zo\xeb  Z"


def test_what_is_moved(operator: Operator) -> None:
    with server_process(operator.home):
        pass
    saved = document(operator.on_data("backup", "saved", "--json"))
    assert saved["backup"] == "saved"
    assert len(saved["digest"]) == 64

    restored = document(operator.run("restore", "saved", "--data-dir", "other", "--json"))
    assert restored["restored"] == "saved"
    assert restored["store"] == str(operator.home / "other" / "commucat.db")
    assert restored["rows"] > 0

    (operator.home / "new.toml").write_text('[storage]\npath = "new.db"\n')
    moved = document(operator.on_data("transfer", "--from", "/dev/null", "--to", "new.toml", "--json"))
    assert moved["to"] == str(operator.home / "new.db")
    assert moved["rows"] > 0
    unmarked = document(operator.on_data("transfer", "--unmark", "/dev/null", "--json"))
    assert unmarked == {"usable": moved["from"]}


def test_test_vectors(operator: Operator) -> None:
    good = document(operator.run("conformance", "vectors", str(VECTORS), "--json"))
    assert good["ok"] is True
    assert good["passed"] > 300
    assert "frames_good" in " ".join(good["report"])

    bad = document(operator.run("conformance", "vectors", str(operator.home), "--json"), code=1)
    assert (bad["ok"], bad["passed"], bad["failed"]) == (False, 0, 1)
    assert bad["report"] == [f"FAILED {operator.home}: no vector files"]
