"""``commucat-cli bench``: one command for each scenario, and ``all``."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import attrs
import typer

from commucat_cli.bench import Plan
from commucat_cli.bench.report.all import measure_all
from commucat_cli.bench.scenarios import (
    Calls,
    Churn,
    Connect,
    Fanout,
    Federation,
    Idle,
    Latency,
    Offline,
    Relay,
)
from commucat_cli.bench.scenarios.federation import BACKLOG
from commucat_cli.bench.server_process import Store
from commucat_cli.bench.terminated import measure_until_terminated, until_terminated
from commucat_cli.commands.operator.bench_options import (
    AsJson,
    AtOnce,
    Backlog,
    Burst,
    CallCount,
    Connects,
    Dsn,
    Duration,
    Kill,
    Members,
    Messages,
    MessagesBeside,
    Out,
    Overload,
    PacketSize,
    PacketsPerSecond,
    Parties,
    PerSecond,
    Processes,
    Profile,
    Quick,
    Receivers,
    Rounds,
    Route,
    Runs,
    Server,
    Sessions,
    Settle,
    Singles,
    SinglesPerSecond,
    Size,
    Stall,
    StepSeconds,
    StoreProfile,
    Sustained,
    SustainedWindow,
    TalkSeconds,
    TlsCa,
    Warmup,
    WarmupSeconds,
    Window,
    Workers,
    store_of,
)
from commucat_cli.commands.outcome import FAILURE, run_command
from commucat_cli.errors import AddressError, CliError
from commucat_cli.terminal import print_now, warn
from commucat_cli.transport import ServerAddress

TERMINATED = 143  # 128 + SIGTERM, as shells count

bench_app = typer.Typer(
    help="Measure a server under load: its own fresh one, or the one at --server. "
    "Exits with 1 unless each message came exactly once.",
    no_args_is_help=True,
)


@bench_app.command("relay", help="One sender, receivers that are connected.")
def relay(
    messages: Messages = 20_000,
    size: Size = 256,
    window: Window = 500,
    receivers: Receivers = 1,
    warmup: Warmup = 2000,
    runs: Runs = 1,
    server: Server = None,
    tls_ca: TlsCa = None,
    stall: Stall = 30.0,
    profile: Profile = StoreProfile.EMBEDDED,
    workers: Workers = 1,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    with _as_usage("--messages"):
        plan = Relay(messages=messages, size=size, window=window, receivers=receivers, warmup=warmup)
    _run(_common(plan, store_of(profile, workers, dsn), runs, stall, server, tls_ca), as_json)


@bench_app.command("latency", help="A fixed rate, and how long each message takes from when it was due.")
def latency(
    rate: PerSecond = 2000.0,
    duration: Duration = 10.0,
    size: Size = 256,
    warmup: WarmupSeconds = 1.0,
    runs: Runs = 1,
    server: Server = None,
    tls_ca: TlsCa = None,
    stall: Stall = 30.0,
    profile: Profile = StoreProfile.EMBEDDED,
    workers: Workers = 1,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    with _as_usage("--duration"):
        plan = Latency(rate=rate, duration=duration, size=size, warmup=warmup)
    _run(_common(plan, store_of(profile, workers, dsn), runs, stall, server, tls_ca), as_json)


@bench_app.command("connect", help="Full connects of registered devices, and a burst of them.")
def connect(
    connects: Connects = 600,
    at_once: AtOnce = 8,
    processes: Processes = 2,
    burst: Burst = 0,
    rate: PerSecond = 500.0,
    duration: Duration = 10.0,
    runs: Runs = 1,
    server: Server = None,
    tls_ca: TlsCa = None,
    stall: Stall = 30.0,
    profile: Profile = StoreProfile.EMBEDDED,
    workers: Workers = 1,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    with _as_usage("--duration"):
        plan = Connect(
            connects=connects, at_once=at_once, processes=processes, burst=burst, rate=rate, duration=duration
        )
    _run(_common(plan, store_of(profile, workers, dsn), runs, stall, server, tls_ca), as_json)


@bench_app.command("idle", help="Memory of the server for each session that does nothing.")
def idle(
    sessions: Sessions = 2000,
    settle: Settle = 30.0,
    runs: Runs = 1,
    stall: Stall = 30.0,
    profile: Profile = StoreProfile.EMBEDDED,
    workers: Workers = 1,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    _run(
        _common(Idle(sessions=sessions, settle=settle), store_of(profile, workers, dsn), runs, stall), as_json
    )


@bench_app.command("offline", help="First everything is sent, then receivers come and fetch it.")
def offline(
    messages: Messages = 20_000,
    size: Size = 256,
    window: Window = 500,
    receivers: Receivers = 1,
    warmup: Warmup = 2000,
    kill: Kill = False,
    runs: Runs = 1,
    server: Server = None,
    tls_ca: TlsCa = None,
    stall: Stall = 30.0,
    profile: Profile = StoreProfile.EMBEDDED,
    workers: Workers = 1,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    if kill and server is not None:
        raise typer.BadParameter("is not for a server of somebody else", param_hint="--kill")
    with _as_usage("--messages"):
        plan = Offline(
            messages=messages, size=size, window=window, receivers=receivers, warmup=warmup, kill=kill
        )
    _run(_common(plan, store_of(profile, workers, dsn), runs, stall, server, tls_ca), as_json)


@bench_app.command("fanout", help="One message to many devices: single ones, then many at once.")
def fanout(
    members: Members = 1000,
    messages: Singles = 20,
    rate: SinglesPerSecond = 2.0,
    sustained: Sustained = 50,
    window: SustainedWindow = 20,
    size: Size = 256,
    route: Route = False,
    processes: Processes = 2,
    runs: Runs = 1,
    server: Server = None,
    tls_ca: TlsCa = None,
    stall: Stall = 30.0,
    profile: Profile = StoreProfile.EMBEDDED,
    workers: Workers = 1,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    with _as_usage("--messages"):
        plan = Fanout(
            members=members,
            messages=messages,
            rate=rate,
            sustained=sustained,
            window=window,
            size=size,
            route=route,
            processes=processes,
        )
    _run(_common(plan, store_of(profile, workers, dsn), runs, stall, server, tls_ca), as_json)


@bench_app.command(
    "federation", help="From one server to another of another domain, and what waits for one that was away."
)
def federation(
    messages: Messages = 20_000,
    size: Size = 256,
    window: Window = 500,
    warmup: Warmup = 2000,
    backlog: Backlog = BACKLOG,
    runs: Runs = 1,
    stall: Stall = 30.0,
    profile: Profile = StoreProfile.EMBEDDED,
    workers: Workers = 1,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    with _as_usage("--messages"):
        plan = Federation(messages=messages, size=size, window=window, warmup=warmup, backlog=backlog)
    _run(_common(plan, store_of(profile, workers, dsn), runs, stall), as_json)


@bench_app.command(
    "calls", help="Voice of calls, and messages of others meanwhile; then more calls than it can do."
)
def calls(
    calls: CallCount = 1,
    parties: Parties = 8,
    seconds: TalkSeconds = 10.0,
    rate: PacketsPerSecond = 50.0,
    size: PacketSize = 80,
    messages: MessagesBeside = 100.0,
    overload: Overload = 0,
    step_seconds: StepSeconds = 5.0,
    processes: Processes = 2,
    runs: Runs = 1,
    server: Server = None,
    tls_ca: TlsCa = None,
    stall: Stall = 30.0,
    profile: Profile = StoreProfile.EMBEDDED,
    workers: Workers = 1,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    with _as_usage("--calls"):
        plan = Calls(
            calls=calls,
            parties=parties,
            seconds=seconds,
            rate=rate,
            size=size,
            messages=messages,
            overload=overload,
            step_seconds=step_seconds,
            processes=processes,
        )
    _run(_common(plan, store_of(profile, workers, dsn), runs, stall, server, tls_ca), as_json)


@bench_app.command("churn", help="The relay after many connects and disconnects, and on a fresh server.")
def churn(
    connects: Connects = 50_000,
    at_once: AtOnce = 8,
    processes: Processes = 2,
    messages: Messages = 20_000,
    size: Size = 256,
    window: Window = 500,
    warmup: Warmup = 2000,
    rounds: Rounds = 5,
    runs: Runs = 1,
    stall: Stall = 30.0,
    profile: Profile = StoreProfile.EMBEDDED,
    workers: Workers = 1,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    with _as_usage("--messages"):
        plan = Churn(
            connects=connects,
            at_once=at_once,
            processes=processes,
            messages=messages,
            size=size,
            window=window,
            warmup=warmup,
            rounds=rounds,
        )
    _run(_common(plan, store_of(profile, workers, dsn), runs, stall), as_json)


@bench_app.command("all", help="Every scenario, and a report of it: a table, plots and the figures as JSON.")
def everything(
    runs: Runs = 3,
    quick: Quick = False,
    out: Out = Path("benchmarks/results"),
    as_json: AsJson = False,
) -> None:
    run_command(partial(_measure_all_and_print, runs, quick, out, as_json))


@contextmanager
def _as_usage(option: str) -> Iterator[None]:
    """Sizes that do not fit together are the user's error."""
    try:
        yield
    except CliError as exc:
        raise typer.BadParameter(str(exc), param_hint=option) from exc


