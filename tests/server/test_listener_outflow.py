"""Who sends when one commit has something for many connections, and what is read meanwhile."""

from collections.abc import Callable

import pytest
import trio
import trio.testing

from commucat_server.listener.outflow import MANY, SLICE_SECONDS, Outflow
from commucat_server.listener.tcp_stream import TcpStream
from server.listener_builders import detached

SLICE = 10
"""Connections that send in one slice of :class:`Served`."""


class Served:
    """An outflow whose connections take a tenth of a slice each to send, and the order in which they did."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []
        self.outflow = Outflow(clock=lambda: self.now)

    def flush(self, name: str) -> Callable[[], None]:
        def send() -> None:
            self.now += SLICE_SECONDS / SLICE
            self.order.append(name)

        return send

    def commit(self, *due: str, urgent: tuple[str, ...] = ()) -> None:
        self.outflow.begin()
        for name in due:
            assert self.outflow.add(self.flush(name))
        self.outflow.hasten(True)
        for name in urgent:
            assert self.outflow.add(self.flush(name))
        self.outflow.hasten(False)
        self.outflow.end()


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def test_nobody_is_added_while_no_commit_is_told() -> None:
    outflow = Outflow()
    assert not outflow.add(lambda: None)
    outflow.hasten(True)
    assert not outflow.add(lambda: None)
    outflow.begin()
    outflow.end()
    assert not outflow.add(lambda: None)


def test_a_few_send_at_once_and_each_once() -> None:
    served, few = Served(), names("few", MANY)
    send = served.flush("twice")
    served.outflow.begin()
    assert served.outflow.add(send)
    assert served.outflow.add(send)
    served.outflow.end()
    served.commit(*few)
    assert served.order == ["twice", *few]


def test_the_urgent_go_first() -> None:
    served = Served()
    served.commit("a", "b", urgent=("sender",))
    assert served.order == ["sender", "a", "b"]


async def test_many_send_in_slices_between_which_others_have_their_turn() -> None:
    served, many = Served(), names("m", MANY + 8)
    served.commit(*many, urgent=("sender",))
    assert served.order == ["sender", *many[:SLICE]]
    turns = 0
    while served.outflow._waves:
        served.order.append("other")
        await trio.lowlevel.checkpoint()
        turns += 1
    assert turns >= len(many) // SLICE - 1
    sent = [name for name in served.order if name != "other"]
    assert sent == ["sender", *many]
    assert "other" in served.order[:-SLICE]


async def test_a_few_do_not_wait_for_many() -> None:
    served, many = Served(), names("m", MANY * 2)
    served.commit(*many)
    served.commit("quick")
    assert served.order[-1] == "quick"
    assert len(served.order) == SLICE + 1
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(served.order) == sorted([*many, "quick"])


async def test_those_who_wait_for_a_wave_do_not_wait_for_the_next() -> None:
    served, first, second = Served(), names("a", MANY + 1), names("b", MANY + 1)
    served.commit(*first)
    wave = served.outflow.wave
    served.commit(*second)
    await served.outflow.over(wave)
    assert [name for name in served.order if name[0] == "a"] == first
    assert served.order[-1] != second[-1], "the second wave is still going out"
    await served.outflow.over(wave + 1)
    assert served.order == first + second


async def test_a_connection_that_fails_stops_nobody_else() -> None:
    served, many = Served(), names("m", MANY + 1)

    def fail() -> None:
        raise RuntimeError("a mistake of ours")

    served.outflow.begin()
    for name in many[:SLICE]:
        served.outflow.add(served.flush(name))
    served.outflow.add(fail)
    for name in many[SLICE:]:
        served.outflow.add(served.flush(name))
    served.outflow.end()
    await served.outflow.over(served.outflow.wave)
    assert served.order == many
    assert not served.outflow.sending


def test_one_of_a_few_that_fails_stops_nobody_else() -> None:
    served = Served()

    def fail() -> None:
        raise RuntimeError("a mistake of ours")

    served.outflow.begin()
    for flush in (fail, served.flush("a")):
        assert served.outflow.add(flush)
    served.outflow.hasten(True)
    for flush in (fail, served.flush("sender")):
        assert served.outflow.add(flush)
    served.outflow.end()
    assert served.order == ["sender", "a"]


async def test_nothing_is_to_be_waited_for_when_no_wave_goes_out() -> None:
    outflow = Outflow()
    await outflow.over(outflow.wave)
    await outflow.over(outflow.wave - 1)


async def connection(outflow: Outflow) -> tuple[TcpStream, trio.SocketStream]:
    """The server's end of a TCP connection, and the peer's."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        peer = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        return TcpStream(detached(await listener.accept()), outflow), peer


async def test_what_a_served_peer_answers_is_read_behind_its_wave(nursery: trio.Nursery) -> None:
    served = Served()
    member, member_peer = await connection(served.outflow)
    other, other_peer = await connection(served.outflow)
    read: list[str] = []

    async def receive(name: str, stream: TcpStream) -> None:
        assert await stream.receive_some() == b"answer"
        read.append(name if served.outflow._waves else f"{name} behind the wave")

    def send() -> None:
        assert member.send_now(b"delivery")
        # It takes the whole slice; the wave goes on when everybody else had a turn.
        served.now += SLICE_SECONDS

    async with member, member_peer, other, other_peer:
        served.outflow.begin()
        served.outflow.add(send)
        for name in names("more", 40 * SLICE):
            served.outflow.add(served.flush(name))
        served.outflow.end()
        await member_peer.send_all(b"answer")
        await other_peer.send_all(b"answer")
        async with trio.open_nursery() as readers:
            readers.start_soon(receive, "member", member)
            readers.start_soon(receive, "other", other)
    assert read == ["other", "member behind the wave"]


async def test_a_connection_that_is_closed_while_its_answer_waits_is_told() -> None:
    served = Served()
    member, peer = await connection(served.outflow)
    async with peer:
        served.commit(*names("m", 40 * SLICE))
        member._wave = served.outflow.wave
        await peer.send_all(b"answer")
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await member.receive_some()

            nursery.start_soon(receive)
            while not served.outflow._held:
                await trio.lowlevel.checkpoint()
            member.close()


def test_before_each_connection_sends_there_is_a_gap() -> None:
    served = Served()
    served.outflow.gap = lambda: served.order.append("gap")
    served.commit("a", "b", urgent=("first",))
    assert served.order == ["gap", "first", "gap", "a", "gap", "b"]


def test_what_is_told_in_a_gap_goes_out_before_what_was_less_urgent() -> None:
    served = Served()

    def gap() -> None:
        if served.order == ["media-0"]:
            served.outflow.gap = lambda: None
            served.commit("message")

    served.outflow.gap = gap
    served.commit(*names("media-", 3))
    assert served.order == ["media-0", "message", "media-1", "media-2"]


async def test_before_a_read_there_is_a_gap() -> None:
    outflow, gaps = Outflow(), list[str]()
    ours, theirs = await connection(outflow)
    async with ours, theirs:
        outflow.gap = lambda: gaps.append("gap")
        await theirs.send_all(b"something")
        assert await ours.receive_some() == b"something"
    assert gaps == ["gap"]
