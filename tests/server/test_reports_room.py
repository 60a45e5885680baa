"""How reports wait, gather, are split, tried again and given up."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import trio
import trio.testing
from trio.testing import MockClock

from commucat_proto import MAX_REPORTED, DeliveryReport, Frame, FrameType, read_delivery_report
from commucat_server.ops.counters import Counters
from commucat_server.routing import reports
from commucat_server.routing.reports import MAX_BATCH, MAX_WAITING, RETRY_INTERVAL, DeliveryReports
from commucat_storage import (
    CommitFailedError,
    ConfirmedMessage,
    ConfirmOutcome,
    ExpiredMessage,
    Operation,
    Outcome,
    Refusal,
    RefusalReason,
    Submission,
    SubmissionOutcome,
)
from server.connect_builders import NOW

LIFETIME = 1000
STORED = SubmissionOutcome((("s", 1),))
Result = tuple[Outcome, ...] | CommitFailedError


def refusing(reason: RefusalReason) -> SubmissionOutcome:
    return SubmissionOutcome((), (Refusal(device_id="s", reason=reason),))


@attrs.define(eq=False)
class Journal:
    """Takes batches and answers them when told to; by default at once, with everything stored."""

    answers: Callable[[Sequence[Operation]], Result] = lambda batch: (STORED,) * len(batch)
    batches: list[list[Submission]] = attrs.Factory(list)
    open: trio.Event = attrs.Factory(trio.Event)
    """Set: answers come. Not set: the disk stalls."""

    async def submit(self, batch: Sequence[Operation], answer: Callable[[Result], None]) -> None:
        assert all(isinstance(each, Submission) for each in batch)
        self.batches.append(list(batch))  # type: ignore[arg-type]
        if self.open.is_set():
            answer(self.answers(batch))

    def told(self) -> list[DeliveryReport]:
        found = [
            read_delivery_report(Frame(FrameType.GROUP_EVENT, each.channel, 1, each.payload))
            for batch in self.batches
            for each in batch
        ]
        assert None not in found
        return [each for each in found if each is not None]


@attrs.define(eq=False)
class Room:
    nursery: trio.Nursery
    journal: Journal = attrs.Factory(Journal)
    counters: Counters = attrs.Factory(Counters)
    enabled: bool = True
    reports: DeliveryReports = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.reports = DeliveryReports(
            counters=self.counters, clock=lambda: NOW, lifetime=LIFETIME, enabled=self.enabled
        )
        self.journal.open.set()

    async def start(self) -> None:
        self.nursery.start_soon(self.reports.run, self.journal.submit, trio.lowlevel.checkpoint)
        await trio.testing.wait_all_tasks_blocked()


def outcome(*numbers: int, sender: str = "s", channel: int = 7, unreported: int = 0) -> ConfirmOutcome:
    named = tuple(
        ConfirmedMessage(sender, channel, number.to_bytes(16, "big"), NOW + 1) for number in numbers
    )
    return ConfirmOutcome(True, 1, named, unreported)


def gone(number: int) -> ExpiredMessage:
    reference = number.to_bytes(16, "big")
    return ExpiredMessage(sender="s", channel=7, device_id="r", number=1, reference=reference)


async def test_what_comes_while_the_disk_is_busy_gathers(nursery: trio.Nursery) -> None:
    room = Room(nursery)
    for number in range(10):
        room.reports.confirmed("r", outcome(number))
    room.reports.confirmed("r2", outcome(10))
    room.reports.confirmed("r", outcome(11, sender="t"))
    room.reports.confirmed("r", outcome(12, channel=8))

    await room.start()

    told = room.journal.told()
    assert [(each.device, each.channel, len(each.messages)) for each in told] == [
        ("r", 7, 10),
        ("r2", 7, 1),
        ("r", 7, 1),
        ("r", 8, 1),
    ]
    [batch] = room.journal.batches
    assert [each.recipients for each in batch] == [("s",), ("s",), ("t",), ("s",)]
    assert {(each.sender, each.channel, each.report, each.expires_at) for each in batch} == {
        ("", 0, False, NOW + LIFETIME)
    }
    assert room.counters.reports_stored == 4


async def test_a_report_that_would_be_too_long_is_split(nursery: trio.Nursery) -> None:
    room = Room(nursery)
    count = 2 * MAX_REPORTED + 5
    room.reports.confirmed("r", outcome(*range(count)))

    await room.start()

    told = room.journal.told()
    assert [len(each.messages) for each in told] == [MAX_REPORTED, MAX_REPORTED, 5]
    assert len({message for each in told for message in each.messages}) == count


async def test_one_commit_takes_a_bounded_number_of_reports(nursery: trio.Nursery) -> None:
    room = Room(nursery)
    for number in range(MAX_BATCH + 1):
        room.reports.confirmed(f"r{number}", outcome(number))

    await room.start()

    assert [len(batch) for batch in room.journal.batches] == [MAX_BATCH, 1]


async def test_confirmations_beyond_the_bound_are_counted_and_a_purge_waits(
    nursery: trio.Nursery, monkeypatch: Any
) -> None:
    monkeypatch.setattr(reports, "MAX_WAITING", 10)
    room = Room(nursery)
    room.reports.confirmed("r", outcome(*range(8), unreported=5))
    room.reports.confirmed("r", outcome(*range(8, 14)))
    assert room.counters.reports_lost == 5 + 4
    nursery.start_soon(room.reports.expired, [gone(number) for number in range(25)])
    await trio.testing.wait_all_tasks_blocked()

    await room.start()

    told = room.journal.told()
    assert sum(len(each.messages) for each in told if each.status.value == "delivered") == 10
    assert sum(len(each.messages) for each in told if each.status.value == "expired") == 25
    assert MAX_WAITING > 10_000


async def test_a_store_that_cannot_commit_is_tried_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    results: list[Result] = [
        CommitFailedError("the disk is full"),
        (STORED, refusing(RefusalReason.DISK_LOW), refusing(RefusalReason.QUOTA)),
    ]
    room = Room(nursery)
    room.journal.answers = lambda batch: results.pop(0) if results else (STORED,) * len(batch)
    for name in ("r1", "r2", "r3"):
        room.reports.confirmed(name, outcome(1))
    nursery.start_soon(room.reports.run, room.journal.submit, trio.lowlevel.checkpoint)
    await trio.sleep(2.5 * RETRY_INTERVAL)

    assert [len(batch) for batch in room.journal.batches] == [3, 3, 1]
    assert room.journal.told()[-1].device == "r2"
    assert (room.counters.reports_stored, room.counters.reports_refused) == (2, 1)


async def test_what_waits_when_the_server_stops_is_stored() -> None:
    async with trio.open_nursery() as nursery:
        room = Room(nursery)
        await room.start()
        nursery.cancel_scope.cancel()
        room.reports.confirmed("r", outcome(1))

    assert [each.device for each in room.journal.told()] == ["r"]


async def test_a_stalled_disk_does_not_keep_the_server_from_stopping(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        room = Room(nursery)
        room.journal.open = trio.Event()
        room.reports.confirmed("r", outcome(1))
        await room.start()
        room.reports.confirmed("r", outcome(2))
        nursery.cancel_scope.cancel()

    # What the journal had taken already is not given to it twice.
    assert [each.messages for each in room.journal.told()] == [(f"{1:032x}",), (f"{2:032x}",)]


async def test_switched_off_it_keeps_nothing(nursery: trio.Nursery) -> None:
    room = Room(nursery, enabled=False)
    room.reports.confirmed("r", outcome(1, unreported=3))
    await room.reports.expired([gone(1)])

    await room.start()

    assert room.journal.batches == []
    assert room.counters.reports_lost == 0
