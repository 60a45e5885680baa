"""``answer``: wait for a call, take it, say what is in a file, and record what the others say."""

from functools import partial
from typing import Annotated

import typer

from commucat_cli.calls.conversation import SoundPlan
from commucat_cli.calls.talk import LinePlan
from commucat_cli.commands.call_options import (
    DEFAULT_BITRATE,
    LONGEST,
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


def answer(
    profile: ProfileOption,
    caller: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DEVICE",
            callback=device_id,
            help="Take calls of this device only, and decline others. By default of everybody.",
        ),
    ] = None,
    decline: Annotated[bool, typer.Option("--decline", help="Decline the call instead.")] = False,
    play: Play = None,
    record: Record = None,
    duration: Duration = None,
    wait: Annotated[
        float | None,
        typer.Option(
            callback=finite_or_none,
            min=0.1,
            max=LONGEST,
            metavar="SECONDS",
            help="How long to wait for a call; fails when none comes.",
        ),
    ] = None,
    drop: Drop = 0.0,
    seed: Seed = None,
    bitrate: Bitrate = DEFAULT_BITRATE,
    allow_unencrypted: AllowUnencrypted = False,
    as_json: JsonOption = False,
    via: ViaOption = None,
) -> None:
    """Take the next call, and talk until the others hang up, --duration is over, or Ctrl-C.

    Anybody who may write to this device can call it: without --from the first one is answered. Messages
    that come meanwhile stay in the inbox; a `listen` of the same profile cannot run beside it. At the end
    prints how long the call was and how its packets arrived.
    """
    sound = SoundPlan(
        play=play,
        record=record,
        bitrate=bitrate,
        drop=drop,
        seed=seed,
        duration=duration,
        ends_with_sound=False,
    )
    line = LinePlan(
        media=media_profile(bitrate), caller=caller, accept=not decline, allow_clear=allow_unencrypted
    )
    run_command(
        partial(
            lead_call,
            CallWish(profile=profile, line=line, sound=sound, wait=wait, as_json=as_json, via=via),
        )
    )
