"""Messages on their way to other servers, and messages that come from them. For every backend."""

from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from commucat_storage import (
    CommitFailedError,
    Confirm,
    ConfirmOutcome,
    ExpiredMessage,
    Friend,
    Once,
    OutboxPage,
    OutboxRow,
    OutboxStanding,
    Outcome,
    Refusal,
    RefusalReason,
    Resolve,
    ResolveOutcome,
    RouteOutcome,
    Storage,
    Submission,
    SubmissionOutcome,
    domain_of,
    outbox_of,
)
from storage.storage_builders import (
    LATER,
    NOW,
    accepted,
    add_devices,
    add_siblings,
    asking,
    by_route,
    message,
    new_user,
    numbers,
    refused,
    route,
    send,
    stored,
)

if TYPE_CHECKING:
    from storage.conftest import Backend

B = "b.example"
SOON = NOW + 10


async def page(
    storage: Storage, domain: str = B, above: int = 0, *, rows: int = 1000, size: int = 2**30, now: int = NOW
) -> OutboxPage:
    found = await storage.outbox_page(domain, above, limit_rows=rows, limit_bytes=size, now=now)
    assert found is not None
    return found


async def ready(storage: Storage, *names: str, domains: tuple[str, ...] = (B,)) -> None:
    await add_devices(storage, *names)
    for domain in domains:
        await storage.set_outbox(domain, open=True)


async def confirm_page(storage: Storage, number: int, domain: str = B) -> Outcome:
    found = await page(storage, domain)
    [outcome] = await send(storage, Confirm(outbox_of(domain), found.epoch, number))
    return outcome


def targets(found: OutboxPage) -> dict[int, str]:
    return {row.number: row.target for row in found.rows}


def once(key: str, *recipients: str, sender: str = f"x@{B}", **fields: Any) -> Submission:
    named = Once("federation-inbox", key, LATER)
    return attrs.evolve(message(*recipients, sender=sender, **fields), once=named)


def test_domains_are_told_apart_from_devices() -> None:
    assert [domain_of(each) for each in ("dev", "dev@B.Example", "d@x@y", "@B", "d@")] == [
        *(None, "b.example", "x@y", "b", ""),
    ]
    assert outbox_of("B.Example") == "@b.example"


# -- what goes out -------------------------------------------------------------------------------------


async def test_a_message_reaches_devices_here_and_elsewhere_in_one_transaction(storage: Storage) -> None:
    await ready(storage, "a", "c", domains=(B, "d.example"))

    [outcome] = await send(
        storage, asking(b"ref", "c", "x@B.example", "y@d.example", "z@b.example", sender="a")
    )

    assert outcome == SubmissionOutcome(
        (("c", 1), ("x@B.example", 1), ("y@d.example", 1), ("z@b.example", 2))
    )
    found = await page(storage, "B.EXAMPLE")
    row = OutboxRow(
        number=1,
        frame_type=1,
        channel=7,
        payload=b"meow",
        expires_at=LATER,
        sender="a",
        sender_handle="a",
        target="x@B.example",
        report=True,
        reference=b"ref",
    )
    assert found.rows == (row, attrs.evolve(row, number=2, target="z@b.example"))
    assert (found.head, found.complete, found.confirmed) == (2, True, 0)
    assert targets(await page(storage, "d.example")) == {1: "y@d.example"}
    assert [each.payload for each in await stored(storage, "c")] == [b"meow"]


async def test_a_batch_that_fails_stores_nothing_for_anybody(storage: Storage) -> None:
    await ready(storage, "a", "c")
    with pytest.raises(ValueError, match="out of range"):
        await send(storage, message("c", f"x@{B}", sender="a"), message("c", channel=-1))

    assert (await page(storage)).rows == ()
    assert await stored(storage, "c") == ()


