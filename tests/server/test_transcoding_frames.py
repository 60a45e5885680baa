"""Transcoding over the wire: asked for by a receiver, refused where it cannot be, and gone with the call."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from commucat_media import (
    AudioCodec,
    AudioPacket,
    MediaSource,
    StreamPacket,
    VideoCodec,
    decode_audio,
    decode_audio_any,
    decode_video_any,
    encode_packet,
    encode_stream_packet,
)
from commucat_media.opus import OpusDecoder, OpusEncoder
from commucat_media.video import VideoDecoder, VideoEncoder, VideoFormat
from commucat_proto import FrameType
from commucat_server.calls.transcoding import Transcoding
from media.pictures import psnr, scene
from media.sounds import best_match, frames_of, warble
from server.connect_builders import Client, Server, running_server
from server.forwarding_builders import picture, sound
from server.forwarding_stage import CHANNEL, NEW, OLD, Clock, in_call, say, update, video, voice


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    forwarding = {"clock": Clock(), "transcoding": Transcoding(threads=2)}
    async with running_server(tmp_path, forwarding=forwarding) as server:
        yield server


async def receive(client: Client, **selection: Any) -> dict[str, Any]:
    return await say(client, FrameType.TRANSPORT_UPDATE, {"update": "receive", **selection})


def say_raw(client: Client, number: int, pcm: bytes) -> bytes:
    raw = attrs.evolve(sound(1, number), source=MediaSource.RAW, codec=AudioCodec.RAW_PCM, data=pcm)
    payload = encode_stream_packet(raw)
    client.send(FrameType.VOICE_FRAME, CHANNEL, payload)
    return payload


def show(client: Client, encoder: VideoEncoder, number: int) -> None:
    made = encoder.encode(scene(number, 640, 360))
    packet = attrs.evolve(picture(5, number, key=made.key_frame), data=made.data)
    client.send(FrameType.VIDEO_FRAME, CHANNEL, encode_stream_packet(packet))


async def none_running(server: Server) -> None:
    """Transcoders end in threads, after what ended them."""
    with trio.fail_after(30):
        while server.context.forwarder.transcoding.running:
            await trio.lowlevel.checkpoint()


async def test_raw_sound_is_heard_in_opus_by_who_asks_and_raw_by_the_other(server: Server) -> None:
    alice, bob, carol = await in_call(server, NEW, NEW, NEW)
    assert "ack" in await receive(bob, transcode_audio="opus")
    spoken = warble(0.6)
    decoder, heard = OpusDecoder(), b""
    for number, frame in enumerate(frames_of(spoken)):
        payload = say_raw(alice, number, frame)
        packet = decode_audio_any((await bob.next_of(FrameType.VOICE_FRAME)).payload)
        assert isinstance(packet, StreamPacket)
        assert (packet.source, packet.codec) == (MediaSource.ENCODED, AudioCodec.OPUS)
        assert (packet.stream, packet.number, packet.timestamp) == (1, number, number * 960)
        assert (await carol.next_of(FrameType.VOICE_FRAME)).payload == payload
        heard += decoder.decode(packet.data)

    assert best_match(heard, spoken[:-2_000], longest_delay=960)[0] > 0.9
    assert server.context.counters.media_transcoded == {"opus": 30}
    assert server.context.counters.media_dropped == {}


async def test_opus_is_heard_raw_and_whose_it_is_was_told_before(server: Server) -> None:
    alice, bob = await in_call(server, NEW, NEW)
    await receive(bob, transcode_audio="raw_pcm")
    spoken, encoder, heard = warble(0.4), OpusEncoder(bitrate=32_000), b""
    for number, frame in enumerate(frames_of(spoken)):
        packet = attrs.evolve(sound(1, number), data=encoder.encode(frame))
        alice.send(FrameType.VOICE_FRAME, CHANNEL, encode_stream_packet(packet))
        if number == 0:
            assert (await update(bob, "streams"))["streams"][0]["stream"] == 1
        got = decode_audio_any((await bob.next_of(FrameType.VOICE_FRAME)).payload)
        assert got.codec is AudioCodec.RAW_PCM
        heard += got.data

    assert best_match(heard, spoken[:-2_000], longest_delay=960)[0] > 0.9


async def test_sound_of_an_old_client_is_transcoded_in_its_version(server: Server) -> None:
    alice, bob = await in_call(server, OLD, NEW)
    await receive(bob, transcode_audio="opus")
    raw = AudioPacket(source=MediaSource.RAW, codec=AudioCodec.RAW_PCM, data=bytes(1920))
    alice.send(FrameType.VOICE_FRAME, CHANNEL, encode_packet(raw))

    got = decode_audio((await bob.next_of(FrameType.VOICE_FRAME)).payload)
    assert (got.source, got.codec) == (MediaSource.ENCODED, AudioCodec.OPUS)
    assert len(OpusDecoder().decode(got.data)) == 1920


async def test_what_is_encrypted_or_in_the_codec_passes_byte_for_byte(server: Server) -> None:
    alice, bob = await in_call(server, NEW, NEW)
    await receive(bob, transcode_audio="raw_pcm", transcode_video="vp8")
    sent = [voice(alice, 1, 0, encrypted=True), video(alice, 2, 0, key=True)]

    assert (await bob.next_of(FrameType.VOICE_FRAME)).payload == sent[0]
    assert (await bob.next_of(FrameType.VIDEO_FRAME)).payload == sent[1]
    assert server.context.forwarder.transcoding.running == 0
    assert server.context.counters.media_transcoded == {}


async def test_video_begins_with_a_key_frame_that_is_asked_for(server: Server) -> None:
    alice, bob = await in_call(server, NEW, NEW)
    encoder = VideoEncoder(VideoFormat(codec=VideoCodec.VP8))
    show(alice, encoder, 0)
    await bob.next_of(FrameType.VIDEO_FRAME)
    await receive(bob, transcode_video="vp9")
    await update(alice, "key_frame")
    show(alice, encoder, 1)
    encoder.request_key_frame()
    decoder = VideoDecoder(VideoCodec.VP9)
    for number in range(2, 6):
        show(alice, encoder, number)
        packet = decode_video_any((await bob.next_of(FrameType.VIDEO_FRAME)).payload)
        assert isinstance(packet, StreamPacket)
        assert (packet.codec, packet.number, packet.key_frame) == (VideoCodec.VP9, number, number == 2)
        shown = decoder.decode(packet.data)
        assert shown is not None
        assert psnr(shown, scene(number, 640, 360)) > 24


async def test_garbage_ends_nothing_and_delays_no_message(server: Server) -> None:
    alice, bob = await in_call(server, NEW, NEW)
    await receive(bob, transcode_audio="raw_pcm", transcode_video="vp9")
    for number in range(10):
        alice.send(FrameType.VOICE_FRAME, CHANNEL, encode_stream_packet(sound(1, number)) + bytes(5_000))
        video(alice, 2, number, key=True)
    alice.send(FrameType.MSG, CHANNEL, b"still here")

    assert (await bob.next_of(FrameType.MSG)).payload == b"still here"
    dropped = server.context.counters.media_dropped
    with trio.fail_after(30):
        while sum(dropped.values()) < 20:
            await trio.lowlevel.checkpoint()
    assert set(dropped) <= {"transcoder_failed", "transcoder_behind"}
    good = attrs.evolve(sound(1, 10), data=OpusEncoder().encode(bytes(1920)))
    alice.send(FrameType.VOICE_FRAME, CHANNEL, encode_stream_packet(good))
    assert len(decode_audio_any((await bob.next_of(FrameType.VOICE_FRAME)).payload).data) == 1920


@pytest.mark.parametrize("how", ["hangup", "selection"])
async def test_a_transcoder_goes_with_the_call_or_the_wish(server: Server, how: str) -> None:
    alice, bob = await in_call(server, NEW, NEW)
    await receive(bob, transcode_audio="opus")
    say_raw(alice, 0, bytes(1920))
    await bob.next_of(FrameType.VOICE_FRAME)
    assert server.context.forwarder.transcoding.running == 1

    if how == "hangup":
        await say(bob, FrameType.CALL_END, {"reason": "hangup"})
    else:
        await receive(bob)

    await none_running(server)
    if how == "selection":
        payload = say_raw(alice, 1, bytes(1920))
        assert (await bob.next_of(FrameType.VOICE_FRAME)).payload == payload


async def test_a_transcoder_goes_with_the_receivers_session(server: Server) -> None:
    alice, bob, carol = await in_call(server, NEW, NEW, NEW)
    await receive(bob, transcode_audio="opus")
    say_raw(alice, 0, bytes(1920))
    await bob.next_of(FrameType.VOICE_FRAME)
    await carol.next_of(FrameType.VOICE_FRAME)

    await say(bob, FrameType.CALL_ANSWER, {"accept": False})

    await none_running(server)
    payload = say_raw(alice, 1, bytes(1920))
    assert (await carol.next_of(FrameType.VOICE_FRAME)).payload == payload


async def test_a_server_without_transcoders_says_so(tmp_path: Path) -> None:
    async with running_server(tmp_path, forwarding={"transcoding": Transcoding(threads=0)}) as server:
        alice, bob = await in_call(server, NEW, NEW)
        answer = await receive(bob, transcode_audio="opus")
        assert answer["error"] == "no_transcoding"
        assert "calls.transcoders is 0" in answer["detail"]
        payload = say_raw(alice, 0, bytes(1920))
        assert (await bob.next_of(FrameType.VOICE_FRAME)).payload == payload


async def test_a_codec_that_is_not_made_is_refused_and_the_selection_stays(server: Server) -> None:
    alice, bob = await in_call(server, NEW, NEW)
    await receive(bob, transcode_audio="opus")

    answer = await receive(bob, transcode_video="av1_main")

    assert answer["error"] == "no_transcoding"
    assert "av1_main is not made here" in answer["detail"]
    say_raw(alice, 0, bytes(1920))
    assert decode_audio_any((await bob.next_of(FrameType.VOICE_FRAME)).payload).codec is AudioCodec.OPUS
