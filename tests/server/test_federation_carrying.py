"""What waits in an outbox reaches the other server once, in order, whatever happens on the way."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from commucat_proto import FrameType
from commucat_server.federation.addresses import EVENTS_PATH
from commucat_server.federation.backoff import Backoff
from commucat_server.federation.client import PeerAnswer
from commucat_storage import (
    InboxRow,
    Peer,
    PeerStatus,
    Refusal,
    RefusalReason,
    Route,
    SetRoute,
    Submission,
)
from server.federation_builders import CHANNEL, LIFETIME, Site, open_sites, wires_of


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[list[Site]]:
    async with open_sites(tmp_path, "a.test", "b.test") as sites:
        yield sites


def reports(rows: list[InboxRow]) -> list[dict[str, Any]]:
    return [json.loads(row.payload) for row in rows if row.frame_type == FrameType.GROUP_EVENT]


@pytest.mark.parametrize("batches", [True, False])
async def test_messages_arrive_in_their_order(sites: list[Site], batches: bool) -> None:
    a, b = sites
    wires_of(a).batches = batches
    texts = [f"message {number}" for number in range(40)]

    outcomes = await a.write("alice", "bob@b.test", *texts)
    await b.wait_for("bob", 40)

    assert [outcome.accepted for outcome in outcomes[:2]] == [(("bob@b.test", 1),), (("bob@b.test", 2),)]
    assert await b.texts("bob") == texts
    await a.wait_sent("b.test")
    assert a.counters.federation_outbox_enqueued == a.counters.federation_outbox_delivered == 40
    events = [path for _, path in wires_of(a).requests if path == "/federation/events"]
    assert len(events) == (40 if not batches else 1)


async def test_a_message_to_both_servers_is_one_commit(sites: list[Site]) -> None:
    a, b = sites
    await a.storage.commit([SetRoute("alice", CHANNEL, Route(members=frozenset({"bob@b.test", "x@c.test"})))])
    message = Submission("alice", CHANNEL, FrameType.MSG, b"hello", int(a.clock()) + LIFETIME)

    [outcome] = await a.submit(message)

    assert outcome.accepted == (("bob@b.test", 1),)
    assert outcome.refused == (Refusal(device_id="x@c.test", reason=RefusalReason.UNKNOWN_DOMAIN),)
    await b.wait_for("bob", 1)
    assert await b.texts("bob") == ["hello"]


async def test_lost_answers_cost_a_repetition_and_nothing_else(sites: list[Site]) -> None:
    a, b = sites
    wires_of(a).lose_answers_of.add("b.test")
    await a.write("alice", "bob@b.test", *(f"{number}" for number in range(20)))
    await b.wait_for("bob", 20)
    [standing] = [each for each in await a.storage.outboxes() if each.rows]
    assert standing.rows == 20

    wires_of(a).lose_answers_of.clear()
    await a.wait_sent("b.test")

    assert await b.texts("bob") == [f"{number}" for number in range(20)]


async def test_an_outage_keeps_order_and_is_noted(sites: list[Site]) -> None:
    a, b = sites
    wires_of(a).cut.add("b.test")
    await a.write("alice", "bob@b.test", "one")
    await _until_noted(a, "unreachable")
    await a.write("alice", "bob@b.test", "two", "three")
    assert await b.rows("bob") == []
    [standing] = await a.storage.peer_standings()
    assert (standing.domain, standing.last_error) == ("b.test", "cut off")
    assert standing.error_count >= 1

    wires_of(a).cut.clear()
    await b.wait_for("bob", 3)

    assert await b.texts("bob") == ["one", "two", "three"]
    await _until_noted(a, "online")


@pytest.mark.parametrize("status", [403, 408, 429, 500, 503, 301])
async def test_what_may_become_better_is_tried_again(sites: list[Site], status: int) -> None:
    a, b = sites
    wires_of(a).batches = False
    wires_of(a).answers["b.test"] = PeerAnswer(status, {})
    await a.write("alice", "bob@b.test", "patience")
    await _until_noted(a, "offline")
    assert await a.storage.dead_letters(None, 10) == ()

    wires_of(a).answers.clear()
    await b.wait_for("bob", 1)


@pytest.mark.parametrize("batches", [True, False])
async def test_what_is_refused_for_good_is_a_dead_letter_and_the_queue_goes_on(
    sites: list[Site], batches: bool
) -> None:
    a, b = sites
    wires_of(a).batches = batches
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.reports.run, a.inbox.submit, a.inbox.settle)
        await a.write("alice", "bob@b.test", "one")
        await a.write("alice", "nobody@b.test", "lost", report=True)
        await a.write("alice", "bob@b.test", "two")
        await b.wait_for("bob", 2)
        [told] = reports(await a.wait_for("alice", 1))
        nursery.cancel_scope.cancel()

    assert await b.texts("bob") == ["one", "two"]
    [letter] = await a.storage.dead_letters("b.test", 10)
    assert (letter.target, letter.payload) == ("nobody@b.test", b"lost")
    assert "UnknownDevice" in letter.reason
    assert told["device"] == "nobody@b.test"
    assert (told["status"], told["reason"]) == ("expired", "refused")
    assert told["messages"] == [b"lost".ljust(16, b".").hex()]
    assert a.counters.federation_outbox_dead == 1


async def test_the_sender_is_told_when_the_device_has_it(sites: list[Site]) -> None:
    a, b = sites
    async with trio.open_nursery() as nursery:
        for site in sites:
            nursery.start_soon(site.reports.run, site.inbox.submit, site.inbox.settle)
        await a.write("alice", "bob@b.test", "hello", report=True)
        [row] = await b.wait_for("bob", 1)
        await b.confirm("bob", row.number)
        [told] = reports(await a.wait_for("alice", 1))
        nursery.cancel_scope.cancel()

    assert (told["status"], told["device"]) == ("delivered", "bob@b.test")
    assert told["messages"] == [b"hello".ljust(16, b".").hex()]


async def test_a_peer_that_takes_no_batch_gets_single_events(sites: list[Site]) -> None:
    a, b = sites
    wires = wires_of(a)
    wires.refuse_batches = True
    await a.write("alice", "bob@b.test", "one", "two", "three")
    await b.wait_for("bob", 3)
    assert await b.texts("bob") == ["one", "two", "three"]


async def test_one_batch_that_is_refused_does_not_end_batches(sites: list[Site]) -> None:
    """Something in it was at fault; one by one it was told what, and what comes then is not slower for it."""
    a, b = sites
    wires = wires_of(a)
    wires.refuse_batches = True
    await a.write("alice", "bob@b.test", "one", "two", "three")
    await a.wait_sent("b.test")
    wires.refuse_batches = False
    wires.requests.clear()
    await a.write("alice", "bob@b.test", "four", "five", "six")
    await b.wait_for("bob", 6)
    await a.wait_sent("b.test")
    assert await b.texts("bob") == ["one", "two", "three", "four", "five", "six"]
    assert wires.requests == [("b.test", EVENTS_PATH)]


@pytest.mark.parametrize(
    "document",
    [{}, {"results": None}, {"results": []}, {"results": [{"status": "accepted"}] * 3}, {"results": "xx"}],
)
async def test_an_answer_that_says_nothing_is_no_acceptance(sites: list[Site], document: Any) -> None:
    a, b = sites
    wires_of(a).batch_answer = PeerAnswer(200, document)
    await a.write("alice", "bob@b.test", "one", "two")
    await _until_noted(a, "offline")
    assert [each.rows for each in await a.storage.outboxes() if each.domain == "b.test"] == [2]

    wires_of(a).batch_answer = None
    await b.wait_for("bob", 2)


@pytest.mark.parametrize("document", [{}, {"message": "It works!"}, {"status": 202}])
async def test_what_a_web_server_says_is_no_acceptance(sites: list[Site], document: dict[str, Any]) -> None:
    a, b = sites
    wires_of(a).batches = False
    wires_of(a).answers["b.test"] = PeerAnswer(200, document)
    await a.write("alice", "bob@b.test", "not for a page")
    await _until_noted(a, "offline")

    wires_of(a).answers.clear()
    await b.wait_for("bob", 1)


async def test_a_message_wanted_later_holds_those_behind_it_up(sites: list[Site]) -> None:
    a, b = sites
    later = [{"status": "accepted"}, {"status": "later", "detail": "no room"}, {"status": "accepted"}]
    wires_of(a).batch_answer = PeerAnswer(200, {"results": later})
    await a.write("alice", "bob@b.test", "one", "two", "three")
    await _until_noted(a, "offline")
    # The peer has the first one, by its word, and it is not sent again.
    wires_of(a).batch_answer = None
    await b.wait_for("bob", 2)
    assert await b.texts("bob") == ["two", "three"]


async def test_a_valid_event_of_the_peer_ends_the_pause(tmp_path: Path) -> None:
    async with open_sites(tmp_path, "a.test", "b.test", backoff=Backoff(shortest=600, longest=600)) as (a, b):
        wires_of(a).cut.add("b.test")
        await a.write("alice", "bob@b.test", "waiting")
        await _until_noted(a, "unreachable")
        wires_of(a).cut.clear()

        await b.write("bob", "alice@a.test", "here I am")

        await b.wait_for("bob", 1)


async def test_an_operator_ends_the_pause(tmp_path: Path) -> None:
    async with open_sites(tmp_path, "a.test", "b.test", backoff=Backoff(shortest=600, longest=600)) as (a, b):
        wires_of(a).cut.add("b.test")
        await a.write("alice", "bob@b.test", "waiting")
        await _until_noted(a, "unreachable")
        wires_of(a).cut.clear()
        await a.federation.changed()
        await b.wait_for("bob", 1)


async def test_a_peer_that_names_a_pause_is_tried_when_it_is_over(tmp_path: Path) -> None:
    patient = Backoff(shortest=300, longest=300)
    async with open_sites(tmp_path, "a.test", "b.test", backoff=patient, events_per_second=200) as (a, b):
        # More than it takes in a second: what comes next has to wait, and is told for how long.
        await a.write("alice", "bob@b.test", *(f"{number}" for number in range(300)))
        await a.wait_sent("b.test")
        await a.write("alice", "bob@b.test", "and one more")
        await b.wait_for("bob", 301)

        [standing] = await a.storage.peer_standings()
        assert (standing.status, standing.error_count) == ("online", 0)


async def test_a_peer_that_names_pauses_without_end_is_tried_less_often(tmp_path: Path) -> None:
    patient = Backoff(shortest=300, longest=300)
    async with open_sites(tmp_path, "a.test", "b.test", backoff=patient) as (a, _):
        wires_of(a).batches = False
        wires_of(a).answers["b.test"] = PeerAnswer(429, {}, 0.0)
        await a.write("alice", "bob@b.test", "patience")
        await _until_noted(a, "offline")
        assert len(wires_of(a).requests) <= 4


async def test_one_peer_that_is_away_holds_nobody_else_up(tmp_path: Path) -> None:
    async with open_sites(tmp_path, "a.test", "b.test", "c.test") as (a, b, c):
        wires_of(a).cut.add("b.test")
        await a.write("alice", "bob@b.test", "waits")
        await a.write("alice", "carol@c.test", "goes")
        await c.wait_for("carol", 1)
        assert await b.rows("bob") == []


async def test_what_other_processes_put_there_is_found(sites: list[Site]) -> None:
    a, b = sites
    # As an operator's command would: without a word to the running server.
    await a.storage.commit(
        [Submission("alice", CHANNEL, FrameType.MSG, b"quiet", int(a.clock()) + LIFETIME, ("bob@b.test",))]
    )
    await b.wait_for("bob", 1)


async def test_a_pending_peer_that_takes_something_is_active(tmp_path: Path) -> None:
    async with open_sites(tmp_path, "a.test", "b.test") as (a, b):
        await a.knows()
        await a.storage.put_peer(
            Peer(
                domain="b.test",
                endpoint="https://b.test",
                public_key=b.keys.public,
                status=PeerStatus.PENDING,
                created_at=1,
                updated_at=1,
            )
        )
        await a.federation.changed()
        await a.write("alice", "bob@b.test", "hello")
        await b.wait_for("bob", 1)
        await _until_noted(a, "online")
        stored = await a.storage.load_peer("b.test")
    assert stored is not None
    assert stored.status is PeerStatus.ACTIVE


async def test_a_blocked_peer_is_written_nothing_and_what_waits_stays(sites: list[Site]) -> None:
    a, b = sites
    wires_of(a).cut.add("b.test")
    await a.write("alice", "bob@b.test", "waits")
    blocked = Peer(
        domain="b.test",
        endpoint="https://b.test",
        public_key=b.keys.public,
        status=PeerStatus.BLOCKED,
        created_at=1,
        updated_at=1,
    )
    await a.storage.put_peer(blocked)
    await a.federation.changed()
    wires_of(a).cut.clear()

    [outcome] = await a.write("alice", "bob@b.test", "refused")
    assert outcome.refused == (Refusal(device_id="bob@b.test", reason=RefusalReason.UNKNOWN_DOMAIN),)
    [standing] = await a.storage.outboxes()
    assert (standing.rows, standing.open) == (1, False)

    await a.storage.remove_peer("b.test")
    await a.federation.changed()
    await b.wait_for("bob", 1)
    assert await b.texts("bob") == ["waits"]


def test_pauses_grow_to_a_limit_and_are_spread() -> None:
    backoff = Backoff(shortest=5, longest=300)
    for failures, whole in ((1, 5), (2, 10), (3, 20), (7, 300), (1000, 300)):
        delays = {backoff.delay(failures) for _ in range(50)}
        assert whole / 2 <= min(delays) < max(delays) <= whole
    assert backoff.delay(1, asked=60.0) == 60.0
    assert backoff.delay(1, asked=10_000.0) == 300.0


async def _until_noted(site: Site, status: str) -> None:
    with trio.fail_after(30):
        while status not in [each.status for each in await site.storage.peer_standings()]:
            await site.noted()