async def test_the_server_itself_speaks_to_a_peer(storage: Storage) -> None:
    await ready(storage, "a")

    outcomes = await send(
        storage,
        Submission("", 0, 200, b"event", LATER, (f"@{B}",), report=True, reference=b"r"),
        message("@B.Example"),
        message(f"@{B}", sender="a"),
    )

    assert [accepted(each) for each in outcomes] == [{f"@{B}": 1}, {"@B.Example": 2}, {}]
    assert refused(outcomes[2]) == {f"@{B}": RefusalReason.UNKNOWN_DEVICE}
    first, second = (await page(storage)).rows
    assert (first.sender, first.sender_handle, first.target) == ("", None, f"@{B}")
    assert (first.frame_type, first.report, first.reference) == (200, False, b"")
    assert second.target == "@B.Example"


async def test_number_order_is_commit_order(storage: Storage) -> None:
    await ready(storage, "a")
    told: list[int] = []

    def done(result: tuple[Outcome, ...] | CommitFailedError) -> None:
        assert isinstance(result, tuple)
        told.extend(number for outcome in result for number in accepted(outcome).values())

    async def caller(index: int) -> None:
        for turn in range(10):
            await storage.enqueue([message(f"x{index}@{B}", payload=str(turn).encode(), sender="a")], done)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for index in range(8):
            nursery.start_soon(caller, index)
    await storage.settle()

    found = await page(storage)
    assert told == [row.number for row in found.rows] == list(range(1, 81))
    for index in range(8):
        mine = [row.payload for row in found.rows if row.target == f"x{index}@{B}"]
        assert mine == [str(turn).encode() for turn in range(10)]


async def test_an_unknown_or_closed_domain_refuses_by_name(storage: Storage) -> None:
    await ready(storage, "a", "c")
    await send(storage, message(f"x@{B}", sender="a"))
    await storage.set_outbox(B, open=False)

    outcomes = await send(
        storage, message("c", f"x@{B}", "y@nowhere", sender="a"), message("y@", "y@nowhere@b", sender="a")
    )

    assert accepted(outcomes[0]) == {"c": 1}
    assert (
        set(refused(outcomes[0]).values())
        == set(refused(outcomes[1]).values())
        == {RefusalReason.UNKNOWN_DOMAIN}
    )
    assert list(refused(outcomes[0])) == [f"x@{B}", "y@nowhere"]
    assert targets(await page(storage)) == {1: f"x@{B}"}  # it keeps what it has
    assert await storage.outbox_page("nowhere", 0, limit_rows=1, limit_bytes=1, now=NOW) is None

    await storage.set_outbox("B.example", open=True)
    await storage.set_outbox("nowhere", open=True)
    [outcome] = await send(storage, message(f"x@{B}", "y@nowhere", sender="a"))
    assert accepted(outcome) == {f"x@{B}": 2, "y@nowhere": 1}


async def test_ids_that_no_device_can_have_harm_nobody(storage: Storage) -> None:
    await ready(storage, "a", "c")
    wrong = (f"\ud800@{B}", "x@\ud800", "x@\0", f"\0@{B}", "@", "@\ud800")

    [outcome] = await send(storage, message("c", *wrong, f"x@{B}", sender="a"))

    assert accepted(outcome) == {"c": 1, f"x@{B}": 1}
    assert set(refused(outcome)) == set(wrong)
    [outcome] = await send(storage, message("c", sender=f"\ud800@{B}"))
    assert accepted(outcome) == {"c": 2}
    with pytest.raises(ValueError, match="sender's id"):
        await send(storage, asking(b"r", "c", sender=f"\ud800@{B}"))
    assert await storage.outbox_page("\ud800", 0, limit_rows=1, limit_bytes=1, now=NOW) is None


@pytest.mark.parametrize("domain", ["", "a@b", "a\0b", "a\nb", "a\ud800"])
async def test_what_can_be_no_domain_gets_no_outbox(storage: Storage, domain: str) -> None:
    with pytest.raises(ValueError, match="not a domain"):
        await storage.set_outbox(domain, open=True)


