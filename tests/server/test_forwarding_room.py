"""Who gets which packet of a call: streams and their owners, layers, speakers, limits, and what is told."""

from typing import Any

import pytest

from commucat_proto.calls import (
    ActiveSpeakers,
    CongestionReport,
    DeviceStreams,
    KeyFrameRequest,
    MediaStream,
    ReceiveSelection,
    SelectedVideo,
    StreamKind,
)
from commucat_server.calls.forwarding import video
from commucat_server.calls.forwarding.limits import ForwardingLimits
from commucat_server.calls.forwarding.room import MAX_NUMBERS, SETTLEMENTS, Refused
from commucat_server.calls.forwarding.speakers import QUIET_AFTER
from commucat_server.calls.forwarding.stream import SILENT_AFTER, Stream
from server.forwarding_builders import (
    LOUD,
    OLD_PICTURE,
    OLD_SOUND,
    SILENT,
    Scene,
    picture,
    sound,
)


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.come("alice", "bob", "carol")
    return scene


def only(*video: tuple[str, int]) -> ReceiveSelection:
    return ReceiveSelection(video=tuple(SelectedVideo(device=name, layer=layer) for name, layer in video))


# -- streams ------------------------------------------------------------------------------------------


def test_sound_goes_to_all_others_and_is_announced_first(scene: Scene) -> None:
    assert scene.send("alice", sound(1)) == {"bob", "carol"}

    streams = DeviceStreams(device="alice", streams=(MediaStream(stream=1, kind=StreamKind.AUDIO),))
    assert scene.told(DeviceStreams) == [("bob", streams), ("carol", streams)]
    assert scene.send("alice", sound(1, 1)) == {"bob", "carol"}
    assert scene.told(DeviceStreams) == []


def test_who_comes_later_is_told_of_the_streams_there_are(scene: Scene) -> None:
    scene.send("alice", sound(1))
    scene.send("alice", picture(2, layer=1, key=True))
    scene.told(DeviceStreams)

    scene.come("dave")

    streams = (
        MediaStream(stream=1, kind=StreamKind.AUDIO),
        MediaStream(stream=2, kind=StreamKind.VIDEO, layer=1),
    )
    assert scene.told(DeviceStreams) == [("dave", DeviceStreams(device="alice", streams=streams))]


def test_nobody_speaks_as_another(scene: Scene) -> None:
    scene.send("alice", sound(1))

    assert scene.send("bob", sound(1)) is Refused.FORGED
    scene.room.leave("alice", scene.now)
    assert scene.send("bob", sound(1)) is Refused.FORGED
    assert scene.send("alice", sound(1)) is Refused.NOT_IN_CALL


def test_a_stream_is_of_one_kind_and_layer(scene: Scene) -> None:
    scene.send("alice", picture(1, layer=1, key=True))

    assert scene.send("alice", picture(1, 1, layer=2, key=True)) is Refused.FORGED
    assert scene.send("alice", sound(1)) is Refused.FORGED


def test_a_device_has_so_many_streams_and_a_silent_one_makes_room() -> None:
    scene = Scene(ForwardingLimits(streams=2))
    scene.come("alice", "bob")
    scene.send("alice", sound(1))
    scene.send("alice", picture(2, key=True))

    assert scene.send("alice", sound(3)) is Refused.TOO_MANY_STREAMS
    scene.now += 1.0
    scene.send("alice", sound(1, 1))
    assert scene.send("alice", picture(3, key=True)) == {"bob"}
    assert scene.told(DeviceStreams)[-1][1] == DeviceStreams(
        device="alice",
        streams=(
            MediaStream(stream=1, kind=StreamKind.AUDIO),
            MediaStream(stream=3, kind=StreamKind.VIDEO),
        ),
    )


def test_numbers_come_to_an_end() -> None:
    scene = Scene()
    scene.come("alice", "bob")
    answers = []
    for number in range(MAX_NUMBERS + 1):
        scene.now += 1.0
        answers.append(scene.send("alice", sound(number)))

    assert answers == [{"bob"}] * MAX_NUMBERS + [Refused.TOO_MANY_STREAMS]


def test_a_stream_that_comes_back_is_passed_on_at_once(scene: Scene) -> None:
    scene.send("alice", picture(1, key=True))
    scene.now += 60.0

    assert scene.send("alice", picture(1, 1)) == {"bob", "carol"}


