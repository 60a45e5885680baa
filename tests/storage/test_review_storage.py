"""Breaking the store: what a failure leaves behind must not cost those who go on."""

from pathlib import Path

import pytest
import trio

from commucat_storage import CommitFailedError, StorageError, open_sqlite
from commucat_storage.sqlite.turns import Turns
from storage.storage_builders import add_devices, message


async def test_a_writer_that_died_gets_no_more_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    after: list[float] = []

    class Counted(Turns):
        def give_way(self, seconds: float) -> None:
            given.append(seconds)

    def dies(self: object, batch: object) -> None:
        raise SystemExit("out of luck")

    async def use() -> None:
        async with open_sqlite(tmp_path / "store.db") as storage:
            await add_devices(storage, "a")
            with monkeypatch.context() as patched:
                patched.setattr("commucat_storage.applying.Group.apply", dies)
                with pytest.raises(CommitFailedError, match="died"):
                    await storage.commit([message("a")])
            # Whoever runs a server on it learns that it must be started anew.
            with pytest.raises(StorageError, match="died"):
                await storage.wait_failed()
            given.clear()
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            after.extend(given)

    monkeypatch.setattr("commucat_storage.sqlite.storage.Turns", Counted)
    with pytest.raises(StorageError, match="died"):
        await use()
    assert after == []
