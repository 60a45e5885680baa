"""``call-simulate``: whether this machine can encode and decode the voice of a call."""

import array
import math
from typing import Annotated

import typer

from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import print_values
from commucat_cli.errors import CliError
from commucat_cli.terminal import print_now
from commucat_media import MediaError
from commucat_media.opus import OpusDecoder, OpusEncoder
from commucat_media.pcm import AudioFormat, pcm_of

MAX_FRAMES = 1_000_000
_TONE = 440.0  # Hz
_AMPLITUDE = 8000


def frame_count(given: str | int) -> int:
    """What was typed as the number of frames; the default passes through here, too."""
    text = str(given)
    if not (text.isascii() and text.isdigit()):
        raise typer.BadParameter("expected <frames> as usize")
    # Not int() at once: of thousands of digits it makes no number.
    if len(text) > len(str(MAX_FRAMES)) or int(text) > MAX_FRAMES:
        raise typer.BadParameter(f"at most {MAX_FRAMES} frames")
    return int(text)


def call_simulate(
    frames: Annotated[
        int,
        typer.Argument(parser=frame_count, metavar="FRAMES", help="Frames of 20 ms to encode and decode."),
    ] = 64,
    as_json: JsonOption = False,
) -> None:
    """Encode and decode a tone with Opus, without a server, and check that every frame has its length.

    Prints simulated_frames=N encoded_bytes=M.
    """
    finish(lambda: _simulate(frames, as_json))


def _simulate(frames: int, as_json: bool) -> int:
    audio = AudioFormat()
    encoded = 0
    try:
        with OpusEncoder(audio) as encoder, OpusDecoder(audio) as decoder:
            for number in range(frames):
                data = encoder.encode(_tone(number, audio))
                encoded += len(data)
                heard = decoder.decode(data)
                if len(heard) != audio.frame_bytes:
                    raise CliError(f"frame {number} came back with {len(heard)} of {audio.frame_bytes} bytes")
    except MediaError as exc:
        raise CliError(str(exc)) from exc
    if as_json:
        print_values({"simulated_frames": frames, "encoded_bytes": encoded}, as_json=True)
        return 0
    # On one line, as scripts of the reference server's tool know it.
    print_now(f"simulated_frames={frames} encoded_bytes={encoded}")
    return 0


def _tone(number: int, audio: AudioFormat) -> bytes:
    start = number * audio.frame_samples
    step = 2 * math.pi * _TONE / audio.sample_rate
    samples = (round(_AMPLITUDE * math.sin(step * (start + index))) for index in range(audio.frame_samples))
    return pcm_of(array.array("h", samples))
