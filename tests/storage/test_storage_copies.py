"""Copies of a message for the sender's own other devices. For every backend."""

from typing import TYPE_CHECKING

import attrs

from commucat_storage import ConfirmOutcome, RefusalReason, Storage, Submission, SubmissionOutcome
from storage.storage_builders import (
    NOW,
    accepted,
    add_devices,
    add_siblings,
    by_route,
    confirm,
    create,
    message,
    numbers,
    refused,
    route,
    send,
    stored,
)

if TYPE_CHECKING:
    from storage.conftest import Backend


def copied(message: Submission) -> Submission:
    return attrs.evolve(message, copies=True)


async def send_copied(storage: Storage, message: Submission) -> SubmissionOutcome:
    [outcome] = await send(storage, copied(message))
    assert isinstance(outcome, SubmissionOutcome)
    return outcome


async def test_the_senders_other_devices_get_it_too(storage: Storage) -> None:
    await add_devices(storage, "s", "a")
    await add_siblings(storage, "s", "s2", "s3")

    outcome = await send_copied(storage, message("a", sender="s", payload=b"hello"))

    assert outcome == SubmissionOutcome((("a", 1),), (), (("s2", 1), ("s3", 1)))
    for name in ("a", "s2", "s3"):
        assert [row.payload for row in await stored(storage, name)] == [b"hello"]
    assert await stored(storage, "s") == ()


async def test_without_the_wish_there_are_none(storage: Storage) -> None:
    await add_devices(storage, "s", "a")
    await add_siblings(storage, "s", "s2")

    [outcome] = await send(storage, message("a", sender="s"))

    assert outcome == SubmissionOutcome((("a", 1),))
    assert await stored(storage, "s2") == ()


async def test_a_device_that_is_a_recipient_already_gets_it_once(storage: Storage) -> None:
    await add_devices(storage, "s", "a")
    await add_siblings(storage, "s", "s2", "s3")
    await send(storage, route("s", 7, "a", "s2"))

    outcome = await send_copied(storage, by_route("s"))

    assert accepted(outcome) == {"a": 1, "s2": 1}
    assert outcome.copied == (("s3", 1),)
    assert numbers(await stored(storage, "s2")) == [1]


async def test_copies_follow_the_rule_of_the_channel(storage: Storage) -> None:
    await add_devices(storage, "s", "a")
    await add_siblings(storage, "s", "includes", "elsewhere", "other")
    await send(storage, route("includes", 7, "s"), route("elsewhere", 7, "a"), route("other", 8, "a"))

    outcome = await send_copied(storage, message("a", sender="s"))

    assert dict(outcome.copied) == {"includes": 1, "other": 1}
    assert refused(outcome) == {"elsewhere": RefusalReason.CHANNEL_CONFLICT}


async def test_a_group_stays_among_its_members(storage: Storage) -> None:
    await add_devices(storage, "s", "a")
    await add_siblings(storage, "s", "s2")
    await send(storage, create("s", "a"))

    outcome = await send_copied(storage, by_route("s"))

    assert (accepted(outcome), outcome.copied) == ({"a": 2}, ())
    assert refused(outcome) == {"s2": RefusalReason.NOT_MEMBER}


async def test_copies_are_no_acceptance(storage: Storage) -> None:
    await add_devices(storage, "s", "a")
    await add_siblings(storage, "s", "s2")
    await send(storage, route("a", 7, "x"))

    outcome = await send_copied(storage, message("a", "ghost", sender="s"))

    assert (outcome.accepted, outcome.copied) == ((), ())
    assert refused(outcome) == {
        "a": RefusalReason.CHANNEL_CONFLICT,
        "ghost": RefusalReason.UNKNOWN_DEVICE,
    }
    assert await stored(storage, "s2") == ()


async def test_copies_have_no_quota_of_their_own(backend: "Backend") -> None:
    async with backend.open(max_rows=2) as storage:
        await add_devices(storage, "s", "a", "b")
        await add_siblings(storage, "s", "s2")
        await send(storage, message("s2"))

        first = await send_copied(storage, message("a", sender="s"))
        second = await send_copied(storage, message("b", sender="s"))

        assert (first.copied, refused(first)) == ((("s2", 2),), {})
        assert (accepted(second), second.copied) == ({"b": 1}, ())
        assert refused(second) == {"s2": RefusalReason.QUOTA}


async def test_only_devices_that_are_active_now_get_copies(storage: Storage) -> None:
    await add_devices(storage, "s", "a")
    assert (await send_copied(storage, message("a", sender="s"))).copied == ()
    await add_siblings(storage, "s", "s2", "s3")
    assert dict((await send_copied(storage, message("a", sender="s"))).copied) == {"s2": 1, "s3": 1}
    await storage.revoke_device("s2", NOW)

    outcome = await send_copied(storage, message("a", sender="s"))

    assert (outcome.copied, refused(outcome)) == ((("s3", 2),), {})


async def test_copies_are_not_reported(storage: Storage) -> None:
    await add_devices(storage, "s", "a")
    await add_siblings(storage, "s", "s2")
    asked = attrs.evolve(message("a", sender="s"), report=True, reference=b"ref")
    await send_copied(storage, asked)

    assert await confirm(storage, "s2", 1) == ConfirmOutcome(True, 1)
    told = await confirm(storage, "a", 1)
    assert isinstance(told, ConfirmOutcome)
    assert [each.reference for each in told.reports] == [b"ref"]


async def test_the_server_and_unknown_senders_have_no_other_devices(storage: Storage) -> None:
    await add_devices(storage, "a", "b")

    for sender in ("", "ghost"):
        outcome = await send_copied(storage, message("a", sender=sender))
        assert (set(accepted(outcome)), outcome.copied) == ({"a"}, ())
