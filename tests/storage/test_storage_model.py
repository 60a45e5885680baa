"""Random operations against a small model that keeps everything in dictionaries. For every backend."""

import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from commucat_storage import (
    Confirm,
    ConfirmOutcome,
    DropRoute,
    Operation,
    Outcome,
    Refusal,
    RefusalReason,
    Route,
    RouteOutcome,
    SetRoute,
    SqliteSettings,
    Storage,
    Submission,
    SubmissionOutcome,
    open_sqlite,
)
from storage.storage_builders import LATER, NOW, add_devices

MAX_ROWS = 8
MAX_BYTES = 60
MAX_ROUTES = 2
DEVICES = ("a", "b", "c")
NAMES = (*DEVICES, "ghost")
SOON = NOW + 10

Opener = Callable[[Path], AbstractAsyncContextManager[Storage]]


def open_small_sqlite(directory: Path) -> AbstractAsyncContextManager[Storage]:
    limits = SqliteSettings(
        max_rows=MAX_ROWS,
        max_bytes=MAX_BYTES,
        max_routes=MAX_ROUTES,
        group_rows=4,
        journal_rows=12,
        cached_inboxes=2,
    )
    return open_sqlite(directory / "store.db", settings=limits)


@attrs.define
class ModelInbox:
    epoch: str
    next_number: int = 1
    confirmed: int = 0
    rows: dict[int, tuple[int, bytes, int]] = attrs.Factory(dict)
    routes: dict[int, Route] = attrs.Factory(dict)


class Model:
    """What the store must do, in the plainest words."""

    def __init__(self, epochs: dict[str, str]) -> None:
        self.inboxes = {name: ModelInbox(epoch) for name, epoch in epochs.items()}

    def apply(self, operation: Operation) -> Outcome:
        match operation:
            case Submission():
                return self.submit(operation)
            case Confirm(name, epoch, number):
                inbox = self.inboxes.get(name)
                if inbox is None or inbox.epoch != epoch or not inbox.confirmed <= number < inbox.next_number:
                    return ConfirmOutcome(False, inbox.confirmed if inbox else 0)
                inbox.confirmed = number
                inbox.rows = {each: row for each, row in inbox.rows.items() if each > number}
                return ConfirmOutcome(True, number)
            case SetRoute(name, channel, route):
                inbox = self.inboxes.get(name)
                if inbox is None:
                    return RouteOutcome(RefusalReason.UNKNOWN_DEVICE)
                if channel not in inbox.routes and len(inbox.routes) == MAX_ROUTES:
                    return RouteOutcome(RefusalReason.TOO_MANY_ROUTES)
                inbox.routes[channel] = route
                return RouteOutcome()
            case DropRoute(name, channel):
                inbox = self.inboxes.get(name)
                if inbox is None:
                    return RouteOutcome(RefusalReason.UNKNOWN_DEVICE)
                inbox.routes.pop(channel, None)
                return RouteOutcome()

    def submit(self, message: Submission) -> Outcome:
        recipients = message.recipients
        if recipients is None:
            sender = self.inboxes.get(message.sender)
            route = sender.routes.get(message.channel) if sender else None
            if route is None:
                return SubmissionOutcome((), (Refusal(device_id="", reason=RefusalReason.NO_ROUTE),))
            recipients = tuple(sorted(route.members))
        accepted: list[tuple[str, int]] = []
        refused: list[Refusal] = []
        for name in dict.fromkeys(recipients):
            if name == message.sender:
                continue
            reason = self.reason_to_refuse(name, message)
            if reason is not None:
                refused.append(Refusal(device_id=name, reason=reason))
                continue
            inbox = self.inboxes[name]
            inbox.rows[inbox.next_number] = (message.channel, message.payload, message.expires_at)
            accepted.append((name, inbox.next_number))
            inbox.next_number += 1
        if not (accepted or refused):
            refused.append(Refusal(device_id="", reason=RefusalReason.NO_ROUTE))
        return SubmissionOutcome(tuple(accepted), tuple(refused))

    def reason_to_refuse(self, name: str, message: Submission) -> RefusalReason | None:
        inbox = self.inboxes.get(name)
        if inbox is None:
            return RefusalReason.UNKNOWN_DEVICE
        route = inbox.routes.get(message.channel)
        if message.sender and route is not None and message.sender not in route.members:
            return RefusalReason.CHANNEL_CONFLICT
        held = sum(len(payload) for _, payload, _ in inbox.rows.values())
        if len(inbox.rows) >= MAX_ROWS or held + len(message.payload) > MAX_BYTES:
            return RefusalReason.QUOTA
        return None

    def purge(self, now: int) -> int:
        before = sum(len(inbox.rows) for inbox in self.inboxes.values())
        for inbox in self.inboxes.values():
            inbox.rows = {number: row for number, row in inbox.rows.items() if row[2] > now}
        return before - sum(len(inbox.rows) for inbox in self.inboxes.values())