async def test_an_outbox_has_the_limits_of_an_inbox(backend: "Backend") -> None:
    async with backend.open(max_rows=5, max_bytes=100, stranger_rows=1) as storage:
        await ready(storage, "a", "c")

        outcomes = await send(
            storage,
            # Counted row by row within one message, too.
            message("c", *(f"x{index}@{B}" for index in range(7)), sender="a"),
            message(f"x@{B}", "c", sender="a"),
        )
        assert len(accepted(outcomes[0])) == 1 + 5
        assert refused(outcomes[0]) == dict.fromkeys([f"x5@{B}", f"x6@{B}"], RefusalReason.QUOTA)
        assert refused(outcomes[1])[f"x@{B}"] is RefusalReason.QUOTA

        epoch = (await page(storage)).epoch
        outcomes = await send(
            storage, Confirm(f"@{B}", epoch, 3), message(f"x@{B}", f"y@{B}", payload=bytes(47), sender="a")
        )
        assert accepted(outcomes[1]) == {f"x@{B}": 6}
        assert refused(outcomes[1]) == {f"y@{B}": RefusalReason.QUOTA}


async def test_a_full_disk_refuses(backend: "Backend") -> None:
    async with backend.open() as storage:
        await ready(storage, "a")
    async with backend.open(min_free_bytes=2**62) as storage:
        [outcome] = await send(storage, message(f"x@{B}", sender="a"))

        assert refused(outcome) == {f"x@{B}": RefusalReason.DISK_LOW}


async def test_a_page_has_limits(storage: Storage) -> None:
    await ready(storage, "a")
    await send(storage, *[message(f"x@{B}", payload=bytes(10), sender="a")] * 4)
    await send(storage, message(f"x@{B}", payload=bytes(1000), sender="a"))

    first = await page(storage, rows=2)
    assert (list(targets(first)), first.complete, first.head) == ([1, 2], False, 5)
    assert list(targets(await page(storage, above=2, size=15))) == [3]
    assert list(targets(await page(storage, above=4, size=1))) == [5]
    rest = await page(storage, above=3)
    assert (list(targets(rest)), rest.complete) == ([4, 5], True)
    nothing = await page(storage, above=5)
    assert (nothing.rows, nothing.complete, nothing.head) == ((), True, 5)
    with pytest.raises(ValueError, match="limit_rows"):
        await page(storage, rows=0)


async def test_a_peer_confirms_and_nobody_is_named(storage: Storage) -> None:
    await ready(storage, "a", "c")
    await send(storage, *[asking(b"ref", f"x@{B}", "c", sender="a")] * 3)

    assert await confirm_page(storage, 2) == ConfirmOutcome(True, 2)

    found = await page(storage)
    assert (list(targets(found)), found.confirmed, found.head) == ([3], 2, 3)
    assert await confirm_page(storage, 4) == ConfirmOutcome(False, 2)
    assert await send(storage, Confirm(f"@{B}", "0" * 32, 3)) == (ConfirmOutcome(False, 2),)
    assert await send(storage, Confirm("@nowhere", found.epoch, 3)) == (ConfirmOutcome(False, 0),)
    assert await confirm_page(storage, 3) == ConfirmOutcome(True, 3)
    [standing] = await storage.outboxes()
    assert standing == OutboxStanding(domain=B, open=True, rows=0, bytes=0, earliest_expiry=None)
    assert numbers(await stored(storage, "c")) == [1, 2, 3]  # the payload was shared with it


async def test_what_waits_is_listed_by_domain(storage: Storage) -> None:
    await ready(storage, "a", domains=("z.example", B))
    await storage.set_outbox("z.example", open=False)
    await send(storage, message(f"x@{B}", sender="a"), message(f"x@{B}", sender="a", expires_at=SOON))

    assert await storage.outboxes() == (
        OutboxStanding(domain=B, open=True, rows=2, bytes=8, earliest_expiry=LATER),
        OutboxStanding(domain="z.example", open=False, rows=0, bytes=0, earliest_expiry=None),
    )


async def test_everything_is_there_when_the_store_is_opened_again(backend: "Backend") -> None:
    async with backend.open() as storage:
        await ready(storage, "a")
        await send(storage, *[asking(b"r", f"x@{B}", sender="a")] * 3)
        await confirm_page(storage, 1)
        before = await page(storage)
    async with backend.open() as storage:
        assert await page(storage) == before
        [outcome] = await send(storage, message(f"x@{B}", sender="a"))
        assert accepted(outcome) == {f"x@{B}": 4}


