"""``call-compare``: how much of what was played came back in a recording, and how late."""

from pathlib import Path
from typing import Annotated

import typer

from commucat_cli.calls.conversation import read_sound
from commucat_cli.calls.likeness import RATE, Likeness, compare, to_rate
from commucat_cli.commands.call_options import finite_or_none
from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import print_values
from commucat_cli.errors import CliError
from commucat_media.pcm import samples_of, with_channels


def call_compare(
    played: Annotated[Path, typer.Argument(metavar="PLAYED", help="WAV file that was played into a call.")],
    recorded: Annotated[Path, typer.Argument(metavar="RECORDED", help="WAV file that the other side made.")],
    max_delay: Annotated[
        float,
        typer.Option(
            callback=finite_or_none,
            min=0.1,
            max=10.0,
            metavar="SECONDS",
            help="Delays to look at, in either direction.",
        ),
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Find what was played in a recording: delay in ms, and correlation (1 for the same wave, 0 for another).

    The delay has everything in it: when either side began, the way, and the buffer that evens it out.
    """
    finish(lambda: _compare(played, recorded, max_delay, as_json))


def _compare(played: Path, recorded: Path, max_delay: float, as_json: bool) -> int:
    found = compare(_samples(played), _samples(recorded), max_delay=max_delay)
    if found is None:
        raise CliError(f"{played} cannot be looked for in {recorded}: one of them is silent or too short")
    print_values(values_of(found), as_json=as_json)
    return 0


def values_of(found: Likeness) -> dict[str, float | int]:
    """As they are printed."""
    return {
        "delay_ms": round(found.delay_ms, 1),
        "delay_min_ms": round(found.delay_min_ms, 1),
        "delay_max_ms": round(found.delay_max_ms, 1),
        "correlation": round(found.correlation, 4),
        "correlation_min": round(found.correlation_min, 4),
        "pieces": found.pieces,
    }


def _samples(path: Path) -> list[float]:
    sound = read_sound(path)
    mono = with_channels(sound.pcm, have=sound.channels, want=1)
    return to_rate(samples_of(mono), sound.sample_rate, RATE)
