"""``commucat-cli bench``."""

import json
import signal
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import trio
import typer

from commucat_cli.bench import Plan, Scenario, measure
from commucat_cli.bench.payload import HEADER_LEN
from commucat_cli.bench.plan import MAX_RECEIVERS, MAX_SIZE
from commucat_cli.commands.outcome import FAILURE, run_command
from commucat_cli.errors import AddressError
from commucat_cli.terminal import print_now, warn
from commucat_cli.transport import ServerAddress

TERMINATED = 143  # 128 + SIGTERM, as shells count

bench_app = typer.Typer(
    help="Measure a server under load: its own fresh one, or the one at --server.", no_args_is_help=True
)

Messages: TypeAlias = Annotated[int, typer.Option(min=1, max=10_000_000, help="How many are sent.")]
Size: TypeAlias = Annotated[
    int, typer.Option(min=HEADER_LEN, max=MAX_SIZE, help="Bytes of the payload of each Msg frame.")
]
Window: TypeAlias = Annotated[
    int, typer.Option(min=1, max=1_000_000, help="Messages on the way that are not acknowledged.")
]
Receivers: TypeAlias = Annotated[
    int, typer.Option(min=1, max=MAX_RECEIVERS, help="Devices that get each message.")
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
    float, typer.Option(min=0.1, metavar="SECONDS", help="Without progress for so long, the rest is lost.")
]


def _add(scenario: Scenario, description: str) -> None:
    """Add the command of a scenario; all take the same options."""

    @bench_app.command(scenario.value, help=description)
    def command(
        messages: Messages = 20_000,
        size: Size = 256,
        window: Window = 500,
        receivers: Receivers = 1,
        server: Server = None,
        tls_ca: TlsCa = None,
        stall: Stall = 30.0,
        as_json: AsJson = False,
    ) -> None:
        if server is None and tls_ca is not None:
            raise typer.BadParameter("is for --server only", param_hint="--tls-ca")
        if server is not None:
            try:
                ServerAddress.parse(server)
            except AddressError as exc:
                raise typer.BadParameter(str(exc), param_hint="--server") from exc
        plan = Plan(
            scenario=scenario,
            messages=messages,
            size=size,
            window=window,
            receivers=receivers,
            server=server,
            tls_ca=tls_ca,
            stall=stall,
        )
        run_command(partial(_measure_and_print, plan, as_json))


_add(
    Scenario.RELAY,
    "One sender, receivers that are connected. Exits with 1 unless each message came exactly once.",
)
_add(
    Scenario.OFFLINE,
    "First everything is sent, then receivers come and fetch it. Exits with 1 unless all is there.",
)


async def _measure_and_print(plan: Plan, as_json: bool) -> int:
    result = None
    async with trio.open_nursery() as nursery:
        await nursery.start(_give_up_at_sigterm, nursery.cancel_scope)
        result = await measure(plan)
        nursery.cancel_scope.cancel()
    if result is None:
        return TERMINATED
    for problem in result.problems:
        warn(problem)
    print_now(json.dumps(result.figures, indent=2) if as_json else result.table())
    return 0 if result.whole else FAILURE


async def _give_up_at_sigterm(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Unlike the signal's default, a cancellation ends the server and the clients, too."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return