def _common(
    plan: Plan,
    store: Store,
    runs: int,
    stall: float,
    server: str | None = None,
    tls_ca: Path | None = None,
) -> Plan:
    if plan.pause >= stall:
        raise typer.BadParameter(
            f"must be longer than the {plan.pause:g} s between two messages", param_hint="--stall"
        )
    if server is None and tls_ca is not None:
        raise typer.BadParameter("is for --server only", param_hint="--tls-ca")
    if server is not None:
        if store != Store():
            raise typer.BadParameter("is not for a server of somebody else", param_hint="--profile")
        try:
            ServerAddress.parse(server)
        except AddressError as exc:
            raise typer.BadParameter(str(exc), param_hint="--server") from exc
    # Client processes work in a folder of their own.
    found = None if tls_ca is None else tls_ca.absolute()
    return attrs.evolve(plan, runs=runs, stall=stall, server=server, tls_ca=found, store=store)


def _run(plan: Plan, as_json: bool) -> NoReturn:
    run_command(partial(_measure_and_print, plan, as_json))


async def _measure_and_print(plan: Plan, as_json: bool) -> int:
    result = await measure_until_terminated(plan)
    if result is None:
        return TERMINATED
    for text in (*result.problems, *result.figures["warnings"]):
        warn(text)
    print_now(json.dumps(result.figures, indent=2) if as_json else result.table())
    return 0 if result.whole else FAILURE


async def _measure_all_and_print(runs: int, quick: bool, out: Path, as_json: bool) -> int:
    report = await until_terminated(partial(measure_all, runs=runs, quick=quick, out=out, tell=warn))
    if report is None:
        return TERMINATED
    if as_json:
        print_now(json.dumps({name: result.figures for name, result in report.results.items()}, indent=2))
    else:
        print_now(report.table)
        print_now(f"written to {report.folder}")
    return 0 if report.whole else FAILURE
