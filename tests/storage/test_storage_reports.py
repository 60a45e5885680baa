"""Senders that asked learn what became of each row, once. For every backend."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import strategies as st

from commucat_storage import (
    Confirm,
    ConfirmedMessage,
    ConfirmOutcome,
    ExpiredMessage,
    Outcome,
    Storage,
    Submission,
    SubmissionOutcome,
    reported,
)
from databases.postgres_databases import PostgresDatabases
from storage.fresh_stores import FRESH, Fresh, Opener, check_scripts, stretches_of
from storage.storage_builders import (
    LATER,
    NOW,
    accepted,
    add_devices,
    asking,
    confirm,
    known,
    message,
    send,
)

if TYPE_CHECKING:
    from storage.conftest import Backend

SOON = NOW + 10
# Every inbox is forgotten and loaded again all the time.
LIMITS = {"max_rows": 8, "max_bytes": 60, "group_rows": 4, "journal_rows": 12, "cached_inboxes": 2}


def reports(outcome: Outcome) -> tuple[ConfirmedMessage, ...]:
    assert isinstance(outcome, ConfirmOutcome)
    assert outcome.applied
    assert outcome.unreported == 0
    return outcome.reports


def references(outcome: Outcome) -> list[bytes]:
    return [each.reference for each in reports(outcome)]


async def test_a_confirmation_names_the_messages_of_senders_that_asked(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "s")
    await send(
        storage,
        asking(b"one", "a", "b", channel=4, expires_at=SOON),
        message("a", sender="s"),
        asking(b"two", "a", sender="t", channel=5),
        attrs.evolve(asking(b"server", "a"), sender=""),
        asking(b"three", "a"),
    )

    first = await confirm(storage, "a", 4)

    assert reports(first) == (
        ConfirmedMessage("s", 4, b"one", SOON),
        ConfirmedMessage("t", 5, b"two", LATER),
    )
    assert reports(await confirm(storage, "a", 4)) == ()
    assert references(await confirm(storage, "a", 5)) == [b"three"]
    assert references(await confirm(storage, "b", 1)) == [b"one"]


async def test_a_reference_is_kept_only_with_the_wish_for_a_report(storage: Storage) -> None:
    await add_devices(storage, "a", "s")
    await send(
        storage,
        attrs.evolve(message("a", sender="s"), reference=b"not asked"),
        asking(b"", "a"),
    )

    assert references(await confirm(storage, "a", 2)) == [b""]


async def test_confirmations_in_one_transaction_each_name_their_own(storage: Storage) -> None:
    inboxes = await add_devices(storage, "a", "b", "s")
    to_a, to_b = inboxes["a"].epoch, inboxes["b"].epoch
    outcomes = await send(
        storage,
        asking(b"1", "a"),
        asking(b"2", "a", "b"),
        Confirm("a", to_a, 1),
        asking(b"3", "a"),
        Confirm("b", to_b, 1),
        Confirm("a", to_a, 3),
        asking(b"4", "a"),
        Confirm("a", to_a, 3),
        Confirm("a", to_a, 9),
    )

    assert [references(outcomes[index]) for index in (2, 4, 5, 7)] == [[b"1"], [b"2"], [b"2", b"3"], []]
    assert outcomes[8] == ConfirmOutcome(False, 3)
    assert references(await confirm(storage, "a", 4)) == [b"4"]


async def test_a_full_inbox_names_what_makes_room_within_the_transaction(backend: "Backend") -> None:
    async with backend.open(max_rows=3) as storage:
        epoch = (await add_devices(storage, "a", "s"))["a"].epoch
        outcomes = await send(
            storage,
            *[asking(bytes([number]), "a") for number in range(3)],
            Confirm("a", epoch, 2),
            asking(b"more", "a"),
        )
        assert references(outcomes[3]) == [b"\0", b"\1"]
        assert accepted(outcomes[4]) == {"a": 4}


async def test_a_fanned_out_message_is_named_by_each_receiver(storage: Storage) -> None:
    names = [f"d{number}" for number in range(20)]
    await add_devices(storage, "s", *names)
    await send(storage, asking(b"ref", *names))

    assert [references(await confirm(storage, name, 1)) for name in names] == [[b"ref"]] * 20


async def test_expiry_and_revocation_are_told_apart(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "s")
    await send(
        storage,
        asking(b"old", "a", "b", expires_at=SOON),
        asking(b"lost", "a"),
        asking(b"kept", "b"),
    )
    await storage.revoke_device("a", NOW)

    purged = await storage.purge_expired(SOON)

    def expired(device_id: str, number: int, reference: bytes, *, revoked: bool = False) -> ExpiredMessage:
        return ExpiredMessage(
            sender="s",
            channel=7,
            device_id=device_id,
            number=number,
            reference=reference,
            revoked=revoked,
        )

    assert purged.expired == (
        expired("a", 1, b"old"),
        expired("a", 2, b"lost", revoked=True),
        expired("b", 1, b"old"),
    )
    assert references(await confirm(storage, "b", 2)) == [b"kept"]


async def test_what_was_asked_survives_a_restart(backend: "Backend") -> None:
    async with backend.open() as storage:
        await add_devices(storage, "a", "s")
        await send(storage, asking(b"ref", "a"))
    async with backend.open() as storage:
        await storage.admit(known("a"))
        assert references(await confirm(storage, "a", 1)) == [b"ref"]


async def test_one_transaction_names_a_bounded_number(
    backend: "Backend", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reported, "MAX_REPORTS", 4)
    async with backend.open() as storage:
        epochs = {name: state.epoch for name, state in (await add_devices(storage, "a", "b", "s")).items()}
        await send(storage, *[asking(bytes([number]), "a", "b") for number in range(3)])

        outcomes = await send(storage, Confirm("a", epochs["a"], 3), Confirm("b", epochs["b"], 3))

        told = [(len(each.reports), each.unreported) for each in outcomes if isinstance(each, ConfirmOutcome)]
        assert told == [(3, 0), (1, 2)]
    assert backend.numbers("SELECT count(*) FROM relay_queue") == [(0,)]


# -- each row once, and no other ---------------------------------------------------------------------

RECEIVERS = ("a", "b", "c")
_Row = tuple[str, bytes]
"""A receiver and the reference of a message to it."""
submissions = st.tuples(
    st.just("send"), st.booleans(), st.frozensets(st.sampled_from(RECEIVERS), min_size=1), st.booleans()
)
confirmations = st.tuples(st.just("confirm"), st.sampled_from(RECEIVERS), st.integers(0, 12))
others = st.sampled_from(("purge", "reopen", "revoke"))
lives = st.lists(
    st.one_of(st.lists(st.one_of(submissions, confirmations), min_size=1, max_size=6), others), max_size=12
)


class Told:
    """What was asked, and what has been told so far."""

    def __init__(self, epochs: dict[str, str]) -> None:
        self.epochs = epochs
        self.asked: Counter[_Row] = Counter()
        self.delivered: Counter[_Row] = Counter()
        self.expired: Counter[_Row] = Counter()
        self._sent = 0

    def operation(self, step: tuple[object, ...]) -> Submission | Confirm:
        match step:
            case ("send", bool(report), frozenset() as receivers, bool(short)):
                self._sent += 1
                text = asking(
                    b"%d" % self._sent,
                    *sorted(map(str, receivers)),
                    payload=b"",
                    expires_at=SOON if short else LATER,
                )
                return attrs.evolve(text, report=report)
            case ("confirm", str(name), int(number)):
                return Confirm(name, self.epochs[name], number)
        raise AssertionError(step)

    def take(self, operations: Sequence[Submission | Confirm], outcomes: Sequence[Outcome]) -> None:
        for operation, outcome in zip(operations, outcomes, strict=True):
            if isinstance(operation, Submission) and isinstance(outcome, SubmissionOutcome):
                if operation.report:
                    self.asked.update((name, operation.reference) for name, _ in outcome.accepted)
            elif isinstance(operation, Confirm) and isinstance(outcome, ConfirmOutcome):
                assert outcome.unreported == 0
                assert all(each.sender == "s" for each in outcome.reports)
                self.delivered.update((operation.device_id, each.reference) for each in outcome.reports)

    async def purge(self, storage: Storage, now: int) -> None:
        purged = await storage.purge_expired(now)
        assert not purged.more
        self.expired.update((each.device_id, each.reference) for each in purged.expired)


async def live(opener: Opener, script: list[list[tuple[object, ...]] | str]) -> None:
    async with opener() as storage:
        inboxes = await add_devices(storage, "s", *RECEIVERS)
    told = Told({name: state.epoch for name, state in inboxes.items()})
    for stretch in stretches_of(script):
        async with opener() as storage:
            for step in stretch:
                if step == "purge":
                    await told.purge(storage, SOON)
                elif step == "revoke":
                    await storage.revoke_device("c", NOW)
                elif not isinstance(step, str):
                    batch = [told.operation(each) for each in step]
                    told.take(batch, await storage.commit(batch))
    async with opener() as storage:
        for name in ("a", "b"):
            state = await storage.inbox_state(name)
            assert state is not None
            last = [Confirm(name, state.epoch, state.next_number - 1)]
            told.take(last, await storage.commit(last))
        await told.purge(storage, LATER)
        assert (await storage.purge_expired(2 * LATER)).messages == 0
    assert told.delivered + told.expired == told.asked


@FRESH
def test_every_row_that_asks_is_told_of_once_and_no_other(
    fresh: Fresh, postgres_databases: PostgresDatabases
) -> None:
    check_scripts(fresh, postgres_databases, LIMITS, lives, live)