async def test_expired_rows_are_told_with_their_target(storage: Storage) -> None:
    await ready(storage, "a", "c")
    await send(
        storage,
        asking(b"one", f"x@{B}", "c", sender="a", expires_at=SOON),
        message(f"x@{B}", sender="a", expires_at=SOON),
        asking(b"two", f"y@{B}", sender="a"),
    )
    assert targets(await page(storage, now=SOON)) == {3: f"y@{B}"}

    purged = await storage.purge_expired(SOON)

    told = ExpiredMessage(sender="a", channel=7, device_id="c", number=1, reference=b"one")
    assert purged.messages == 3
    assert set(purged.expired) == {told, attrs.evolve(told, device_id=f"x@{B}")}
    [standing] = await storage.outboxes()
    assert (standing.rows, standing.bytes) == (1, 4)
    assert await confirm_page(storage, 3) == ConfirmOutcome(True, 3)
    assert (await storage.purge_expired(LATER)).expired == ()


async def test_what_waits_for_a_peer_can_be_purged(storage: Storage) -> None:
    await ready(storage, "a", "c", domains=(B, "d.example"))
    await send(storage, *[asking(b"ref", f"x@{B}", "c", "x@d.example", sender="a")] * 2)
    await storage.set_outbox(B, open=False)

    assert await storage.purge_outbox("B.Example") == 2
    assert await storage.purge_outbox(B) == 0
    assert await storage.purge_outbox("nowhere") == 0

    assert (await page(storage)).rows == ()
    assert [each.device_id for each in (await storage.purge_expired(NOW)).expired] == [f"x@{B}"] * 2
    assert [standing.rows for standing in await storage.outboxes()] == [0, 2]
    assert len(await stored(storage, "c")) == 2


async def test_the_handle_is_the_one_of_now(storage: Storage) -> None:
    await ready(storage, "a")
    await add_siblings(storage, "a", "a2")
    await send(storage, message(f"x@{B}", sender="a2"), message(f"x@{B}", sender="ghost"))

    assert [row.sender_handle for row in (await page(storage)).rows] == ["a", None]


@pytest.mark.parametrize(
    ("used", "waiting", "renewed"), [(2**31, 0, True), (2**31, 2, False), (2**32 - 9, 2, True)]
)
async def test_numbers_of_an_outbox_do_not_end(
    backend: "Backend", used: int, waiting: int, renewed: bool
) -> None:
    async with backend.open() as storage:
        await ready(storage, "a")
        before = await page(storage)
    # As if so many had been sent.
    backend.change(
        f"UPDATE inbox_offset SET next_number = {used + 1}, confirmed = {used} WHERE epoch = '{before.epoch}'"
    )
    async with backend.open() as storage:
        for number in range(waiting):
            await send(storage, message(f"x{number}@{B}", sender="a"))
        await storage.purge_expired(NOW)

        found = await page(storage)
        assert (found.epoch != before.epoch) is renewed
        first = 1 if renewed else used + 1
        assert targets(found) == {first + n: f"x{n}@{B}" for n in range(waiting)}
        assert (found.head, found.confirmed) == (first + waiting - 1, first - 1)
        [outcome] = await send(storage, message(f"y@{B}", sender="a"))
        assert accepted(outcome) == {f"y@{B}": first + waiting}
        assert await confirm_page(storage, first + waiting) == ConfirmOutcome(True, first + waiting)
        assert [standing.rows for standing in await storage.outboxes()] == [0]


async def test_the_inbox_of_a_deleted_device_goes_and_outboxes_stay(backend: "Backend") -> None:
    async with backend.open() as storage:
        await ready(storage, "a", "c")
        await send(storage, message(f"x@{B}", sender="a"))
    backend.change("DELETE FROM app_user WHERE handle = 'a'")
    async with backend.open() as storage:
        [row] = (await page(storage)).rows
        assert (row.sender, row.sender_handle) == ("a", None)
        assert refused((await send(storage, message("a", sender="c")))[0]) == {
            "a": RefusalReason.UNKNOWN_DEVICE
        }
        assert await confirm_page(storage, 1) == ConfirmOutcome(True, 1)
        await storage.admit(new_user("a"))
        [outcome] = await send(storage, message("a", f"x@{B}", sender="c"))
        assert accepted(outcome) == {"a": 1, f"x@{B}": 2}


