"""What goes with calls: the comparison of recordings, the codec alone, the recording itself."""

import json
import math
import resource
import signal
import wave
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.call_builders import speech_like, write_speech
from cli.operator_builders import Operator, operator_in
from commucat_cli.bench.percentiles import STEP, counted_latency_figures, latency_figures, step_of
from commucat_cli.calls.likeness import RATE, compare, to_rate
from commucat_cli.calls.wav_writer import WavWriter
from commucat_cli.client.channels import derive_call_channel, derive_channel
from commucat_cli.errors import CliError
from commucat_media.wav import read_wav


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    return operator_in(tmp_path, monkeypatch)


# -- call-compare -------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, 3, 5003])
def test_a_delay_is_found_to_the_sample(delay: int) -> None:
    played = list(speech_like(1.5, RATE))
    recorded = [0] * delay + played
    found = compare(played, recorded, max_delay=1.0)
    assert found is not None
    assert found.delay_ms == pytest.approx(delay / RATE * 1000, abs=0.01)
    assert found.correlation == pytest.approx(1.0, abs=1e-6)


def test_a_recording_that_began_later_is_found_as_well() -> None:
    played = list(speech_like(3.0, RATE))
    found = compare(played, played[2345:], max_delay=1.0)
    assert found is not None
    assert found.delay_ms == pytest.approx(-2345 / RATE * 1000, abs=0.01)


def test_a_quieter_copy_is_as_like_and_other_speech_is_not() -> None:
    played = list(speech_like(3.0, RATE))
    quiet = compare(played, [sample / 10 for sample in played], max_delay=0.5)
    assert quiet is not None
    assert quiet.correlation_min > 0.999
    other = compare(played, list(speech_like(3.0, RATE, seed=9)), max_delay=0.5)
    assert other is not None
    assert other.correlation < 0.5


def test_a_delay_that_changes_is_seen() -> None:
    played = list(speech_like(4.0, RATE))
    recorded = played[: 2 * RATE] + [0] * 800 + played[2 * RATE :]
    found = compare(played, recorded, max_delay=0.5)
    assert found is not None
    assert (found.delay_min_ms, found.delay_max_ms) == (0.0, 100.0)


@pytest.mark.parametrize(
    ("played", "recorded"),
    [
        ([], []),
        ([0] * RATE, [0] * RATE),
        (list(speech_like(1.0, RATE)), [0] * RATE),
        (list(speech_like(0.1, RATE)), list(speech_like(1.0, RATE))),
    ],
)
def test_silence_and_scraps_are_compared_with_nothing(played: list[int], recorded: list[int]) -> None:
    assert compare(played, recorded, max_delay=0.5) is None


@given(rate=st.sampled_from([8_000, 11_025, 44_100, 48_000]), seconds=st.integers(0, 3))
def test_the_common_rate_keeps_length_and_mean(rate: int, seconds: int) -> None:
    samples = to_rate([7.0] * (rate * seconds), rate)
    assert len(samples) == seconds * RATE
    assert all(math.isclose(sample, 7.0) for sample in samples)


