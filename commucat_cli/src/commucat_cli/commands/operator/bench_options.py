"""Options of the benchmark's commands."""

import enum
import math
import os
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from commucat_cli.bench.payload import HEADER_LEN
from commucat_cli.bench.scenarios.calls import MAX_CALLS, MAX_PARTIES, MAX_SECONDS
from commucat_cli.bench.scenarios.connect import MAX_AT_ONCE
from commucat_cli.bench.scenarios.fanout import MAX_MEMBERS
from commucat_cli.bench.scenarios.idle import MAX_SESSIONS
from commucat_cli.bench.scenarios.outcome import MAX_SIZE
from commucat_cli.bench.scenarios.relay import MAX_RECEIVERS
from commucat_cli.bench.server_process import Store

MAX_COUNT = 10_000_000
MAX_PROCESSES = 64
_DSN = "COMMUCAT_BENCH_PG_DSN"


def finite(value: float) -> float:
    # Ranges let NaN through, and those without an end infinity.
    if not math.isfinite(value):
        raise typer.BadParameter("must be a finite number")
    return value


Messages: TypeAlias = Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="How many are sent.")]
Size: TypeAlias = Annotated[
    int, typer.Option(min=HEADER_LEN, max=MAX_SIZE, help="Bytes of the payload of each Msg frame.")
]
Window: TypeAlias = Annotated[
    int, typer.Option(min=1, max=1_000_000, help="Messages on the way that are not acknowledged.")
]
Receivers: TypeAlias = Annotated[
    int, typer.Option(min=1, max=MAX_RECEIVERS, help="Devices that get each message.")
]
Warmup: TypeAlias = Annotated[
    int, typer.Option(min=0, max=MAX_COUNT, help="Messages before, which are not timed.")
]
Rounds: TypeAlias = Annotated[int, typer.Option(min=1, max=100, help="Relays on either server, in turn.")]
WarmupSeconds: TypeAlias = Annotated[
    float,
    typer.Option(
        callback=finite, min=0, max=3600, metavar="SECONDS", help="At the same rate before, not timed."
    ),
]
PerSecond: TypeAlias = Annotated[
    float,
    typer.Option(callback=finite, min=0.01, max=100_000, help="Messages a second, whatever the server does."),
]
Duration: TypeAlias = Annotated[
    float,
    typer.Option(callback=finite, min=0.1, max=3600, metavar="SECONDS", help="How long messages are sent."),
]
Connects: TypeAlias = Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="How many, together.")]
AtOnce: TypeAlias = Annotated[
    int, typer.Option(min=1, max=MAX_AT_ONCE, help="Connects on their way at any time.")
]
Burst: TypeAlias = Annotated[
    int,
    typer.Option(
        min=0,
        max=MAX_AT_ONCE,
        help="Then so many at the same moment, while two sessions exchange --rate messages a second for "
        "--duration seconds.",
    ),
]
Processes: TypeAlias = Annotated[
    int, typer.Option(min=1, max=MAX_PROCESSES, help="Client processes that share the work.")
]
Members: TypeAlias = Annotated[
    int, typer.Option(min=1, max=MAX_MEMBERS, help="Devices that get each message.")
]
Route: TypeAlias = Annotated[
    bool, typer.Option("--route", help="By a route that names all members, instead of a group.")
]
Sessions: TypeAlias = Annotated[int, typer.Option(min=1, max=MAX_SESSIONS, help="Sessions that do nothing.")]
Settle: TypeAlias = Annotated[
    float,
    typer.Option(
        callback=finite, min=0, max=3600, metavar="SECONDS", help="From the last connect to the reading."
    ),
]
Kill: TypeAlias = Annotated[
    bool, typer.Option("--kill", help="SIGKILL for the server when everything is acknowledged.")
]
Backlog: TypeAlias = Annotated[
    int,
    typer.Option(
        min=0, max=MAX_COUNT, help="Messages that are sent while the receiving server is killed (SIGKILL)."
    ),
]
Runs: TypeAlias = Annotated[
    int, typer.Option(min=1, max=1000, help="Repetitions with a fresh server each; medians are reported.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Server: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="A running server that lets new users in. They stay there.", show_default=False
    ),
]
TlsCa: TypeAlias = Annotated[
    Path | None, typer.Option("--tls-ca", metavar="FILE", help="PEM file for --server.", show_default=False)
]
Stall: TypeAlias = Annotated[
    float,
    typer.Option(
        callback=finite,
        min=0.1,
        max=86_400,
        metavar="SECONDS",
        help="Without progress for so long, the rest is lost.",
    ),
]
Singles: TypeAlias = Annotated[int, typer.Option(min=1, max=10_000, help="Single messages.")]
SinglesPerSecond: TypeAlias = Annotated[
    float, typer.Option(callback=finite, min=0.01, max=1000, help="Single messages a second.")
]
Sustained: TypeAlias = Annotated[int, typer.Option(min=1, max=100_000, help="Messages at once.")]
SustainedWindow: TypeAlias = Annotated[
    int, typer.Option(min=1, max=100_000, help="Of these, not acknowledged at any time.")
]
CallCount: TypeAlias = Annotated[int, typer.Option("--calls", min=1, max=MAX_CALLS, help="Calls at once.")]
Parties: TypeAlias = Annotated[
    int, typer.Option(min=2, max=MAX_PARTIES, help="Devices in each call; all speak all the time.")
]
TalkSeconds: TypeAlias = Annotated[
    float, typer.Option(callback=finite, min=0.1, max=MAX_SECONDS, help="How long the calls last.")
]
PacketsPerSecond: TypeAlias = Annotated[
    float, typer.Option(callback=finite, min=1, max=1000, help="Voice packets a second of each device.")
]
PacketSize: TypeAlias = Annotated[
    int, typer.Option(min=40, max=1400, help="Bytes of each voice packet with its header.")
]
MessagesBeside: TypeAlias = Annotated[
    float,
    typer.Option(
        callback=finite, min=0.1, max=10_000, help="Messages a second of two other devices, meanwhile."
    ),
]
Overload: TypeAlias = Annotated[
    int,
    typer.Option(
        min=0, max=MAX_CALLS, help="Then more and more calls, at most so many, until packets get lost."
    ),
]
StepSeconds: TypeAlias = Annotated[
    float,
    typer.Option(callback=finite, min=0.1, max=600, help="Seconds of each of these steps."),
]
Quick: TypeAlias = Annotated[bool, typer.Option("--quick", help="Small sizes, to try it out in a minute.")]
Out: TypeAlias = Annotated[Path, typer.Option(metavar="DIR", help="Where a folder for this report is made.")]


class StoreProfile(enum.Enum):
    """What an own server keeps its data in."""

    EMBEDDED = "embedded"
    POSTGRES = "postgres"


Profile: TypeAlias = Annotated[StoreProfile, typer.Option("--profile", help="The store of an own server.")]
Workers: TypeAlias = Annotated[
    int, typer.Option(min=1, max=MAX_PROCESSES, help="Processes of an own server; several need PostgreSQL.")
]
Dsn: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--dsn",
        metavar="URL",
        envvar=_DSN,
        help="For --profile postgres: a server whose role may create databases; each run has a fresh one.",
        show_default=False,
        show_envvar=True,
    ),
]


def store_of(profile: StoreProfile, workers: int, dsn: str | None) -> Store:
    """What the three options say together; refuses what does not fit."""
    if profile is StoreProfile.EMBEDDED:
        if workers > 1:
            raise typer.BadParameter("several need --profile postgres", param_hint="--workers")
        if dsn is not None and dsn != os.environ.get(_DSN):
            raise typer.BadParameter("is for --profile postgres only", param_hint="--dsn")
        return Store()
    if dsn is None:
        raise typer.BadParameter("is needed with --profile postgres", param_hint="--dsn")
    return Store(dsn=dsn, workers=workers)
