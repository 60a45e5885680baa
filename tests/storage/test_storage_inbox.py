"""Messages: numbering, order, fan-out, refusals, quotas and reading. For every backend."""

from typing import TYPE_CHECKING

import pytest
import trio

from commucat_storage import (
    CommitFailedError,
    Confirm,
    ConfirmOutcome,
    DropRoute,
    InboxRow,
    Outcome,
    Refusal,
    RefusalReason,
    Storage,
    Submission,
    SubmissionOutcome,
)
from storage.storage_builders import (
    LATER,
    NOW,
    accepted,
    add_devices,
    by_route,
    confirm,
    message,
    numbers,
    refusal,
    refused,
    route,
    send,
    stored,
)

if TYPE_CHECKING:
    from storage.conftest import Backend


async def test_numbers_start_at_one_and_rise_within_and_across_batches(storage: Storage) -> None:
    await add_devices(storage, "a", "b")

    first = await send(storage, message("a"), message("b"), message("a"))
    second = await send(storage, message("a", "b"))

    assert [accepted(each) for each in first] == [{"a": 1}, {"b": 1}, {"a": 2}]
    assert [accepted(each) for each in second] == [{"a": 3, "b": 2}]


async def test_a_row_comes_back_as_it_was_sent(storage: Storage) -> None:
    await add_devices(storage, "a")
    payload = bytes(range(256))

    await send(storage, Submission("", 2**32 - 1, 255, payload, LATER, ("a",)))
    await send(storage, Submission("", 0, 0, b"", LATER, ("a",)))

    assert await stored(storage, "a") == (InboxRow(1, 255, 2**32 - 1, payload), InboxRow(2, 0, 0, b""))