def test_two_files_are_compared_whatever_their_form(operator: Operator, tmp_path: Path) -> None:
    one = write_speech(tmp_path / "one.wav", 2.0)
    other = write_speech(tmp_path / "other.wav", 2.0, rate=16_000, channels=2)
    code, out, err = operator.run("call-compare", str(one), str(other), "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["correlation"] > 0.9
    assert abs(found["delay_ms"]) < 1
    assert found["pieces"] >= 2


def test_files_that_cannot_be_compared(operator: Operator, tmp_path: Path) -> None:
    speech = write_speech(tmp_path / "speech.wav", 1.0)
    silent = tmp_path / "silent.wav"
    WavWriter(silent, 48_000).close()
    code, out, err = operator.run("call-compare", str(speech), str(silent))
    assert (code, out) == (1, "")
    assert err == (f"error: {speech} cannot be looked for in {silent}: one of them is silent or too short\n")
    code, _, err = operator.run("call-compare", str(speech), str(tmp_path / "missing.wav"))
    assert (code, err) == (1, f"error: {tmp_path}/missing.wav cannot be read: No such file or directory\n")


# -- call-simulate ------------------------------------------------------------------------------------


def test_the_codec_alone(operator: Operator) -> None:
    code, out, err = operator.run("call-simulate")
    assert code == 0, err
    name, encoded = out.strip().split(" encoded_bytes=")
    assert name == "simulated_frames=64"
    assert 64 < int(encoded) < 64 * 400
    assert operator.run("call-simulate", "0")[1] == "simulated_frames=0 encoded_bytes=0\n"
    code, out, _ = operator.run("call-simulate", "3", "--json")
    assert json.loads(out)["simulated_frames"] == 3


@pytest.mark.parametrize("given", ["x", "1.5", "", "٣", "0x10"])
def test_a_number_of_frames_that_is_none(operator: Operator, given: str) -> None:
    code, out, err = operator.run("call-simulate", given)
    assert (code, out) == (2, "")
    assert "expected <frames> as usize" in err


def test_too_many_frames(operator: Operator) -> None:
    code, _, err = operator.run("call-simulate", "9" * 5000)
    assert code == 2
    assert "at most 1000000 frames" in err


# -- wrong options of the two commands that talk ------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["call", "--profile", "p"],
        ["call", "--profile", "p", "--to", ""],
        ["call", "--profile", "p", "--to", "bob", "--drop", "101"],
        ["call", "--profile", "p", "--to", "bob", "--drop", "nan"],
        ["call", "--profile", "p", "--to", "bob", "--duration", "0"],
        ["call", "--profile", "p", "--to", "bob", "--duration", "inf"],
        ["call", "--profile", "p", "--to", "bob", "--bitrate", "100"],
        ["call", "--profile", "p", "--to", "bob", "--ring-timeout", "0"],
        ["call", "--profile", "p", *(word for n in range(70) for word in ("--to", f"d{n}"))],
        ["answer", "--profile", "p", "--from", "a\x07b"],
        ["answer", "--profile", "p", "--wait", "-1"],
        ["call-compare", "a.wav"],
        ["call-compare", "a.wav", "b.wav", "--max-delay", "0"],
    ],
)
def test_wrong_usage(operator: Operator, options: list[str]) -> None:
    code, out, err = operator.run(*options)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("Error: ")


# -- the recording ------------------------------------------------------------------------------------


def test_a_recording_is_whole_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "record.wav"
    writer = WavWriter(path, 48_000)
    for count in (1, 2, 3):
        writer.write(array("h", [count] * 100))
        sound = read_wav(path)
        assert (len(sound.pcm), sound.sample_rate, sound.channels) == (200 * count, 48_000, 1)
    writer.close()
    assert writer.samples == 300
    with wave.open(str(path)) as file:
        assert file.getnframes() == 300


def test_a_recording_on_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="cannot be written: No space left on device"):
        WavWriter(Path("/dev/full"), 48_000)
    with pytest.raises(CliError, match="cannot be written"):
        WavWriter(tmp_path / "missing" / "record.wav", 48_000)


def test_what_does_not_fit_any_more_is_told(tmp_path: Path) -> None:
    writer = WavWriter(tmp_path / "record.wav", 48_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(CliError, match="cannot be written: File too large"):
            writer.write(array("h", bytes(2000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    writer.close()


# -- channels and percentiles -------------------------------------------------------------------------


def test_two_meet_where_they_exchange_messages_and_more_elsewhere() -> None:
    assert derive_call_channel(["bob", "alice"]) == derive_channel("alice", "bob")
    three = derive_call_channel(["carol", "alice", "bob"])
    assert three == derive_call_channel(["alice", "bob", "carol"])
    assert three != derive_channel("alice", "bob")
    assert three != derive_call_channel(["alice", "bob", "carol"], 1)


@given(st.lists(st.floats(0, 3), max_size=300))
def test_counted_latencies_have_the_percentiles_of_all_of_them(seconds: list[float]) -> None:
    steps: dict[int, int] = {}
    for each in seconds:
        steps[step_of(each)] = steps.get(step_of(each), 0) + 1
    counted = counted_latency_figures("x", steps)
    exact = latency_figures("x", seconds, unit=1e3)
    assert counted.keys() == exact.keys()
    for name, value in exact.items():
        assert counted[name] == (None if value is None else pytest.approx(value, abs=STEP * 1e3))
