"""``call``: ask devices into a call, say what is in a file, and record what they say."""

from functools import partial
from typing import Annotated

import typer

from commucat_cli.calls.conversation import SoundPlan
from commucat_cli.calls.talk import LinePlan
from commucat_cli.commands.call_options import (
    DEFAULT_BITRATE,
    AllowUnencrypted,
    Bitrate,
    Drop,
    Duration,
    Play,
    Record,
    Seed,
    finite_or_none,
    media_profile,
)
from commucat_cli.commands.calling import CallWish, lead_call
from commucat_cli.commands.options import JsonOption, ProfileOption, ViaOption, device_id
from commucat_cli.commands.outcome import run_command

MAX_CALLED = 63


def call(
    profile: ProfileOption,
    to: Annotated[
        list[str],
        typer.Option(
            "--to", metavar="DEVICE", help="Device id to call; several for a call with all of them."
        ),
    ],
    play: Play = None,
    record: Record = None,
    duration: Duration = None,
    ring_timeout: Annotated[
        float,
        typer.Option(
            callback=finite_or_none, min=1, max=600, metavar="SECONDS", help="How long it rings at most."
        ),
    ] = 30.0,
    drop: Drop = 0.0,
    seed: Seed = None,
    bitrate: Bitrate = DEFAULT_BITRATE,
    allow_unencrypted: AllowUnencrypted = False,
    as_json: JsonOption = False,
    via: ViaOption = None,
) -> None:
    """Call devices that run `answer`, and talk: end-to-end encrypted voice, from a file and into one.

    Hangs up after --duration, or else when everything of --play was said; without both when the others hang
    up, or at Ctrl-C. Messages that come meanwhile stay in the inbox; a `listen` of the same profile cannot
    run beside it. At the end prints how long the call was and how its packets arrived. Fails when nobody
    answers.
    """
    devices = tuple(dict.fromkeys(name for each in to if (name := device_id(each)) is not None))
    if len(devices) > MAX_CALLED:
        raise typer.BadParameter(f"at most {MAX_CALLED} devices can be called", param_hint="--to")
    sound = SoundPlan(play=play, record=record, bitrate=bitrate, drop=drop, seed=seed, duration=duration)
    line = LinePlan(
        to=devices,
        media=media_profile(bitrate),
        allow_clear=allow_unencrypted,
        ring_timeout=ring_timeout,
    )
    run_command(
        partial(lead_call, CallWish(profile=profile, line=line, sound=sound, as_json=as_json, via=via))
    )