async def test_routes_name_devices_of_other_servers(storage: Storage) -> None:
    await ready(storage, "a", "c")

    outcomes = await send(
        storage,
        route("a", 9, f"x@{B}", "c"),
        Resolve("a", 9),
        by_route("a", 9),
        route("a", 9, f"x@{B}"),
        Resolve("a", 9),
        by_route("a", 9),
    )

    assert outcomes[1] == ResolveOutcome(("c",))
    assert outcomes[4] == ResolveOutcome(())
    assert accepted(outcomes[2]) == {"c": 1, f"x@{B}": 1}
    assert accepted(outcomes[5]) == {f"x@{B}": 2}
    assert (await storage.routes_of("a"))[9].members == {f"x@{B}"}


async def test_an_outbox_is_no_device(storage: Storage) -> None:
    await ready(storage, "a")
    await send(storage, message(f"x@{B}", sender="a"))

    outcomes = await send(storage, route(f"@{B}", 7, "a"), route(f"x@{B}", 7, "a"), Resolve(f"@{B}", 7))

    assert outcomes[:2] == (RouteOutcome(RefusalReason.UNKNOWN_DEVICE),) * 2
    assert outcomes[2] == ResolveOutcome((), (Refusal(device_id="", reason=RefusalReason.NO_ROUTE),))
    state = await storage.queue_state(NOW)
    assert (state.messages, state.size, state.inboxes, state.earliest_expiry) == (0, 0, 0, None)
    assert [each.device_id for each in await storage.queues(now=NOW, limit=1)] == ["a"]
    assert await storage.queues(now=NOW, limit=9, device_id=f"@{B}") == ()
    assert await storage.load_device(f"@{B}") is None


# -- what comes in -------------------------------------------------------------------------------------


async def test_a_device_of_another_server_sends_to_devices_here_only(storage: Storage) -> None:
    await ready(storage, "a")
    await storage.set_outbox("d.example", open=True)

    outcomes = await send(
        storage,
        asking(b"ref", "a", sender=f"x@{B}"),
        message("y@d.example", "ghost", sender=f"x@{B}"),
        message(f"@{B}", sender=f"x@{B}"),
    )

    assert accepted(outcomes[0]) == {"a": 1}
    assert refused(outcomes[1]) == {
        "y@d.example": RefusalReason.UNKNOWN_DOMAIN,
        "ghost": RefusalReason.UNKNOWN_DEVICE,
    }
    assert refused(outcomes[2]) == {f"@{B}": RefusalReason.UNKNOWN_DEVICE}
    with pytest.raises(ValueError, match="name its recipients"):
        await send(storage, by_route(f"x@{B}"))
    state = await storage.inbox_state("a")
    assert state is not None
    [confirmed] = await send(storage, Confirm("a", state.epoch, 1))
    assert [(each.sender, each.reference) for each in confirmed.reports] == [  # type: ignore[union-attr]
        (f"x@{B}", b"ref")
    ]


async def test_a_route_of_the_receiver_must_name_the_sender_of_another_server(storage: Storage) -> None:
    await ready(storage, "a")
    await send(storage, route("a", 7, f"x@{B}"))

    outcomes = await send(storage, message("a", sender=f"x@{B}"), message("a", sender=f"y@{B}"))

    assert accepted(outcomes[0]) == {"a": 1}
    assert refused(outcomes[1]) == {"a": RefusalReason.CHANNEL_CONFLICT}


async def test_strangers_of_other_servers_share_what_strangers_have(backend: "Backend") -> None:
    async with backend.open(stranger_rows=1) as storage:
        await ready(storage, "a")
        await storage.replace_friends("user-a", [Friend(user_id=f"tom@{B}")])
        await send(storage, route("a", 9, f"named@{B}"))
        friend = attrs.evolve(message("a", sender=f"x@{B}"), on_behalf=f"tom@{B}")

        outcomes = await send(
            storage,
            *[friend] * 2,
            *[message("a", sender=f"named@{B}")] * 2,
            *[attrs.evolve(message("a", sender=f"y@{B}"), on_behalf=f"kim@{B}")] * 2,
            message("a", sender=f"x@{B}"),
        )

        full = {"a": RefusalReason.QUOTA}
        assert [refused(each) for each in outcomes] == [{}, {}, {}, {}, {}, full, full]