def test_packets_of_version_1_need_no_announcement_and_go_to_all() -> None:
    scene = Scene()
    scene.come("alice", "bob")
    scene.come("carol", reads_streams=False)

    assert scene.send("carol", OLD_SOUND) == {"alice", "bob"}
    assert scene.send("carol", OLD_PICTURE) == {"alice", "bob"}
    assert scene.said == []


def test_a_flood_is_cut_and_ends(scene: Scene) -> None:
    limits = ForwardingLimits()
    answers = [scene.send("alice", sound(1, number)) for number in range(limits.audio_packets + 50)]

    assert answers == [{"bob", "carol"}] * limits.audio_packets + [Refused.FLOOD] * 50
    assert scene.send("bob", sound(2)) == {"alice", "carol"}
    scene.now += 1.0
    assert scene.send("alice", sound(1, 1000)) == {"bob", "carol"}


def test_bytes_are_limited_as_well(scene: Scene) -> None:
    half = ForwardingLimits().video_bytes // 2

    assert scene.send("alice", picture(1, key=True), half) == {"bob", "carol"}
    assert scene.send("alice", picture(1, 1), half) == {"bob", "carol"}
    assert scene.send("alice", picture(1, 2), 1000) is Refused.FLOOD
    scene.now += 0.1
    assert scene.send("alice", picture(1, 3), 1000) == {"bob", "carol"}


# -- layers -------------------------------------------------------------------------------------------


def test_video_begins_with_a_key_frame_that_its_sender_is_asked_for(scene: Scene) -> None:
    assert scene.send("alice", picture(1)) == set()
    assert scene.told(KeyFrameRequest) == [("alice", KeyFrameRequest(device="alice"))]
    assert scene.send("alice", picture(1, 1)) == set()
    assert scene.told(KeyFrameRequest) == []
    assert scene.send("alice", picture(1, 2, key=True)) == {"bob", "carol"}
    assert scene.send("alice", picture(1, 3)) == {"bob", "carol"}


def test_the_highest_layer_that_is_sent_and_wanted_is_passed(scene: Scene) -> None:
    scene.room.select("carol", only(("alice", 1)), scene.now)
    for layer in range(3):
        scene.send("alice", picture(layer, layer=layer, key=True))
    for layer in range(3):
        scene.send("alice", picture(layer, 1, layer=layer, key=True))

    passed = [scene.send("alice", picture(layer, 2, layer=layer)) for layer in range(3)]

    assert passed == [set(), {"carol"}, {"bob"}]


def test_another_layer_begins_at_its_key_frame(scene: Scene) -> None:
    for layer in (0, 2):
        scene.send("alice", picture(layer, layer=layer, key=True))
    scene.told(KeyFrameRequest)
    scene.now += 1.0
    scene.send("alice", picture(0, 1))
    scene.send("alice", picture(2, 1, layer=2))

    scene.room.select("bob", only(("alice", 0)), scene.now)
    scene.hear()

    assert scene.told(KeyFrameRequest) == [("alice", KeyFrameRequest(device="alice"))]
    assert scene.send("alice", picture(0, 2)) == set()
    assert scene.send("alice", picture(2, 2, layer=2)) == {"bob", "carol"}
    assert scene.send("alice", picture(0, 3, key=True)) == {"bob"}
    assert scene.send("alice", picture(2, 3, layer=2)) == {"carol"}


def test_a_layer_that_stops_is_replaced_by_the_next_lower_one(scene: Scene) -> None:
    for layer in (0, 2):
        scene.send("alice", picture(layer, layer=layer, key=True))
    scene.now += SILENT_AFTER + 0.1

    assert scene.send("alice", picture(0, 1)) == set()
    assert scene.told(KeyFrameRequest)[-1] == ("alice", KeyFrameRequest(device="alice"))
    assert scene.send("alice", picture(0, 2, key=True)) == {"bob", "carol"}


