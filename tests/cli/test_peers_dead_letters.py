"""Dead letters in an operator's hands: what is put into the outbox again is what was refused."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from cli.operator_builders import Operator, operator_in
from commucat_storage import GroupAction, OutboxRow, SqliteStorage, Storage, StorageError, open_sqlite
from storage.storage_builders import NOW, add_devices, by_route, change, create, send

B = "b.example"
X = f"x@{B}"
T = TypeVar("T")


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    operator = operator_in(tmp_path, monkeypatch)
    operator.data_dir.mkdir()
    return operator


def on_store(operator: Operator, work: Callable[[Storage], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_sqlite(operator.data_dir / "commucat.db") as storage:
            return await work(storage)

    return trio.run(run)


async def bury_a_message_to_a_group(storage: Storage) -> str:
    await add_devices(storage, "a")
    await storage.set_outbox(B, open=True)
    await send(storage, create("a", X), by_route("a"))
    page = await storage.outbox_page(B, 0, limit_rows=9, limit_bytes=2**20, now=NOW)
    assert page is not None
    [letter] = await storage.bury(B, page.epoch, [(page.head, "QuotaExceeded: full")], NOW)
    return letter.letter_id


async def waiting(storage: Storage) -> tuple[OutboxRow, ...]:
    page = await storage.outbox_page(B, 0, limit_rows=9, limit_bytes=2**20, now=NOW)
    assert page is not None
    return page.rows


def listed(operator: Operator) -> list[str]:
    code, out, err = operator.run("peers", "dead-letters", "--json", "--data-dir", str(operator.data_dir))
    assert code == 0, err
    return [letter["letter"] for letter in json.loads(out)["dead_letters"]]


def test_a_message_to_a_group_is_sent_to_the_group_again(operator: Operator) -> None:
    letter = on_store(operator, bury_a_message_to_a_group)
    before = on_store(operator, waiting)
    shown = listed(operator)

    code, out, err = operator.run("peers", "resend", letter, "--data-dir", str(operator.data_dir))
    [again] = set(on_store(operator, waiting)) - set(before)

    assert (code, err) == (0, "")
    assert out.splitlines() == [f"letter={letter}", f"domain={B}", f"target={X}"]
    assert (again.sender, again.target, again.group_id, again.payload) == ("a", X, "g", b"meow")
    assert (shown, listed(operator)) == ([letter], [])


def test_a_command_that_was_stopped_half_way_can_be_repeated(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = on_store(operator, bury_a_message_to_a_group)
    before = on_store(operator, waiting)
    command = ("peers", "resend", letter, "--data-dir", str(operator.data_dir))

    async def fail(*_: object) -> int:
        raise StorageError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStorage, "forget_dead_letters", fail)
        stopped = operator.run(*command)
    repeated = operator.run(*command)

    assert (stopped[0], repeated[0]) == (1, 0)
    assert "disk I/O error" in stopped[2]
    assert len(on_store(operator, waiting)) == len(before) + 1
    assert listed(operator) == []


def test_what_the_outbox_does_not_take_stays_a_dead_letter(operator: Operator) -> None:
    letter = on_store(operator, bury_a_message_to_a_group)
    on_store(operator, lambda storage: send(storage, change("a", GroupAction.REMOVE, X)))
    before = on_store(operator, waiting)

    code, out, err = operator.run("peers", "resend", letter, "--data-dir", str(operator.data_dir))

    assert (code, out) == (1, "")
    assert err == f"error: the outbox of {B} does not take it: not_member\n"
    assert listed(operator) == [letter]
    assert on_store(operator, waiting) == before


def test_a_letter_that_is_not_there_is_named(operator: Operator) -> None:
    letter = on_store(operator, bury_a_message_to_a_group)

    for command in ("resend", "drop"):
        code, out, err = operator.run("peers", command, "nothing", "--data-dir", str(operator.data_dir))
        assert (code, out) == (1, "")
        assert err == "error: there is no dead letter nothing\n"
    assert listed(operator) == [letter]