async def test_a_message_is_stored_once(backend: "Backend") -> None:
    duplicate = SubmissionOutcome((), duplicate=True)
    async with backend.open() as storage:
        await ready(storage, "a", "c")
        first = await send(storage, once("k", "a", "c"), once("k", "a"), once("l", "a"))
        assert [accepted(each) for each in first] == [{"a": 1, "c": 1}, {}, {"a": 2}]
        assert first[1] == duplicate
        assert await send(storage, once("k", "a"), message("a")) == (
            duplicate,
            SubmissionOutcome((("a", 3),)),
        )
        other = attrs.evolve(once("k", "a"), once=Once("elsewhere", "k", LATER))
        assert accepted((await send(storage, other))[0]) == {"a": 4}
    async with backend.open() as storage:
        assert await send(storage, once("k", "a"), once("l", "c")) == (duplicate, duplicate)
        assert len(await stored(storage, "a")) == 4


async def test_a_message_that_nobody_takes_may_come_again(storage: Storage) -> None:
    await ready(storage, "a")
    outcomes = await send(
        storage, once("k", "ghost"), once("k", "ghost"), once("k", "ghost", "a"), once("k", "a")
    )

    assert [accepted(each) for each in outcomes] == [{}, {}, {"a": 1}, {}]
    assert [each.duplicate for each in outcomes] == [False, False, False, True]  # type: ignore[union-attr]


async def test_of_many_callers_at_once_one_stores_it(storage: Storage) -> None:
    await ready(storage, "a", "c")
    taken: list[int] = []

    async def caller(index: int) -> None:
        outcomes = await send(storage, once(f"k{index % 5}", "a" if index % 2 else "c"))
        taken.extend(index % 5 for each in outcomes if accepted(each))

    async with trio.open_nursery() as nursery:
        for index in range(40):
            nursery.start_soon(caller, index)

    assert sorted(taken) == [0, 1, 2, 3, 4]


async def test_names_are_forgotten_when_their_time_is_over(storage: Storage) -> None:
    await ready(storage, "a")
    short = attrs.evolve(once("k", "a"), once=Once("s", "k", SOON))
    forever = attrs.evolve(once("k", "a"), once=Once("f", "k", 2**61))
    await send(storage, short, forever, once("later", "a"))

    await storage.purge_expired(SOON - 1)
    assert [each.duplicate for each in await send(storage, short)] == [True]  # type: ignore[union-attr]
    await storage.purge_expired(SOON)
    assert accepted((await send(storage, short))[0]) == {"a": 4}
    assert (await storage.clean_up(now=LATER, secrets_before=0)).idempotency == 2
    assert [each.duplicate for each in await send(storage, forever)] == [True]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "named",
    [
        *(Once("", "k", 1), Once("s", "", 1), Once("s" * 65, "k", 1), Once("s", "k" * 513, 1)),
        *(Once("s", "a\0b", 1), Once("s", "\ud800", 1), Once("s", "k", -1), Once("s", "k", 2**62)),
    ],
)
async def test_names_that_cannot_be_kept_are_refused_at_once(storage: Storage, named: Once) -> None:
    with pytest.raises(ValueError, match=r"stored once|out of range"):
        await send(storage, attrs.evolve(message("a"), once=named))


async def test_the_longest_names_can_be_kept(storage: Storage) -> None:
    await ready(storage, "a")
    for index, letter in enumerate(("\U0001f408", "\ue000", "'", "x")):
        named = Once(letter * 64, letter * 512, LATER)
        outcomes = await send(storage, *[attrs.evolve(message("a"), once=named)] * 2)
        assert [accepted(each) for each in outcomes] == [{"a": index + 1}, {}]