def test_who_pauses_gets_nothing_and_a_key_frame_when_it_goes_on(scene: Scene) -> None:
    scene.send("alice", picture(1, key=True))
    scene.room.select("bob", only(), scene.now)
    assert scene.send("alice", picture(1, 1)) == {"carol"}
    assert scene.send("alice", picture(1, 2, key=True)) == {"carol"}
    assert scene.room.paused == 1

    scene.now += 2.0
    scene.send("alice", picture(1, 3))
    scene.told(KeyFrameRequest)
    scene.room.select("bob", ReceiveSelection(), scene.now)
    scene.hear()

    assert scene.told(KeyFrameRequest) == [("alice", KeyFrameRequest(device="alice"))]
    assert scene.send("alice", picture(1, 4)) == {"carol"}
    assert scene.send("alice", picture(1, 5, key=True)) == {"bob", "carol"}


def test_one_request_a_second_however_many_ask(scene: Scene) -> None:
    scene.send("alice", picture(1, key=True))
    asked = 0
    for step in range(100):
        scene.now += 0.05
        scene.room.ask_key_frame("alice", scene.now)
        scene.send("alice", picture(1, step + 1))
        asked += len(scene.told(KeyFrameRequest))

    assert 4 <= asked <= 6


def test_a_new_session_starts_with_a_key_frame_and_all_streams(scene: Scene) -> None:
    scene.send("alice", picture(1, key=True))
    scene.room.select("bob", only(), scene.now)
    scene.told(DeviceStreams)
    scene.room.depart("bob", scene.now)
    assert scene.send("alice", picture(1, 1)) == {"carol"}

    scene.come("bob")

    assert [device for device, _ in scene.told(DeviceStreams)] == ["bob"]
    assert scene.send("alice", picture(1, 2)) == {"carol"}
    assert scene.send("alice", picture(1, 3, key=True)) == {"bob", "carol"}


def stream_of(scene: Scene, device_id: str, packet_stream: int) -> Stream:
    found = scene.room.receive(device_id, StreamKind.VIDEO, picture(packet_stream, 1), 10, scene.now)
    assert isinstance(found, Stream)
    return found


def test_a_gap_in_a_receivers_video_holds_it_until_the_next_key_frame(scene: Scene) -> None:
    scene.send("alice", picture(1, key=True))
    stream = stream_of(scene, "alice", 1)
    assert scene.told(KeyFrameRequest) == []

    scene.room.lost("bob", stream, 3, True, scene.now)
    scene.hear()

    assert scene.told(KeyFrameRequest) == [("alice", KeyFrameRequest(device="alice"))]
    assert scene.told(CongestionReport) == [("alice", CongestionReport(device="alice", dropped=3))]
    assert scene.send("alice", picture(1, 2)) == {"carol"}
    assert scene.send("alice", picture(1, 3, key=True)) == {"bob", "carol"}


def test_a_sender_hears_of_congestion_once_a_second(scene: Scene) -> None:
    scene.send("alice", picture(1, key=True))
    stream = stream_of(scene, "alice", 1)
    for _ in range(30):
        scene.now += 0.1
        scene.room.lost("bob", stream, 2, False, scene.now)
        scene.hear()

    dropped = [
        update.dropped for _, update in scene.told(CongestionReport) if isinstance(update, CongestionReport)
    ]
    assert len(dropped) == 3
    assert dropped == [2, 20, 20]


# -- speakers -----------------------------------------------------------------------------------------


def talk(scene: Scene, seconds: float, **levels: int) -> dict[str, set[str]]:
    """Everybody sends 50 packets a second; who gets the last one of each."""
    last: dict[str, set[str]] = {}
    for step in range(int(seconds * 50)):
        scene.now += 0.02
        for name, level in levels.items():
            got = scene.send(name, sound(ord(name[0]), step, level=level))
            assert not isinstance(got, Refused)
            last[name] = got
    return last


def test_only_the_loudest_are_passed_to_who_wants_so_many(scene: Scene) -> None:
    scene.come("dave")
    scene.room.select("dave", ReceiveSelection(speakers=1), scene.now)

    last = talk(scene, 2.0, alice=60, bob=LOUD, carol=SILENT)

    assert last["bob"] == {"alice", "carol", "dave"}
    assert last["alice"] == {"bob", "carol"}
    last = talk(scene, 3.0, alice=LOUD, bob=SILENT, carol=SILENT)
    assert last["alice"] == {"bob", "carol", "dave"}
    assert last["bob"] == {"alice", "carol"}


def test_who_wants_no_sound_gets_none(scene: Scene) -> None:
    scene.room.select("bob", ReceiveSelection(audio=False), scene.now)

    assert scene.send("alice", sound(1)) == {"carol"}


