import pytest

from commucat_media import AudioCodec, AudioPacket, MediaSource, StreamPacket, VideoCodec
from commucat_media.errors import MediaFormatError
from commucat_media.jitter_buffer import Arrival, Playout, PlayoutKind
from commucat_media.opus import OpusEncoder
from commucat_media.packet import decode_audio_any, encode_stream_packet, to_version_1
from commucat_media.pcm import AudioFormat
from commucat_media.voice import VoiceDecoder, VoiceReceiver, VoiceSender
from media.networks import FRAME, Network, listen
from media.sounds import MONO_48K, best_match, loudest, tone, warble

STREAM = 0xC0FFEE


def talk(
    pcm: bytes, network: Network, *, encoder: OpusEncoder | None = None, version: int = 2
) -> tuple[bytes, VoiceReceiver, VoiceDecoder]:
    """Send sound over a network, encoded as payloads of frames, and return what is heard."""
    sender = VoiceSender(stream=STREAM, encoder=encoder)
    packets = sender.feed(pcm)
    payloads = [encode_stream_packet(packet) for packet in packets]
    if version == 1:
        payloads = [to_version_1(payload) for payload in payloads]
    receiver, decoder = VoiceReceiver(), VoiceDecoder()
    heard = b""
    for _, playout in listen(
        network.arrivals(packet.timestamp / 48_000 for packet in packets),
        lambda index, now: receiver.receive(decode_audio_any(payloads[index]), now),
        receiver.take,
        frames=len(pcm) // MONO_48K.frame_bytes + 20,
    ):
        assert isinstance(playout, Playout)
        heard += decoder.decode(playout)
    return heard, receiver, decoder


@pytest.mark.parametrize("version", [1, 2])
def test_what_is_said_is_heard(version: int) -> None:
    spoken = warble(2)
    heard, receiver, decoder = talk(spoken, Network(), encoder=OpusEncoder(bitrate=32_000), version=version)
    # From 0.2 s on the delay is settled but for one frame; 1.5 s are compared.
    match, delay = best_match(heard[-150_000:], spoken[-110_000:], longest_delay=20_000)
    assert match > 0.85
    assert receiver.report().lost == decoder.damaged == 0
    assert delay < 20_000


@pytest.mark.parametrize(("loss", "least"), [(0.0, 0.9), (0.05, 0.85), (0.2, 0.7)])
@pytest.mark.parametrize("seed", [1, 2])
def test_loss_is_hardly_heard(loss: float, least: float, seed: int) -> None:
    spoken = warble(3)
    encoder = OpusEncoder(bitrate=32_000, expected_loss=max(round(100 * loss), 1))
    heard, receiver, _ = talk(spoken, Network(loss=loss, jitter=0.02, seed=seed), encoder=encoder)
    # The second half, when the delay follows the network.
    half = len(spoken) // 2
    match, delay = best_match(heard[half:], spoken[half:-9_600], longest_delay=15_000)
    assert match > least
    assert 0.05 < delay / 48_000 < 0.25
    assert receiver.report().loss == pytest.approx(loss, abs=0.1)


def test_raw_sound_is_heard_bit_by_bit() -> None:
    spoken = tone(440, 1)
    heard, _, decoder = talk(spoken, Network())
    assert spoken[:1920] in heard
    # One frame is left out, when the delay assumed first proves too long.
    assert len(set(frames(spoken)) - set(frames_aligned(heard, spoken))) <= 1
    assert decoder.damaged == 0


def frames(pcm: bytes) -> list[bytes]:
    return [pcm[at : at + 1920] for at in range(0, len(pcm), 1920)]


def frames_aligned(heard: bytes, spoken: bytes) -> list[bytes]:
    return frames(heard[heard.index(spoken[:1920]) :])


def test_pauses_need_no_packets_and_are_heard_as_long_as_they_were() -> None:
    spoken = warble(1) + bytes(96_000) + warble(1)
    sender = VoiceSender(stream=STREAM, encoder=OpusEncoder(dtx=True))
    packets = sender.feed(spoken)
    assert len(packets) < 125
    assert [packet.number for packet in packets] == list(range(len(packets)))
    heard, receiver, _ = talk(spoken, Network(), encoder=OpusEncoder(dtx=True, bitrate=32_000))
    assert receiver.report().lost == 0
    assert "RECOVER" not in str(receiver.counts)
    match, _ = best_match(heard[-134_400:], spoken[-86_400:], longest_delay=24_000)
    assert match > 0.8


