"""Media for a slow receiver: what is old or of least use is dropped, and what builds upon it with it."""

import itertools
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto import FrameTemplate, FrameType, decode_frame
from commucat_server.routing.media_queue import (
    MEDIA_BYTES,
    STALE_AFTER,
    TURN_BYTES,
    Flowing,
    MediaPacket,
    MediaQueue,
)


@attrs.frozen(eq=False)
class Flow:
    name: str
    gated: bool = False
    rank: int = 0


VOICE = Flow("voice")
LOW = Flow("low", gated=True, rank=1)
HIGH = Flow("high", gated=True, rank=3)


@attrs.define
class Scene:
    """A queue, its clock, and what it said was lost."""

    now: float = 100.0
    lost: list[tuple[Flowing, int, bool]] = attrs.Factory(list)
    queue: MediaQueue = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.queue = MediaQueue(lambda: self.now, lambda *what: self.lost.append(what))

    def put(
        self, flow: Flow, name: str, size: int = 100, *, key: bool = False, arrived: float | None = None
    ) -> bool:
        template = FrameTemplate(FrameType.VIDEO_FRAME, 7, name.encode())
        came = self.now if arrived is None else arrived
        packet = MediaPacket(template, size, flow, rank=flow.rank, key_frame=key, arrived=came)
        return self.queue.put(packet)

    def take(self) -> list[str]:
        return [decode_frame(each.encode(1))[0].payload.decode() for each in self.queue.take()]

    def take_all(self) -> list[str]:
        names: list[str] = []
        while self.queue:
            names += self.take()
        return names


def test_sound_goes_before_video_and_each_in_its_order() -> None:
    scene = Scene()
    for name in ("p1", "p2"):
        scene.put(LOW, name, key=name == "p1")
        scene.put(VOICE, name.replace("p", "v"))

    assert scene.take() == ["v1", "v2", "p1", "p2"]
    assert not scene.queue
    assert scene.queue.bytes == 0


