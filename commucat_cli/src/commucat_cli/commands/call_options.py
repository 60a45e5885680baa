"""Options of the two commands that talk."""

import math
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from commucat_cli.calls.speaking import HIGHEST_BITRATE, LOWEST_BITRATE
from commucat_proto.calls import AudioCodec, AudioParameters, CallMediaProfile, SourceMode

LONGEST: Final = 24 * 3600
"""Seconds of a call that its options can ask for."""
DEFAULT_BITRATE: Final = 24_000


def finite_or_none(value: float | None) -> float | None:
    # Ranges let NaN through.
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("must be a finite number")
    return value


Play: TypeAlias = Annotated[
    Path | None,
    typer.Option("--play", metavar="FILE.wav", dir_okay=False, help="Say this: a WAV file, mono or stereo."),
]
Record: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--record",
        metavar="FILE.wav",
        dir_okay=False,
        help="Write what the others say there, mixed: 48 kHz, mono. A file that is there is replaced.",
    ),
]
Duration: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--duration",
        callback=finite_or_none,
        min=0.1,
        max=LONGEST,
        metavar="SECONDS",
        help="Hang up after so many seconds of the call.",
    ),
]
Drop: TypeAlias = Annotated[
    float,
    typer.Option(
        "--drop",
        callback=finite_or_none,
        min=0,
        max=100,
        metavar="PERCENT",
        help="Leave out so many of the packets, to hear what losses do.",
    ),
]
Seed: TypeAlias = Annotated[
    int | None, typer.Option("--seed", help="Choose the same packets for --drop each time.")
]
Bitrate: TypeAlias = Annotated[
    int,
    typer.Option(
        "--bitrate",
        min=LOWEST_BITRATE,
        max=HIGHEST_BITRATE,
        metavar="BPS",
        help="Bits a second of the voice at most; less while packets get lost.",
    ),
]
AllowUnencrypted: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--allow-unencrypted", help="Also talk when a device or the server knows no end-to-end encryption."
    ),
]


def media_profile(bitrate: int) -> CallMediaProfile:
    """What this client says of its media in an offer or answer."""
    return CallMediaProfile(
        audio=AudioParameters(
            codec=AudioCodec.OPUS,
            bitrate=bitrate,
            sample_rate=48_000,
            channels=1,
            fec=True,
            dtx=True,
            source=SourceMode.ENCODED,
            preferred_codecs=(AudioCodec.OPUS,),
            allow_passthrough=True,
        )
    )