def test_sound_comes_in_any_pieces() -> None:
    spoken = warble(0.5)
    whole = VoiceSender(stream=1, encoder=OpusEncoder()).feed(spoken)
    sender = VoiceSender(stream=1, encoder=OpusEncoder())
    pieces = [packet for at in range(0, len(spoken), 701) for packet in sender.feed(spoken[at : at + 701])]
    assert pieces == whole


def test_what_is_left_over_is_filled_up_with_silence() -> None:
    sender = VoiceSender(stream=1, encoder=None)
    assert sender.feed(b"\x01\x02") == []
    [packet] = sender.flush()
    assert packet.data == b"\x01\x02" + bytes(1918)
    assert sender.flush() == []
    assert (packet.source, packet.codec) == (MediaSource.RAW, AudioCodec.RAW_PCM)


def test_packets_tell_time_and_loudness() -> None:
    sender = VoiceSender(stream=STREAM, encoder=OpusEncoder(dtx=False))
    loud, quiet = sender.feed(tone(440, 0.02, loudness=0.9) + bytes(1920))
    assert (loud.number, loud.timestamp, loud.stream) == (0, 0, STREAM)
    assert (quiet.number, quiet.timestamp, quiet.level) == (1, 960, 127)
    assert loud.level < 6


def test_timestamps_count_in_48_khz_at_every_rate() -> None:
    audio_format = AudioFormat(sample_rate=8_000, channels=2)
    sender = VoiceSender(stream=1, encoder=OpusEncoder(audio_format, dtx=False))
    packets = sender.feed(bytes(3 * audio_format.frame_bytes))
    assert [packet.timestamp for packet in packets] == [0, 960, 1920]


def test_the_encoder_and_the_sender_agree_on_the_format() -> None:
    with pytest.raises(MediaFormatError, match="the encoder takes"):
        VoiceSender(stream=1, encoder=OpusEncoder(), audio_format=AudioFormat(sample_rate=8_000))


def test_codecs_may_change_from_frame_to_frame() -> None:
    encoded = VoiceSender(stream=1, encoder=OpusEncoder()).feed(tone(300, 0.2))
    raw = tone(300, 0.02)
    decoder = VoiceDecoder()
    for packet in encoded:
        assert len(decoder.decode(Playout(kind=PlayoutKind.FRAME, data=packet.data))) == 1920
    assert loudest(decoder.decode(Playout(kind=PlayoutKind.CONCEAL))) > 1_000
    assert decoder.decode(Playout(kind=PlayoutKind.FRAME, codec=AudioCodec.RAW_PCM, data=raw)) == raw
    # After raw sound a loss is silence.
    assert decoder.decode(Playout(kind=PlayoutKind.CONCEAL)) == MONO_48K.silence
    recovered = Playout(kind=PlayoutKind.RECOVER, codec=AudioCodec.RAW_PCM, data=raw)
    assert decoder.decode(recovered) == MONO_48K.silence


@pytest.mark.parametrize("codec", AudioCodec)
@pytest.mark.parametrize("data", [b"\xff", b"\x03", bytes(1919), bytes(5_000)])
def test_damaged_packets_are_concealed_and_counted(codec: AudioCodec, data: bytes) -> None:
    decoder = VoiceDecoder()
    for kind in (PlayoutKind.FRAME, PlayoutKind.RECOVER):
        assert len(decoder.decode(Playout(kind=kind, codec=codec, data=data))) == 1920
    assert decoder.damaged == (2 if codec is AudioCodec.OPUS else 1)
    decoder.close()


def test_only_sound_that_can_be_read_is_received() -> None:
    receiver = VoiceReceiver()
    packet = StreamPacket(
        source=MediaSource.ENCODED, codec=VideoCodec.VP8, data=b"", stream=1, number=0, timestamp=0
    )
    with pytest.raises(MediaFormatError, match="VP8 is no sound"):
        receiver.receive(packet, 0.0)
    packet = StreamPacket(
        source=MediaSource.ENCODED,
        codec=AudioCodec.OPUS,
        data=b"sealed",
        stream=1,
        number=0,
        timestamp=0,
        encrypted=True,
    )
    with pytest.raises(MediaFormatError, match="encrypted"):
        receiver.receive(packet, 0.0)


def test_an_empty_packet_of_version_1_is_a_loss() -> None:
    receiver, decoder = VoiceReceiver(), VoiceDecoder()
    empty = AudioPacket(source=MediaSource.ENCODED, codec=AudioCodec.OPUS, data=b"")
    assert receiver.receive(empty, 0.0) is Arrival.KEPT
    playout = receiver.take(0.1)
    assert playout.kind is PlayoutKind.FRAME
    assert len(decoder.decode(playout)) == MONO_48K.frame_bytes
    assert receiver.target_delay >= FRAME
