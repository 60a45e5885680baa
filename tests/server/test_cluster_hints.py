"""What nodes tell each other, and what a node makes of it."""

from collections.abc import Sequence
from typing import cast

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto import FrameType
from commucat_server.ops.counters import Counters
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.hints import (
    CallChange,
    CallMedia,
    CallMoved,
    CallRings,
    Claimed,
    Hint,
    HowAre,
    LiveFrame,
    NewPeers,
    NewRows,
    decode_hint,
    encode_hint,
)
from commucat_server.routing.registry import REPLACED, Registry
from commucat_storage import Held, Standing, Storage
from commucat_storage.bus import LocalBus
from server.test_live_session import caught_up, new_live, numbers_of, offer, page


@pytest.mark.parametrize(
    "hint",
    [
        NewRows({"bob": 7, "carol \n": 2**32 - 1}),
        Claimed("bob", 3),
        LiveFrame(("bob", "carol"), FrameType.VOICE_FRAME, 2**32 - 1, b"\0\n\xff{}"),
        HowAre("aa", "bob", ("carol",)),
        NewPeers(("bob", "carol")),
        CallMedia("call", "bob", "node", ("carol", "dora"), FrameType.VOICE_FRAME, b"a\nb\x00"),
        CallRings("call", 7, "bob", "full_duplex", True, ("carol", "dora")),
        *[CallMoved("call", change, "bob", "hangup") for change in CallChange],
    ],
)
def test_a_hint_comes_back_as_it_was(hint: Hint) -> None:
    assert decode_hint(encode_hint(hint)) == hint


@given(st.binary())
def test_what_is_no_hint_is_passed_over(data: bytes) -> None:
    assert decode_hint(data) is None


@pytest.mark.parametrize("data", [b'{"rows":{"bob":"x"}}', b'{"live":["b"],"type":77,"channel":1}\n', b"7"])
def test_what_another_version_says_is_passed_over(data: bytes) -> None:
    assert decode_hint(data) is None


@pytest.mark.parametrize("channel", [-1, 2**32])
def test_a_channel_that_no_frame_can_have_is_passed_over(channel: int) -> None:
    assert decode_hint(encode_hint(LiveFrame(("bob",), FrameType.TYPING, channel, b"{}"))) is None


@pytest.mark.parametrize("frame_type", [FrameType.MSG, FrameType.ACK, FrameType.CALL_OFFER])
def test_what_is_numbered_by_the_inbox_comes_by_no_hint(frame_type: FrameType) -> None:
    assert decode_hint(encode_hint(LiveFrame(("bob",), frame_type, 1, b"{}"))) is None


class _SharedWithNobody:
    """As much of a store as a cluster asks for when nothing happens in it."""

    shared = True

    def on_elsewhere(self, told: object) -> None:
        pass

    async def beat(self) -> None:
        pass

    async def look_after(self, held: Sequence[Held]) -> tuple[Standing, ...]:
        return ()


async def test_a_hint_that_cannot_be_followed_ends_nothing(nursery: trio.Nursery) -> None:
    """Whoever can publish a hint could end every node of a cluster."""
    registry, live, bus = Registry(), caught_up(), LocalBus()
    registry.attach(live)
    cluster = Cluster(cast("Storage", _SharedWithNobody()), bus, registry, Counters())

    def fail(_: HowAre | NewPeers) -> None:
        raise RuntimeError("a mistake of ours")

    cluster.on_peers(fail)
    nursery.start_soon(cluster.run)
    await trio.testing.wait_all_tasks_blocked()
    # A payload that no frame of this type can have.
    bus.publish(bus.node, encode_hint(LiveFrame(("bob",), FrameType.TYPING, 1, b"x" * 10**6)))
    bus.publish(bus.node, encode_hint(HowAre("other", "bob", ("carol",))))
    bus.publish(bus.node, encode_hint(NewRows({"bob": 1})))
    await trio.testing.wait_all_tasks_blocked()

    assert live.behind


# -- a session that others commit for -----------------------------------------------------------------


def test_a_session_looks_into_the_store_for_what_another_node_committed() -> None:
    live = caught_up()
    live.suspect(2)
    assert live.behind
    # Committed here meanwhile: it must not overtake the other two.
    offer(live, 3)
    live.take_page(page(1, 2, 3, head=3))

    assert numbers_of(live.take()) == [1, 2, 3]
    assert not live.behind


def test_what_another_node_tells_while_a_page_is_read_is_looked_for_again() -> None:
    live = caught_up()
    live.suspect(1)
    live.suspect(2)
    live.take_page(page(1, head=1))

    assert live.behind
    live.take_page(page(2, head=2))
    assert numbers_of(live.take()) == [1, 2]
    assert not live.behind


def test_a_hint_that_comes_late_does_not_hide_what_was_told_before_it() -> None:
    live = caught_up()
    live.suspect(1)
    live.suspect(3)
    live.suspect(2)
    # Read after the second was committed, and before the third was.
    live.take_page(page(1, 2, head=2))

    assert live.behind
    live.take_page(page(3, head=3))
    assert numbers_of(live.take()) == [1, 2, 3]
    assert not live.behind


def test_a_number_of_an_epoch_that_is_over_costs_two_looks_and_no_more() -> None:
    live = caught_up()
    live.suspect(10**6)
    live.take_page(page(head=0))
    assert live.behind
    live.take_page(page(head=0))

    assert not live.behind


def test_what_was_handed_over_already_is_not_looked_for() -> None:
    live = caught_up()
    offer(live, 1)
    live.suspect(1)

    assert not live.behind


# -- claims -----------------------------------------------------------------------------------------


def test_a_higher_claim_elsewhere_ends_the_session_and_a_lower_one_does_not() -> None:
    registry, live = Registry(), new_live()
    live.claim = 5
    registry.attach(live)

    assert not registry.displace("bob", 4)
    assert not registry.displace("bob", 5)
    assert live.farewell is None
    assert registry.displace("bob", 6)
    assert live.farewell == REPLACED
    assert live.displaced
    assert not registry.displace("bob", 7), "once only"


def test_a_claim_elsewhere_that_was_told_before_the_session_began_counts() -> None:
    registry, live = Registry(), new_live()
    live.claim = 5
    arrival = registry.expect("bob")
    registry.displace("bob", 6)
    registry.suspect("bob", 9)

    registry.attach(live, arrival)

    assert live.farewell == REPLACED
    assert arrival.head == 9


def test_of_two_sessions_here_the_higher_claim_receives_whichever_begins_first() -> None:
    registry, first, second = Registry(), new_live(), new_live()
    first.claim, second.claim = 5, 6
    registry.attach(second)
    registry.attach(first)

    assert registry.receiver("bob") is second
    assert first.farewell == REPLACED
    assert second.farewell is None
    assert registry.detach(first) is False