async def test_concurrent_callers_are_told_in_number_order(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    told: dict[str, list[int]] = {"a": [], "b": []}

    def done(result: tuple[Outcome, ...] | CommitFailedError) -> None:
        assert isinstance(result, tuple)
        for outcome in result:
            for name, number in accepted(outcome).items():
                told[name].append(number)

    async def caller(index: int) -> None:
        for turn in range(10):
            await storage.enqueue([message("a"), message("b", "a")] * (1 + index % 3), done)
            if turn % 3 == index % 3:
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for index in range(20):
            nursery.start_soon(caller, index)
    await send(storage, message("b"))

    assert told["a"] == list(range(1, len(told["a"]) + 1))
    assert told["b"] == list(range(1, len(told["b"]) + 1))
    assert numbers(await stored(storage, "a")) == told["a"]


async def test_one_callers_batches_are_stored_in_the_order_it_enqueued_them(storage: Storage) -> None:
    await add_devices(storage, "a")

    for index in range(200):
        await storage.enqueue([message("a", payload=str(index).encode())], lambda result: None)
    await send(storage, message("a", payload=b"last"))

    assert [each.payload for each in await stored(storage, "a")] == [
        *(str(index).encode() for index in range(200)),
        b"last",
    ]


async def test_a_message_to_many_reaches_all_with_the_same_payload(storage: Storage) -> None:
    names = [f"d{index:03}" for index in range(300)]
    await add_devices(storage, *names)

    [outcome] = await send(storage, message(*names, payload=b"to all"))

    assert accepted(outcome) == dict.fromkeys(names, 1)
    for name in names[::50]:
        assert [each.payload for each in await stored(storage, name)] == [b"to all"]


async def test_a_shared_payload_outlives_the_confirmation_of_all_but_one(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    await send(storage, message("a", "b", "c", payload=b"shared"))

    await confirm(storage, "a", 1)
    await confirm(storage, "b", 1)

    assert await stored(storage, "a") == ()
    assert [each.payload for each in await stored(storage, "c")] == [b"shared"]


async def test_the_sender_is_no_recipient_and_duplicates_collapse(storage: Storage) -> None:
    await add_devices(storage, "a", "b")

    outcomes = await send(storage, message("a", "b", "a", "b", sender="a"), message("a", sender="a"))

    nobody = Refusal(device_id="", reason=RefusalReason.NO_ROUTE)
    assert outcomes == (SubmissionOutcome((("b", 1),)), SubmissionOutcome((), (nobody,)))


async def test_a_revoked_sender_is_refused(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await storage.revoke_device("a", NOW)

    outcomes = await send(storage, message("b", sender="a"))

    assert outcomes == (SubmissionOutcome((), (Refusal(device_id="", reason=RefusalReason.REVOKED),)),)


async def test_devices_that_are_not_active_are_told_apart(storage: Storage) -> None:
    await add_devices(storage, "a", "gone")
    await storage.revoke_device("gone", NOW)

    assert await storage.not_active(["a", "gone", "nobody"]) == {"gone", "nobody"}
    assert await storage.not_active([]) == frozenset()


async def test_unknown_and_revoked_devices_are_refused_by_name(storage: Storage) -> None:
    await add_devices(storage, "a", "gone")
    await storage.revoke_device("gone", NOW)

    [outcome] = await send(storage, message("nobody", "a", "gone", ""))

    assert accepted(outcome) == {"a": 1}
    assert refused(outcome) == {
        "nobody": RefusalReason.UNKNOWN_DEVICE,
        "gone": RefusalReason.REVOKED,
        "": RefusalReason.UNKNOWN_DEVICE,
    }


async def test_a_device_revoked_while_it_is_remembered_refuses_at_once(storage: Storage) -> None:
    await add_devices(storage, "a")
    await send(storage, message("a"))

    await storage.revoke_device("a", NOW)

    [outcome] = await send(storage, message("a"))
    assert refused(outcome) == {"a": RefusalReason.REVOKED}


async def test_an_unknown_device_accepts_as_soon_as_it_is_admitted(storage: Storage) -> None:
    [before] = await send(storage, message("a"))
    await add_devices(storage, "a")
    [after] = await send(storage, message("a"))

    assert refused(before) == {"a": RefusalReason.UNKNOWN_DEVICE}
    assert accepted(after) == {"a": 1}


# -- routes and the channel rule -------------------------------------------------------------------


async def test_a_recipient_without_a_route_on_the_channel_accepts_anybody(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await send(storage, route("b", 8, "c"))

    [outcome] = await send(storage, message("b", sender="a", channel=7))

    assert accepted(outcome) == {"b": 1}


async def test_a_recipients_own_route_lets_only_its_members_in(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    await send(storage, route("b", 7, "c"))

    outcomes = await send(
        storage, message("b", sender="a"), message("b", sender="c"), message("b", sender="")
    )

    assert refused(outcomes[0]) == {"b": RefusalReason.CHANNEL_CONFLICT}
    assert [accepted(each) for each in outcomes[1:]] == [{"b": 1}, {"b": 2}]


async def test_a_route_in_a_batch_holds_for_the_messages_after_it(storage: Storage) -> None:
    await add_devices(storage, "a", "b")

    outcomes = await send(
        storage,
        message("b", sender="a"),
        route("b", 7, "c"),
        message("b", sender="a"),
        route("b", 7, "c", "a"),
        message("b", sender="a"),
        route("b", 7, "c"),
        DropRoute("b", 7),
        message("b", sender="a"),
    )

    assert [accepted(outcomes[index]) for index in (0, 2, 4, 7)] == [{"b": 1}, {}, {"b": 2}, {"b": 3}]


async def test_a_message_without_recipients_follows_its_senders_route(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")

    outcomes = await send(
        storage, by_route("a"), route("a", 7, "c", "b", "a", relay=True), by_route("a"), by_route("a", 8)
    )

    nothing = SubmissionOutcome((), (refusal("", RefusalReason.NO_ROUTE),))
    assert outcomes[0] == nothing
    assert outcomes[2] == SubmissionOutcome((("b", 1), ("c", 1)))
    assert outcomes[3] == nothing
    assert (await send(storage, by_route("")))[0] == nothing


async def test_a_route_is_replaced_only_by_its_own_device(storage: Storage) -> None:
    await add_devices(storage, "a", "b")

    await send(storage, route("a", 7, "b"), route("b", 7, "c"), route("a", 7, "x", "y", relay=True))

    routes = await storage.routes_of("a")
    assert routes == {7: route("a", 7, "x", "y", relay=True).route}
    assert (await storage.routes_of("b"))[7].members == {"c"}


async def test_routes_of_unknown_and_revoked_devices_are_refused(storage: Storage) -> None:
    await add_devices(storage, "gone")
    await storage.revoke_device("gone", NOW)

    outcomes = await send(storage, route("nobody", 1), route("gone", 1), DropRoute("nobody", 1))

    assert [getattr(each, "refused", None) for each in outcomes] == [
        RefusalReason.UNKNOWN_DEVICE,
        RefusalReason.REVOKED,
        RefusalReason.UNKNOWN_DEVICE,
    ]


async def test_dropping_a_route_that_is_not_there_is_no_error(storage: Storage) -> None:
    await add_devices(storage, "a")

    [outcome] = await send(storage, DropRoute("a", 5))

    assert getattr(outcome, "refused", "?") is None


async def test_the_number_of_routes_is_bounded(backend: "Backend") -> None:
    async with backend.open(max_routes=3) as storage:
        await add_devices(storage, "a")
        outcomes = await send(
            storage,
            *(route("a", each) for each in range(5)),
            route("a", 2, "x"),
            DropRoute("a", 0),
            route("a", 9),
        )

        reasons = [getattr(each, "refused", "?") for each in outcomes]
        too_many = RefusalReason.TOO_MANY_ROUTES
        assert reasons == [None, None, None, too_many, too_many, None, None, None]
        assert set(await storage.routes_of("a")) == {1, 2, 9}


async def test_the_members_of_all_routes_are_bounded(backend: "Backend") -> None:
    async with backend.open(max_route_members=4) as storage:
        await add_devices(storage, "a")
        outcomes = await send(
            storage,
            route("a", 1, "x", "y", "z"),
            route("a", 2, "x", "y"),
            route("a", 1, "x"),
            route("a", 2, "x", "y"),
        )

        reasons = [getattr(each, "refused", "?") for each in outcomes]
        assert reasons == [None, RefusalReason.TOO_MANY_ROUTES, None, None]


# -- confirmation ----------------------------------------------------------------------------------


async def test_a_confirmation_deletes_up_to_its_number_and_raises_the_watermark(storage: Storage) -> None:
    await add_devices(storage, "a")
    await send(storage, *[message("a")] * 5)

    assert await confirm(storage, "a", 3) == ConfirmOutcome(True, 3)

    assert numbers(await stored(storage, "a")) == [4, 5]
    state = await storage.inbox_state("a")
    assert state is not None
    assert (state.next_number, state.confirmed) == (6, 3)


async def test_a_confirmation_below_the_watermark_changes_nothing(storage: Storage) -> None:
    await add_devices(storage, "a")
    await send(storage, *[message("a")] * 5)
    await confirm(storage, "a", 3)

    assert await confirm(storage, "a", 2) == ConfirmOutcome(False, 3)
    assert await confirm(storage, "a", 3) == ConfirmOutcome(True, 3)
    assert numbers(await stored(storage, "a")) == [4, 5]


async def test_a_confirmation_above_the_highest_number_deletes_nothing(storage: Storage) -> None:
    await add_devices(storage, "a")
    await send(storage, *[message("a")] * 2)

    assert await confirm(storage, "a", 3) == ConfirmOutcome(False, 0)
    assert numbers(await stored(storage, "a")) == [1, 2]


async def test_a_confirmation_of_a_foreign_epoch_deletes_nothing(storage: Storage) -> None:
    await add_devices(storage, "a")
    await send(storage, message("a"))

    outcomes = await send(storage, Confirm("a", "0" * 32, 1), Confirm("nobody", "", 0))

    assert outcomes == (ConfirmOutcome(False, 0), ConfirmOutcome(False, 0))
    assert numbers(await stored(storage, "a")) == [1]


async def test_a_batch_may_confirm_what_it_sends(storage: Storage) -> None:
    inbox = (await add_devices(storage, "a"))["a"]

    outcomes = await send(storage, message("a"), message("a"), Confirm("a", inbox.epoch, 1), message("a"))

    assert outcomes[2] == ConfirmOutcome(True, 1)
    assert numbers(await stored(storage, "a")) == [2, 3]


async def test_numbers_go_on_after_everything_is_confirmed(storage: Storage) -> None:
    await add_devices(storage, "a")
    await send(storage, *[message("a")] * 3)
    await confirm(storage, "a", 3)

    [outcome] = await send(storage, message("a"))

    assert accepted(outcome) == {"a": 4}


# -- quotas ----------------------------------------------------------------------------------------


async def test_a_full_inbox_refuses_and_the_others_accept(backend: "Backend") -> None:
    async with backend.open(max_rows=2) as storage:
        await add_devices(storage, "a", "b")
        await send(storage, message("a"), message("a"))

        [outcome] = await send(storage, message("a", "b"))

        assert outcome == SubmissionOutcome((("b", 1),), (refusal("a", RefusalReason.QUOTA),))


async def test_bytes_count_for_inline_and_shared_payloads(backend: "Backend") -> None:
    async with backend.open(max_bytes=10) as storage:
        await add_devices(storage, "a", "b")
        outcomes = await send(
            storage,
            message("a", payload=bytes(4)),
            message("a", "b", payload=bytes(4)),
            message("a", "b", payload=bytes(3)),
            message("a", payload=bytes(2)),
        )

        assert [accepted(each) for each in outcomes] == [{"a": 1}, {"a": 2, "b": 1}, {"b": 2}, {"a": 3}]


async def test_confirming_gives_room_even_within_the_batch(backend: "Backend") -> None:
    async with backend.open(max_rows=3, max_bytes=30) as storage:
        inbox = (await add_devices(storage, "a"))["a"]
        await send(storage, *[message("a", payload=bytes(10))] * 3)

        outcomes = await send(
            storage,
            message("a", payload=bytes(10)),
            Confirm("a", inbox.epoch, 2),
            message("a", payload=bytes(15)),
            message("a", payload=bytes(10)),
            message("a", payload=bytes(5)),
        )

        assert [accepted(outcomes[index]) for index in (0, 2, 3, 4)] == [{}, {"a": 4}, {}, {"a": 5}]
        assert numbers(await stored(storage, "a")) == [3, 4, 5]


# -- reading ---------------------------------------------------------------------------------------


async def test_pages_are_bounded_by_rows_and_say_whether_they_are_complete(storage: Storage) -> None:
    await add_devices(storage, "a")
    await send(storage, *[message("a")] * 5)

    first = await storage.read_after("a", 0, limit_rows=2, limit_bytes=1000, now=NOW)
    second = await storage.read_after("a", 2, limit_rows=3, limit_bytes=1000, now=NOW)

    assert (numbers(first.rows), first.head, first.complete) == ([1, 2], 5, False)
    assert (numbers(second.rows), second.head, second.complete) == ([3, 4, 5], 5, True)


async def test_pages_are_bounded_by_bytes_but_never_empty(storage: Storage) -> None:
    await add_devices(storage, "a", "b")
    await send(storage, message("a", payload=bytes(50)), message("a", "b", payload=bytes(50)))
    await send(storage, message("a", payload=bytes(900)))

    both = await storage.read_after("a", 0, limit_rows=9, limit_bytes=100, now=NOW)
    large = await storage.read_after("a", 2, limit_rows=9, limit_bytes=100, now=NOW)

    assert (numbers(both.rows), both.complete) == ([1, 2], False)
    assert (numbers(large.rows), large.complete) == ([3], True)


async def test_rows_at_or_below_the_watermark_are_not_read_again(storage: Storage) -> None:
    await add_devices(storage, "a")
    await send(storage, *[message("a")] * 3)
    await confirm(storage, "a", 2)

    assert numbers(await stored(storage, "a", above=0)) == [3]


async def test_expired_rows_are_not_read_but_the_head_stays(storage: Storage) -> None:
    await add_devices(storage, "a")
    await send(storage, message("a", expires_at=NOW + 5), message("a"), message("a", expires_at=NOW + 5))

    page = await storage.read_after("a", 0, limit_rows=9, limit_bytes=100, now=NOW + 5)

    assert (numbers(page.rows), page.head, page.complete) == ([2], 3, True)


async def test_an_empty_inbox_and_an_unknown_device_give_empty_complete_pages(storage: Storage) -> None:
    await add_devices(storage, "a")
    await send(storage, message("a"))
    await confirm(storage, "a", 1)

    empty = await storage.read_after("a", 0, limit_rows=9, limit_bytes=100, now=NOW)
    unknown = await storage.read_after("nobody", 0, limit_rows=9, limit_bytes=100, now=NOW)

    assert (empty.rows, empty.head, empty.complete) == ((), 1, True)
    assert (unknown.rows, unknown.head, unknown.complete) == ((), 0, True)
    assert await storage.inbox_state("nobody") is None
    assert await storage.routes_of("nobody") == {}


async def test_a_page_needs_room_for_a_row(storage: Storage) -> None:
    with pytest.raises(ValueError, match="limit_rows"):
        await storage.read_after("a", 0, limit_rows=0, limit_bytes=100, now=NOW)


# -- the batch -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch",
    [
        [],
        [message("a", channel=-1)],
        [message("a", channel=2**32)],
        [Submission("", 1, 256, b"", LATER, ("a",))],
        [Submission("", 1, -1, b"", LATER, ("a",))],
        [message("a", expires_at=-1)],
        [message("a", expires_at=2**62)],
        [route("a", 2**32, "b")],
        [DropRoute("a", -1)],
        [Confirm("a", "", -1)],
        [Confirm("a", "", 2**32)],
        [message("a"), "not an operation"],
    ],
)
async def test_a_batch_out_of_range_is_refused_before_it_is_taken(
    storage: Storage, batch: list[Submission]
) -> None:
    with pytest.raises(ValueError, match=r"range|empty|operation"):
        await storage.commit(batch)
    with pytest.raises(ValueError, match=r"range|empty|operation"):
        await storage.enqueue(batch, lambda result: None)


async def test_a_commit_that_was_taken_is_stored_although_nobody_waits_for_it(storage: Storage) -> None:
    await add_devices(storage, "a")

    with trio.CancelScope() as scope:
        scope.cancel()
        await storage.commit([message("a")])
    await send(storage, message("a"))

    assert scope.cancelled_caught
    assert numbers(await stored(storage, "a")) == [1, 2]


async def test_everything_is_there_after_closing_and_opening(backend: "Backend") -> None:
    told: list[object] = []
    async with backend.open() as storage:
        before = await add_devices(storage, "a", "b")
        await send(
            storage, *[message("a")] * 5, message("a", "b", payload=b"both"), route("a", 9, "b", relay=True)
        )
        await confirm(storage, "a", 2)
        await storage.enqueue([message("a", payload=b"at the end")], told.append)
    assert told == [(SubmissionOutcome((("a", 7),)),)]

    async with backend.open() as storage:
        rows = await stored(storage, "a")
        assert numbers(rows) == [3, 4, 5, 6, 7]
        assert [each.payload for each in rows[-2:]] == [b"both", b"at the end"]
        assert await storage.routes_of("a") == {9: route("a", 9, "b", relay=True).route}
        state = await storage.inbox_state("a")
        assert state is not None
        assert (state.epoch, state.next_number, state.confirmed) == (before["a"].epoch, 8, 2)
        [outcome] = await send(storage, message("a", "b"))
        assert accepted(outcome) == {"a": 8, "b": 2}


async def test_a_closed_store_takes_nothing(backend: "Backend") -> None:
    async with backend.open() as storage:
        await add_devices(storage, "a")

    with pytest.raises(CommitFailedError):
        await storage.commit([message("a")])
    with pytest.raises(CommitFailedError):
        await storage.enqueue([message("a")], lambda result: None)