def test_speakers_are_told_when_they_change_and_not_too_often(scene: Scene) -> None:
    talk(scene, 1.0, alice=LOUD, bob=SILENT, carol=SILENT)
    assert ("carol", ActiveSpeakers(devices=("alice",))) in scene.told(ActiveSpeakers)
    talk(scene, 2.0, alice=LOUD, bob=LOUD, carol=SILENT)
    told = [update for device, update in scene.told(ActiveSpeakers) if device == "carol"]
    assert told == [ActiveSpeakers(devices=("alice", "bob"))]

    talk(scene, 5.0, alice=LOUD, bob=LOUD, carol=SILENT)
    assert scene.told(ActiveSpeakers) == []

    for _ in range(20):
        talk(scene, 0.2, alice=LOUD, bob=LOUD, carol=LOUD)
        talk(scene, 0.2, alice=SILENT, bob=SILENT, carol=SILENT)
    assert len([device for device, _ in scene.told(ActiveSpeakers) if device == "carol"]) <= 16


def test_two_who_are_about_as_loud_do_not_change_places(scene: Scene) -> None:
    scene.room.select("carol", ReceiveSelection(speakers=1), scene.now)
    talk(scene, 1.0, alice=20, bob=22)
    last = talk(scene, 1.0, alice=22, bob=20)

    assert last["alice"] == {"bob", "carol"}


def test_who_sends_nothing_any_more_is_not_loud(scene: Scene) -> None:
    talk(scene, 1.0, alice=LOUD, bob=50)
    scene.told(ActiveSpeakers)
    talk(scene, QUIET_AFTER + 1.0, bob=50)

    assert scene.told(ActiveSpeakers)[-1][1] == ActiveSpeakers(devices=("bob",))


def test_packets_without_level_are_loud_by_their_size() -> None:
    scene = Scene()
    scene.come("alice", "bob", "carol")
    scene.room.select("carol", ReceiveSelection(speakers=1), scene.now)
    for step in range(100):
        scene.now += 0.02
        scene.send("alice", sound(1, step, level=SILENT))
        last = scene.send("bob", OLD_SOUND)

    assert last == {"alice", "carol"}
    assert scene.told(ActiveSpeakers)[-1][1] == ActiveSpeakers(devices=("bob",))


def test_what_a_busy_server_leaves_out_waits_for_a_key_frame_and_its_sender_is_told() -> None:
    scene = Scene()
    scene.come("a", "b", "c")
    assert scene.send("a", picture(1, key=True)) == {"b", "c"}
    scene.send("a", sound(2))
    scene.now += 2.0
    stream = scene.room.receive("a", StreamKind.VIDEO, picture(1, 1), 100, scene.now)
    assert isinstance(stream, Stream)
    scene.room.shed(stream, scene.now)
    scene.hear()
    assert [to for to, _ in scene.told(KeyFrameRequest)] == ["a"]
    assert scene.told(CongestionReport) == [("a", CongestionReport(device="a", dropped=1))]
    assert scene.send("a", picture(1, 2)) == set()
    assert scene.send("a", picture(1, 3, key=True)) == {"b", "c"}
    sounding = scene.room.receive("a", StreamKind.AUDIO, sound(2, 1), 100, scene.now)
    assert isinstance(sounding, Stream)
    scene.room.shed(sounding, scene.now)
    assert scene.send("a", sound(2, 2)) == {"b", "c"}


def test_a_flood_of_selections_is_followed_by_its_last_one_and_costs_little(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def aim(*args: Any) -> None:
        nonlocal looks
        looks += 1
        real_aim(*args)

    real_aim = video.aim
    monkeypatch.setattr(video, "aim", aim)
    scene.send("alice", picture(1, key=True))
    scene.send("alice", sound(2))
    for step in range(10_000):
        scene.room.select("bob", only() if step % 2 else ReceiveSelection(audio=False), scene.now)
    scene.room.select("bob", only(("alice", 0)), scene.now)

    assert looks <= 3 * (SETTLEMENTS + 1)
    scene.now += 2 / SETTLEMENTS
    assert scene.send("alice", sound(2, 1)) == {"bob", "carol"}
    assert scene.send("alice", picture(1, 1, key=True)) == {"bob", "carol"}
