"""Who asks for which codec, and which packets have to be transcoded for it."""

import attrs
import pytest

from commucat_media import AudioCodec, AudioPacket, MediaSource, StreamPacket, VideoCodec
from commucat_proto.calls import AudioCodec as AudioName
from commucat_proto.calls import KeyFrameRequest, ReceiveSelection, StreamKind
from commucat_proto.calls import VideoCodec as VideoName
from commucat_server.calls.forwarding.conversion import Codec, needs, stands_alone, targets_of
from commucat_server.calls.forwarding.stream import Stream
from server.forwarding_builders import OLD_PICTURE, Scene, picture, sound

TO_OPUS = ReceiveSelection(transcode_audio=AudioName.OPUS)
TO_VP9 = ReceiveSelection(transcode_video=VideoName.VP9)


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.come("alice", "bob", "carol")
    return scene


def stream_of(scene: Scene, packet: StreamPacket) -> Stream:
    kind = StreamKind.AUDIO if isinstance(packet.codec, AudioCodec) else StreamKind.VIDEO
    stream = scene.room.receive("alice", kind, packet, 100, scene.now)
    assert isinstance(stream, Stream)
    return stream


def asking(stream: Stream) -> dict[Codec, set[str]]:
    return {codec: {each.device_id for each in found} for codec, found in stream.asking.items()}


@pytest.mark.parametrize(
    ("source", "codec", "target", "needed"),
    [
        (MediaSource.RAW, AudioCodec.RAW_PCM, AudioCodec.OPUS, True),
        # Raw is raw, whatever its codec byte says.
        (MediaSource.RAW, AudioCodec.OPUS, AudioCodec.OPUS, True),
        (MediaSource.RAW, AudioCodec.RAW_PCM, AudioCodec.RAW_PCM, False),
        (MediaSource.ENCODED, AudioCodec.OPUS, AudioCodec.RAW_PCM, True),
        (MediaSource.ENCODED, AudioCodec.OPUS, AudioCodec.OPUS, False),
        (MediaSource.ENCODED, AudioCodec.RAW_PCM, AudioCodec.OPUS, False),
        (MediaSource.HYBRID, AudioCodec.OPUS, AudioCodec.RAW_PCM, False),
        (MediaSource.RAW, VideoCodec.RAW_I420, VideoCodec.VP8, True),
        (MediaSource.ENCODED, VideoCodec.VP8, VideoCodec.VP8, False),
        (MediaSource.ENCODED, VideoCodec.VP8, VideoCodec.VP9, True),
        (MediaSource.ENCODED, VideoCodec.H264_MAIN, VideoCodec.VP8, True),
        (MediaSource.HYBRID, VideoCodec.VP9, VideoCodec.VP8, False),
    ],
)
def test_what_is_in_the_codec_or_holds_both_forms_passes(
    source: MediaSource, codec: Codec, target: Codec, needed: bool
) -> None:
    packet = StreamPacket(source=source, codec=codec, data=b"x", stream=1, number=0, timestamp=0)

    assert needs(packet, target) is needed
    assert needs(attrs.evolve(packet, encrypted=True), target) is False
    if isinstance(codec, AudioCodec):
        assert needs(AudioPacket(source=source, codec=codec, data=b"x"), target) is needed


def test_key_frames_and_raw_pictures_stand_alone() -> None:
    assert stands_alone(picture(1, key=True))
    assert not stands_alone(picture(1))
    assert stands_alone(attrs.evolve(picture(1), source=MediaSource.RAW))
    assert not stands_alone(OLD_PICTURE)


def test_a_selection_names_codecs_of_sound_and_of_video() -> None:
    both = ReceiveSelection(transcode_audio=AudioName.RAW_PCM, transcode_video=VideoName.VP8)

    assert targets_of(both) == {StreamKind.AUDIO: AudioCodec.RAW_PCM, StreamKind.VIDEO: VideoCodec.VP8}
    assert targets_of(ReceiveSelection()) == {}


def test_who_asks_is_apart_from_the_others(scene: Scene) -> None:
    scene.room.select("bob", TO_OPUS, scene.now)

    stream = stream_of(scene, sound(1))

    assert [each.device_id for each in stream.readers] == ["carol"]
    assert asking(stream) == {AudioCodec.OPUS: {"bob"}}
    assert scene.room.asked() == {(stream, AudioCodec.OPUS)}


def test_whoever_leaves_or_wants_it_no_more_asks_for_nothing(scene: Scene) -> None:
    scene.room.select("bob", TO_OPUS, scene.now)
    scene.room.select("carol", TO_OPUS, scene.now)
    stream = stream_of(scene, sound(1))

    scene.room.select("bob", ReceiveSelection(), scene.now)
    assert asking(stream) == {AudioCodec.OPUS: {"carol"}}
    scene.room.depart("carol", scene.now)
    assert scene.room.asked() == set()
    scene.room.select("bob", TO_OPUS, scene.now)
    assert len(scene.room.asked()) == 1
    scene.room.leave("alice", scene.now)
    assert scene.room.asked() == set()


def test_a_new_session_asks_for_nothing(scene: Scene) -> None:
    scene.room.select("bob", TO_OPUS, scene.now)
    scene.room.arrive("bob", reads_streams=True, now=scene.now)

    assert asking(stream_of(scene, sound(1))) == {}


def test_another_codec_of_video_begins_with_a_key_frame(scene: Scene) -> None:
    stream = stream_of(scene, picture(1, key=True))
    before = stream.entered
    scene.hear()
    scene.told(KeyFrameRequest)
    scene.now += 0.5

    scene.room.select("bob", TO_VP9, scene.now)
    scene.hear()
    assert scene.told(KeyFrameRequest) == [("alice", KeyFrameRequest(device="alice"))]
    stream_of(scene, picture(1, 1))
    assert asking(stream) == {}
    assert [each.device_id for each in stream.readers] == ["carol"]

    stream_of(scene, picture(1, 2, key=True))
    assert asking(stream) == {VideoCodec.VP9: {"bob"}}
    assert stream.entered == before + 1
    # The same wish again changes nothing.
    scene.room.select("bob", attrs.evolve(TO_VP9, speakers=2), scene.now)
    assert asking(stream) == {VideoCodec.VP9: {"bob"}}


def test_a_receiver_that_lost_video_comes_in_again(scene: Scene) -> None:
    scene.room.select("bob", TO_VP9, scene.now)
    stream = stream_of(scene, picture(1, key=True))
    assert asking(stream) == {VideoCodec.VP9: {"bob"}}

    scene.room.lost("bob", stream, 1, True, scene.now)
    assert asking(stream) == {}
    before = stream.entered
    stream_of(scene, picture(1, 1, key=True))

    assert asking(stream) == {VideoCodec.VP9: {"bob"}}
    assert stream.entered == before + 1


def test_raw_pictures_open_a_stream_as_key_frames_do(scene: Scene) -> None:
    raw = attrs.evolve(picture(1), source=MediaSource.RAW, codec=VideoCodec.RAW_I420)

    assert {each.device_id for each in stream_of(scene, raw).readers} == {"bob", "carol"}
