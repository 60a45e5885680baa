"""Accounts of two servers that belong to one person: who links them, who ends it, and what each is told."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio

from commucat_crypto import DeviceKeyPair
from commucat_proto import json_text
from commucat_proto.federation import MAX_TOLD_DEVICES
from commucat_proto.federation.link_entries import LINK_WORDS
from commucat_server.federation.client import PeerAnswer
from commucat_server.federation.event_window import EventWindow
from commucat_server.federation.offset_telling import INTERVAL, REST, OffsetTelling
from commucat_server.federation.queueing import NotQueuedError
from commucat_server.routing.inbox import Inbox
from commucat_storage import (
    ACCOUNT_LINK,
    INBOX_OFFSETS,
    LINK_PATIENCE,
    MAX_LINKED_DEVICES,
    MAX_LINKS,
    MAX_OFFERS,
    LinkRefusedError,
    LinkStatus,
    LinkWord,
    OutboxRow,
    Peer,
    PeerStatus,
    Storage,
    User,
)
from server.federation_builders import DAY, LIFETIME, Clock, Site, open_sites, signed_by, tampered, wires_of

STRANGER = DeviceKeyPair.from_seed(b"s" * 32)
ALICE, BOB = "alice@a.test", "bob@b.test"


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[list[Site]]:
    async with open_sites(tmp_path, "a.test", "b.test") as sites:
        yield sites


@pytest.fixture
async def quiet(tmp_path: Path) -> AsyncIterator[list[Site]]:
    """Nothing in their outboxes is carried."""
    async with open_sites(tmp_path, "a.test", "b.test", carry=False) as sites:
        yield sites


async def user_of(site: Site, handle: str) -> User:
    found = await site.storage.load_user_by_handle(handle, site.domain)
    assert found is not None
    return found


async def alice_of(sites: list[Site]) -> User:
    return await user_of(sites[0], "alice")


async def bob_of(sites: list[Site]) -> User:
    return await user_of(sites[1], "bob")


async def link(sites: list[Site]) -> None:
    """Alice says it, Bob confirms it."""
    a, b = sites
    await a.federation.links.declare(await alice_of(sites), BOB)
    await a.wait_sent("b.test")
    await b.federation.links.declare(await bob_of(sites), ALICE)
    await b.wait_sent("a.test")


async def statuses(site: Site, handle: str) -> dict[str, LinkStatus]:
    user = await user_of(site, handle)
    links = await site.storage.account_links(user.user_id, int(site.clock() * 1e6))
    return {each.account: each.status for each in links}


async def told(site: Site, handle: str) -> dict[str, tuple[int, int, int]]:
    """What a user is shown of devices elsewhere: next number, confirmed, waiting."""
    user = await user_of(site, handle)
    return {
        each.device_id: (each.next_number, each.confirmed, each.waiting)
        for linked in await site.storage.linked_offsets(user.user_id)
        for each in linked.offsets
    }


async def outbox(site: Site, domain: str) -> list[OutboxRow]:
    page = await site.storage.outbox_page(domain, 0, limit_rows=999, limit_bytes=10**7, now=int(site.clock()))
    assert page is not None
    return list(page.rows)


async def words(site: Site, domain: str) -> list[str]:
    rows = await outbox(site, domain)
    return [json.loads(row.payload)["word"] for row in rows if row.frame_type == ACCOUNT_LINK]


def word(said: str, version: int = 1, **changes: Any) -> dict[str, Any]:
    entry = {"type": "account_link", "user": "alice", "account": BOB, "word": said, "version": version}
    return entry | changes


def offsets(version: int = 1, **changes: Any) -> dict[str, Any]:
    device = {"device": "phone", "epoch": "e" * 32, "next": 5, "confirmed": 2, "waiting": 2}
    return {
        "type": "inbox_offsets",
        "user": "alice",
        "account": BOB,
        "version": version,
        "offsets": [device | changes],
    }


async def deliver(sites: list[Site], payload: Any, **changes: Any) -> PeerAnswer:
    """An event of a.test for b.test."""
    a, b = sites
    return await b.take(a.event(payload, **{"scope": "b.test"} | changes))


async def link_at_b(sites: list[Site]) -> None:
    """As b.test sees it, without a.test having said it by itself."""
    assert (await deliver(sites, word("asks"))).status == 202
    await sites[1].federation.links.declare(await bob_of(sites), ALICE)
    assert await statuses(sites[1], "bob") == {ALICE: LinkStatus.LINKED}


# -- links -----------------------------------------------------------------------------------------


async def test_a_link_holds_when_both_users_have_declared_it(sites: list[Site]) -> None:
    a, b = sites

    asked = await a.federation.links.declare(await alice_of(sites), BOB)
    await a.wait_sent("b.test")
    assert asked.status is LinkStatus.DECLARED
    assert await statuses(b, "bob") == {ALICE: LinkStatus.OFFERED}
    assert await a.federation.telling.tell() == 0

    confirmed = await b.federation.links.declare(await bob_of(sites), ALICE)
    await b.wait_sent("a.test")
    assert confirmed.status is LinkStatus.LINKED
    assert await statuses(a, "alice") == {BOB: LinkStatus.LINKED}
    # It tells nobody anything: no device of either user got a message.
    assert await a.rows("alice") == await b.rows("bob") == []


async def test_both_may_say_it_at_once(quiet: list[Site]) -> None:
    a, b = quiet
    await a.federation.links.declare(await alice_of(quiet), BOB)
    await b.federation.links.declare(await bob_of(quiet), ALICE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.federation.courier.run)
        nursery.start_soon(b.federation.courier.run)
        await a.wait_sent("b.test")
        await b.wait_sent("a.test")
        await a.wait_sent("b.test")
        nursery.cancel_scope.cancel()

    assert await statuses(a, "alice") == {BOB: LinkStatus.LINKED}
    assert await statuses(b, "bob") == {ALICE: LinkStatus.LINKED}


@pytest.mark.parametrize("ender", [0, 1])
async def test_either_user_ends_it_at_both_servers(sites: list[Site], ender: int) -> None:
    a, b = sites
    await link(sites)
    assert (await a.federation.telling.tell(), await b.federation.telling.tell()) == (1, 1)
    await a.wait_sent("b.test")
    await b.wait_sent("a.test")
    assert await told(b, "bob") == {"alice": (1, 0, 0)}
    assert await told(a, "alice") == {"bob": (1, 0, 0)}

    names = (await alice_of(sites), BOB), (await bob_of(sites), ALICE)
    assert await sites[ender].federation.links.end(*names[ender])
    await sites[ender].wait_sent(sites[1 - ender].domain)

    for site, handle in ((a, "alice"), (b, "bob")):
        assert await statuses(site, handle) == {}
        assert await told(site, handle) == {}
        await site.write("", handle, "more")
        assert await site.federation.telling.tell() == 0
    assert not await sites[ender].federation.links.end(*names[ender])


async def test_an_offer_can_be_refused(sites: list[Site]) -> None:
    a, b = sites
    await a.federation.links.declare(await alice_of(sites), BOB)
    await a.wait_sent("b.test")
    assert await b.federation.links.end(await bob_of(sites), ALICE)
    await b.wait_sent("a.test")
    assert await statuses(a, "alice") == await statuses(b, "bob") == {}


async def test_a_confirmation_of_what_has_expired_links_nothing(quiet: list[Site]) -> None:
    a, b = quiet
    await a.federation.links.declare(await alice_of(quiet), BOB)
    a.clock.now += LINK_PATIENCE + 1

    confirmation = word("agrees", user="bob", account=ALICE)
    assert (await a.take(b.event(confirmation, "a.test", created_at=int(a.clock() * 1e9)))).status == 202

    assert await statuses(a, "alice") == {}
    assert await words(a, "b.test") == ["ends"]


async def test_offsets_for_a_link_that_does_not_hold_are_answered_with_its_end(quiet: list[Site]) -> None:
    answer = await deliver(quiet, offsets())
    assert (answer.status, answer.document["title"]) == (404, "NotLinked")
    assert await words(quiet[1], "a.test") == ["ends"]
    assert await told(quiet[1], "bob") == {}


async def test_offsets_before_the_confirmation_end_nothing(quiet: list[Site]) -> None:
    b = quiet[1]
    await b.federation.links.declare(await bob_of(quiet), ALICE)
    assert (await deliver(quiet, offsets())).status == 404
    assert await words(b, "a.test") == ["asks"]
    assert await statuses(b, "bob") == {ALICE: LinkStatus.DECLARED}


async def test_an_end_that_was_lost_is_made_good(sites: list[Site]) -> None:
    a, b = sites
    await link(sites)
    # What b.test had to say about it never came to a.test.
    user = await bob_of(sites)
    await b.storage.end_link(user.user_id, ALICE, int(b.clock() * 1e6), int(b.clock()) + DAY)

    assert await a.federation.telling.tell() == 1
    await a.wait_sent("b.test")
    await b.wait_sent("a.test")

    assert await statuses(a, "alice") == {}


async def test_only_active_peers_have_accounts_to_link(sites: list[Site]) -> None:
    b = sites[1]
    now = int(b.clock())
    for status in PeerStatus:
        peer = Peer(
            domain=f"{status.value}.test",
            endpoint="https://nowhere",
            public_key=STRANGER.public,
            status=status,
            created_at=now,
            updated_at=now,
        )
        await b.storage.put_peer(peer)
    await b.directory.refresh()
    takes = {status: b.federation.links.takes(f"{status.value}.test") for status in PeerStatus}
    assert takes == {PeerStatus.ACTIVE: True, PeerStatus.PENDING: False, PeerStatus.BLOCKED: False}
    assert not b.federation.links.takes("unknown.test")


async def test_a_word_that_is_not_queued_can_be_said_again(quiet: list[Site]) -> None:
    a = quiet[0]
    await a.storage.set_outbox("b.test", open=False)
    with pytest.raises(NotQueuedError, match=r"the link was not queued for b\.test"):
        await a.federation.links.declare(await alice_of(quiet), BOB)
    assert await statuses(a, "alice") == {BOB: LinkStatus.DECLARED}
    # An end needs nobody who listens.
    assert await a.federation.links.end(await alice_of(quiet), BOB)

    await a.storage.set_outbox("b.test", open=True)
    await a.federation.links.declare(await alice_of(quiet), BOB)
    assert await words(a, "b.test") == ["asks"]


async def test_there_are_only_so_many(quiet: list[Site]) -> None:
    a, b = quiet
    for number in range(MAX_LINKS):
        await a.federation.links.declare(await alice_of(quiet), f"me{number}@b.test")
    with pytest.raises(LinkRefusedError):
        await a.federation.links.declare(await alice_of(quiet), BOB)
    for number in range(MAX_OFFERS):
        assert (await deliver(quiet, word("asks", user=f"me{number}"))).status == 202
    answer = await deliver(quiet, word("asks"))
    assert (answer.status, answer.document["title"]) == (409, "Conflict")
    assert len(await statuses(b, "bob")) == MAX_OFFERS


# -- what is believed ------------------------------------------------------------------------------


async def test_forged_and_foreign_events_are_refused(quiet: list[Site]) -> None:
    a, b = quiet
    await link_at_b(quiet)
    good = a.event(offsets(), "b.test")

    def confirm_all(document: dict[str, Any]) -> None:
        document["event"]["payload"]["offsets"][0]["confirmed"] = 4

    assert (await b.take(signed_by(STRANGER, good))).status == 403
    assert (await b.take(tampered(good, confirm_all))).status == 403
    assert (await deliver(quiet, offsets(), scope="c.test")).status == 403
    assert (await deliver(quiet, offsets(), origin="c.test")).status == 403
    # A peer speaks for its own users only, and to users here.
    others = [
        {"user": "alice@c.test"},
        {"user": "mallory"},
        {"account": "bob@c.test"},
        {"account": "bob"},
        {"account": "nobody@b.test"},
    ]
    statuses = [(await deliver(quiet, offsets() | changes)).status for changes in others]
    assert statuses == [400, 404, 400, 400, 404]
    assert [(await deliver(quiet, word("asks", 9, **each))).status for each in others] == [
        400,
        202,
        400,
        400,
        404,
    ]
    assert await told(b, "bob") == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"device": ""},
        {"device": "phone@b.test"},
        {"device": "a\nb"},
        {"device": 7},
        {"epoch": ""},
        {"epoch": None},
        {"next": 0, "confirmed": 0, "waiting": 0},
        {"next": 2**32 + 1},
        {"next": 5.5},
        {"confirmed": 5},
        {"confirmed": -1},
        {"confirmed": True},
        {"waiting": 3},
        {"waiting": -1},
    ],
)
async def test_offsets_that_cannot_be_are_refused(quiet: list[Site], changes: dict[str, Any]) -> None:
    await link_at_b(quiet)
    assert (await deliver(quiet, offsets(**changes))).status == 400
    assert await told(quiet[1], "bob") == {}


@pytest.mark.parametrize(
    "payload",
    [
        word("perhaps"),
        word("asks", version=-1),
        word("asks", version=2**62),
        word("asks", user=""),
        word("asks", account=None),
        offsets() | {"offsets": None},
        offsets() | {"offsets": ["phone"]},
        offsets() | {"offsets": offsets()["offsets"] * 2},
        offsets() | {"offsets": [offsets(device=f"d{each}")["offsets"][0] for each in range(129)]},
    ],
)
async def test_what_is_no_entry_is_refused(quiet: list[Site], payload: dict[str, Any]) -> None:
    await link_at_b(quiet)
    assert (await deliver(quiet, payload)).status == 400


async def test_old_and_repeated_events_change_nothing(quiet: list[Site]) -> None:
    b = quiet[1]
    await link_at_b(quiet)
    assert (await deliver(quiet, offsets(8, confirmed=3, waiting=1))).status == 202

    for old in (offsets(8), offsets(7), offsets(0), word("ends", 1), word("ends", 0)):
        answer = await deliver(quiet, old)
        assert (answer.status, answer.document) == (200, {"status": "duplicate"})

    assert await told(b, "bob") == {"phone": (5, 3, 1)}
    assert await statuses(b, "bob") == {ALICE: LinkStatus.LINKED}
    # Nor does what was said before the link ended bring it back.
    assert (await deliver(quiet, word("ends", 2))).status == 202
    assert (await deliver(quiet, word("asks", 1))).document == {"status": "duplicate"}
    assert await statuses(b, "bob") == {}


async def test_entries_of_a_batch_are_taken_one_by_one(quiet: list[Site]) -> None:
    entries = [
        word("asks") | {"event_id": "1"},
        offsets() | {"event_id": "2"},
        word("what") | {"event_id": "3"},
        word("asks") | {"event_id": "4"},
        word("ends", 2) | {"event_id": "5"},
    ]
    answer = await deliver(quiet, {"type": "messages", "messages": entries})
    assert [each["status"] for each in answer.document["results"]] == [
        "accepted",
        "refused",
        "refused",
        "duplicate",
        "accepted",
    ]


async def test_clocks_that_are_off_do_no_harm(sites: list[Site]) -> None:
    a, b = sites
    await link(sites)
    a.clock.now += DAY / 2
    assert await a.federation.telling.tell() == 1
    await a.wait_sent("b.test")
    # It was wrong, and is set right: what is told now is newer all the same.
    a.clock.now -= DAY / 2
    await a.write("", "alice", "a note")
    assert await a.federation.telling.tell() == 1
    await a.wait_sent("b.test")
    assert await told(b, "bob") == {"alice": (2, 0, 1)}

    # Set back, its words are newer all the same.
    a.clock.now -= DAY / 2
    assert await a.federation.links.end(await alice_of(sites), BOB)
    await a.wait_sent("b.test")
    assert await statuses(b, "bob") == {}


# -- what is told ----------------------------------------------------------------------------------


async def test_what_one_device_reads_is_seen_at_the_other_server(sites: list[Site]) -> None:
    a, b = sites
    await link(sites)
    await a.write("", "alice", "one", "two", "three")
    assert await a.federation.telling.tell() == 1
    await a.wait_sent("b.test")
    assert await told(b, "bob") == {"alice": (4, 0, 3)}

    await a.confirm("alice", 2)
    await a.storage.settle()
    assert await a.federation.telling.tell() == 1
    await a.wait_sent("b.test")

    assert await told(b, "bob") == {"alice": (4, 2, 1)}
    assert await a.federation.telling.tell() == 0


async def test_a_server_that_is_back_gets_the_last_offsets_only(sites: list[Site]) -> None:
    a, b = sites
    await link(sites)
    assert await a.federation.telling.tell() == 1
    await a.wait_sent("b.test")
    wires_of(a).cut.add("b.test")

    for number in range(1, 6):
        await a.write("", "alice", f"message {number}")
        await a.confirm("alice", number)
        await a.storage.settle()
        await a.federation.telling.tell()
    waiting = await outbox(a, "b.test")
    wires_of(a).cut.clear()
    await a.wait_sent("b.test")
    assert await a.federation.telling.tell() == 1
    await a.wait_sent("b.test")

    assert [row.frame_type for row in waiting] == [INBOX_OFFSETS]
    assert await told(b, "bob") == {"alice": (6, 5, 0)}


async def test_an_answer_that_was_lost_costs_a_repetition(sites: list[Site]) -> None:
    a, b = sites
    await link(sites)
    wires_of(a).lose_answers_of.add("b.test")
    assert await a.federation.telling.tell() == 1
    with trio.fail_after(30):
        while sum(domain == "b.test" for domain, _ in wires_of(a).requests) < 4:
            await trio.lowlevel.checkpoint()
    wires_of(a).lose_answers_of.clear()
    await a.wait_sent("b.test")
    assert await told(b, "bob") == {"alice": (1, 0, 0)}


async def test_a_revoked_device_is_gone_at_the_other_server(sites: list[Site]) -> None:
    a, b = sites
    await link(sites)
    await a.federation.telling.tell()
    await a.wait_sent("b.test")
    assert await told(b, "bob") == {"alice": (1, 0, 0)}

    await a.storage.revoke_device("alice", int(a.clock()))
    assert await a.federation.telling.tell() == 1
    await a.wait_sent("b.test")

    assert await told(b, "bob") == {}


async def test_what_cannot_be_queued_is_told_later(quiet: list[Site]) -> None:
    a, b = quiet
    await a.federation.links.declare(await alice_of(quiet), BOB)
    assert (await a.take(b.event(word("agrees", user="bob", account=ALICE), "a.test"))).status == 202
    a.storage.inbox_limits.max_rows = 1

    assert await a.federation.telling.tell() == 0
    a.storage.inbox_limits.max_rows = 1_000
    assert await a.federation.telling.tell() == 1
    assert [row.frame_type for row in await outbox(a, "b.test")] == [ACCOUNT_LINK, INBOX_OFFSETS]


class Looking(OffsetTelling):
    """Notes when it would look."""

    def __init__(self, carries: Callable[[], bool]) -> None:
        super().__init__(
            storage=cast("Storage", None),
            inbox=cast("Inbox", None),
            window=EventWindow(lifetime=LIFETIME),
            clock=Clock(),
            carries=carries,
        )
        self.looks: list[float] = []
        self.takes = 0.0

    async def tell(self) -> int:
        self.looks.append(trio.current_time())
        self._took = self.takes
        return 0


async def test_the_node_that_carries_looks_every_few_seconds(autojump_clock: trio.testing.MockClock) -> None:
    telling = Looking(carries=lambda: trio.current_time() > INTERVAL)
    with trio.move_on_after(4.5 * INTERVAL):
        await telling.run()
    assert telling.looks == [2 * INTERVAL, 3 * INTERVAL, 4 * INTERVAL]


async def test_looks_that_take_long_are_fewer(autojump_clock: trio.testing.MockClock) -> None:
    telling = Looking(carries=lambda: True)
    telling.takes = 1.0
    begin = trio.current_time()
    with trio.move_on_after(2.5 * REST):
        await telling.run()
    assert [each - begin for each in telling.looks] == [0.0, REST, 2 * REST]


def test_the_store_and_the_wire_have_the_same_words_and_limits() -> None:
    assert tuple(word.value for word in LinkWord) == LINK_WORDS
    assert MAX_LINKED_DEVICES == MAX_TOLD_DEVICES


async def test_the_wire_form_is_as_documented(quiet: list[Site]) -> None:
    a, b = quiet
    await a.federation.links.declare(await alice_of(quiet), BOB)
    await a.take(b.event(word("agrees", user="bob", account=ALICE), "a.test"))
    await a.federation.telling.tell()

    said, offset = [json_text.loads(row.payload) for row in await outbox(a, "b.test")]

    micros = int(a.clock() * 1e6)
    [state] = await a.storage.inbox_offsets((await alice_of(quiet)).user_id)
    assert said == {"user": "alice", "account": BOB, "word": "asks", "version": micros}
    assert offset == {
        "user": "alice",
        "account": BOB,
        "version": micros,
        "offsets": [{"device": "alice", "epoch": state.epoch, "next": 1, "confirmed": 0, "waiting": 0}],
    }
    assert attrs.asdict(state)["device_id"] == "alice"