def test_one_turn_takes_little_but_always_something() -> None:
    scene = Scene()
    scene.put(LOW, "large", TURN_BYTES * 3, key=True)
    scene.put(LOW, "small", TURN_BYTES // 2)
    scene.put(LOW, "next", TURN_BYTES // 2)
    scene.put(LOW, "last", 1)

    assert [scene.take(), scene.take(), scene.take()] == [["large"], ["small", "next"], ["last"]]


def test_what_came_late_from_a_transcoder_is_as_old_as_it_is() -> None:
    scene = Scene()
    scene.put(VOICE, "new")
    scene.put(LOW, "old", key=True, arrived=scene.now - STALE_AFTER / 2)
    scene.now += STALE_AFTER * 0.6

    assert scene.take() == ["new"]
    assert scene.lost == [(LOW, 1, True)]


def test_what_is_too_old_is_not_sent() -> None:
    scene = Scene()
    scene.put(VOICE, "old")
    scene.now += STALE_AFTER / 2
    scene.put(VOICE, "new")
    scene.now += STALE_AFTER * 0.6

    assert scene.take() == ["new"]
    assert scene.lost == [(VOICE, 1, False)]


def test_old_video_takes_with_it_what_builds_upon_it() -> None:
    scene = Scene()
    scene.put(LOW, "key", key=True)
    scene.now += STALE_AFTER * 0.9
    scene.put(LOW, "builds on it")
    scene.put(VOICE, "voice")
    scene.now += STALE_AFTER * 0.2

    assert scene.take() == ["voice"]
    assert scene.lost == [(LOW, 2, True)]


def test_a_key_frame_that_waits_mends_the_gap() -> None:
    scene = Scene()
    scene.put(LOW, "old")
    scene.now += STALE_AFTER * 0.9
    scene.put(LOW, "builds on it")
    scene.put(LOW, "key", key=True)
    scene.put(LOW, "builds on that")
    scene.now += STALE_AFTER * 0.2

    assert scene.take() == ["key", "builds on that"]
    assert scene.lost == [(LOW, 2, False)]


def test_too_much_costs_the_higher_layers_first_and_sound_last() -> None:
    scene = Scene()
    scene.put(VOICE, "voice", MEDIA_BYTES // 4)
    scene.put(LOW, "low", MEDIA_BYTES // 4, key=True)
    scene.put(HIGH, "high", MEDIA_BYTES // 4, key=True)
    scene.put(LOW, "low 2", MEDIA_BYTES // 4)

    assert scene.put(LOW, "low 3", MEDIA_BYTES // 4)
    assert scene.lost == [(HIGH, 1, True)]
    assert not scene.put(HIGH, "high 2", 1)
    assert scene.lost.pop() == (HIGH, 1, True)
    assert scene.put(VOICE, "voice 2", MEDIA_BYTES // 4)
    assert scene.lost[1:] == [(LOW, 3, True)]
    assert scene.take_all() == ["voice", "voice 2"]


def test_a_picture_that_is_larger_than_the_queue_goes_alone() -> None:
    scene = Scene()

    assert scene.put(HIGH, "huge", MEDIA_BYTES + 1, key=True)
    assert scene.take() == ["huge"]


steps = st.lists(
    st.tuples(
        st.sampled_from([VOICE, LOW, HIGH]),
        st.sampled_from([50, TURN_BYTES, MEDIA_BYTES // 3]),
        st.booleans(),
        st.sampled_from([0.0, 0.02, 0.3]),
        st.booleans(),
    ),
    max_size=40,
)


@given(steps)
def test_whatever_comes_the_queue_is_bounded_fresh_and_decodable(
    sent: list[tuple[Flow, int, bool, float, bool]],
) -> None:
    scene = Scene()
    numbers: dict[str, tuple[Flow, int, bool, float]] = {}
    taken: list[str] = []
    accepted = refused = 0
    held: set[Flow] = set()
    for index, (flow, size, key, pause, takes) in enumerate(sent):
        scene.now += pause
        # As the room does: nothing of a broken stream before its next key frame.
        for broken in [each for each, _, gap in scene.lost if gap and isinstance(each, Flow)]:
            held.add(broken)
        refused += sum(count for _, count, _ in scene.lost)
        scene.lost.clear()
        if flow.gated and flow in held and not key:
            continue
        held.discard(flow)
        numbers[str(index)] = (flow, index, key, scene.now)
        accepted += 1
        scene.put(flow, str(index), size, key=key)
        assert scene.queue.bytes <= MEDIA_BYTES or len(scene.queue) == 1
        if takes:
            taken += fresh(scene, numbers, scene.take)
    taken += fresh(scene, numbers, scene.take_all)
    refused += sum(count for _, count, _ in scene.lost)

    assert len(taken) + refused == accepted
    for flow in (VOICE, LOW, HIGH):
        mine = [int(name) for name in taken if numbers[name][0] is flow]
        assert mine == sorted(mine)
        sent_of_it = [number for each, number, _, _ in numbers.values() if each is flow]
        for before, after in itertools.pairwise(mine):
            between = sent_of_it[sent_of_it.index(before) + 1 : sent_of_it.index(after)]
            # A gap ends at a key frame.
            assert not between or not flow.gated or numbers[str(after)][2]


def fresh(
    scene: Scene, numbers: dict[str, tuple[Flow, int, bool, float]], take: Callable[[], list[str]]
) -> list[str]:
    names = take()
    assert all(scene.now - numbers[name][3] <= STALE_AFTER for name in names)
    return names


class Watched(MediaPacket):
    """A packet that counts how often it is looked at."""

    __slots__ = ()
    looks = 0

    def __getattribute__(self, name: str) -> object:
        Watched.looks += 1
        return super().__getattribute__(name)


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("gated", [True, False])
def test_what_waits_makes_nothing_slower(key: bool, gated: bool) -> None:
    """Many who send small packets to one that does not read: thousands wait, and each packet that comes, or
    goes stale, costs as much as with few."""
    scene = Scene()
    flows = [Flow(f"{number}", gated=gated, rank=3 if gated else 0) for number in range(20)]
    template = FrameTemplate(FrameType.VIDEO_FRAME, 7, b"")
    Watched.looks = 0
    packets = 0
    for _ in range(200):
        scene.now += 1 / 400
        for flow in flows:
            packet = Watched(template, 150, flow, rank=flow.rank, key_frame=key, arrived=scene.now)
            scene.queue.put(packet)
            packets += 1

    assert scene.lost
    assert Watched.looks < 40 * packets
