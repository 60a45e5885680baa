"""Random operations, with a move to the other backend between any two stretches of them."""

from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given, settings

from commucat_storage import Operation
from storage.fresh_stores import stretches_of
from storage.moving_builders import Home, PostgresHome, SqliteHome, emptied, transfer
from storage.storage_builders import add_devices, add_siblings
from storage.test_storage_model import (
    A_GROUP,
    DEVICES,
    LIMITS,
    OWNERS,
    Model,
    ModelInbox,
    compare,
    group_steps,
    outbox,
    peer_steps,
    room_steps,
    steps,
    take,
)

Script = list[list[list[Operation]] | str]


async def follow(folder: Path, dsn: str, script: Script, *, first: str) -> None:
    """Every "reopen" of the script moves the store to the other backend."""
    kinds = cycle(["postgres", "sqlite"] if first == "postgres" else ["sqlite", "postgres"])

    def next_home(number: int) -> Home:
        # The database is used again and again; what had been moved away from it goes first.
        return emptied(dsn) if next(kinds) == "postgres" else SqliteHome(folder / f"{number}.db")

    home = next_home(0)
    async with home.open(**LIMITS) as storage:
        await add_devices(storage, *(name for name in DEVICES if name not in OWNERS))
        for name, owner in OWNERS.items():
            await add_siblings(storage, owner, name)
        states = {name: await storage.inbox_state(name) for name in DEVICES}
        await storage.set_outbox("p", open=True)
        epoch = (await outbox(storage, "@p")).epoch
    model = Model({name: state.epoch for name, state in states.items() if state is not None})
    model.inboxes["@p"] = ModelInbox(epoch)
    for number, stretch in enumerate(stretches_of(script), start=1):
        async with home.open(**LIMITS) as storage:
            for step in stretch:
                await take(storage, model, step)
        there = next_home(number)
        await transfer(home, there)
        home = there
        async with home.open(**LIMITS) as storage:
            for name, inbox in model.inboxes.items():
                outgoing = name.startswith("@")
                state = await (outbox(storage, name) if outgoing else storage.inbox_state(name))
                assert state is not None
                # No number of the old store may be taken for one of this.
                assert state.epoch != inbox.epoch
                inbox.epoch = state.epoch
            await compare(storage, model)


@pytest.mark.parametrize("first", ["sqlite", "postgres"])
@pytest.mark.parametrize("kind", ["messages", "group", "room", "peer"])
def test_a_moved_store_goes_on_as_the_model_does(database: PostgresHome, first: str, kind: str) -> None:
    scripts = {"messages": steps, "group": group_steps, "room": room_steps, "peer": peer_steps}[kind]
    start: Script = [] if kind == "messages" else [[[A_GROUP]]]

    @settings(deadline=None, max_examples=12)
    @given(script=scripts)
    def holds(script: Script) -> None:
        with TemporaryDirectory() as folder:
            trio.run(lambda: follow(Path(folder), database.dsn, [*start, *script], first=first))

    holds()