names = st.sampled_from(NAMES)
channels = st.integers(1, 3)
# The epoch is filled in when the batch runs; "foreign" stays as it is.
operations = st.one_of(
    st.builds(
        Submission,
        st.sampled_from((*NAMES, "")),
        channels,
        st.just(1),
        st.binary(max_size=20),
        st.sampled_from((SOON, LATER)),
        st.one_of(st.none(), st.lists(names, max_size=5).map(tuple)),
    ),
    st.builds(Confirm, names, st.sampled_from(("own", "own", "own", "foreign")), st.integers(0, 30)),
    st.builds(SetRoute, names, channels, st.builds(Route, members=st.frozensets(names), relay=st.booleans())),
    st.builds(DropRoute, names, channels),
)
batches = st.lists(operations, min_size=1, max_size=6)
steps = st.lists(
    st.one_of(st.lists(batches, min_size=1, max_size=3), st.sampled_from(("purge", "reopen"))), max_size=12
)


async def follow(opener: Opener, script: list[list[list[Operation]] | str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with opener(Path(directory)) as storage:
            inboxes = await add_devices(storage, *DEVICES)
        model = Model({name: state.epoch for name, state in inboxes.items()})
        # A "reopen" ends one stretch and begins the next with a store opened anew.
        stretches: list[list[list[list[Operation]] | str]] = [[]]
        for step in script:
            if step == "reopen":
                stretches.append([])
            else:
                stretches[-1].append(step)
        for stretch in stretches:
            async with opener(Path(directory)) as storage:
                for step in stretch:
                    await take(storage, model, step)
                await compare(storage, model)


async def take(storage: Storage, model: Model, step: list[list[Operation]] | str) -> None:
    if isinstance(step, str):
        assert (await storage.purge_expired(SOON)).messages == model.purge(SOON)
        return
    told: list[object] = []
    expected: list[tuple[Outcome, ...]] = []
    for unbound in step:
        batch = [
            Confirm(each.device_id, model.inboxes[each.device_id].epoch, each.number)
            if isinstance(each, Confirm) and each.epoch == "own" and each.device_id in model.inboxes
            else each
            for each in unbound
        ]
        expected.append(tuple(model.apply(each) for each in batch))
        await storage.enqueue(batch, told.append)
    await storage.check()  # Behind the batches in the journal: all of them have been told.
    assert told == expected


async def compare(storage: Storage, model: Model) -> None:
    for name, inbox in model.inboxes.items():
        state = await storage.inbox_state(name)
        assert state is not None
        assert (state.epoch, state.next_number, state.confirmed) == (
            inbox.epoch,
            inbox.next_number,
            inbox.confirmed,
        )
        page = await storage.read_after(name, 0, limit_rows=100, limit_bytes=1000, now=0)
        assert page.complete
        assert page.head == inbox.next_number - 1
        assert {row.number: (row.channel, row.payload) for row in page.rows} == {
            number: row[:2] for number, row in inbox.rows.items()
        }
        assert await storage.routes_of(name) == inbox.routes


@pytest.mark.parametrize("opener", [open_small_sqlite], ids=["sqlite"])
@settings(deadline=None)
@given(script=steps)
def test_the_store_does_what_the_model_does(
    opener: Opener, script: list[list[list[Operation]] | str]
) -> None:
    trio.run(follow, opener, script)
