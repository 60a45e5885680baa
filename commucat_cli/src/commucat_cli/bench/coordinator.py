"""Starts the processes of a benchmark, gives the start, and puts together what they report."""

import secrets
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import trio

from commucat_cli.bench.child import Child, running
from commucat_cli.bench.jobs import (
    Ready,
    ReceiverJob,
    ReceiverReport,
    SenderJob,
    SenderReport,
    decode_line,
    encode_line,
)
from commucat_cli.bench.payload import RUN_LEN
from commucat_cli.bench.plan import Plan, Scenario
from commucat_cli.bench.result import Measured, Result
from commucat_cli.bench.server_process import ServerUnderLoad, clean_environment, server_for

T = TypeVar("T")
_GO = b"go\n"


async def measure(plan: Plan) -> Result:
    """Run a benchmark.

    Raises:
        CliError: it could not be run; a server that loses messages is a result, not an error.
    """
    async with server_for(plan) as server:
        measured = await _run(plan, server)
        return Result.of(plan, measured, limits=server.limits, rss_kib=server.rss_kib())


async def _run(plan: Plan, server: ServerUnderLoad) -> Measured:
    run = secrets.token_hex(RUN_LEN)
    tls_ca = None if server.tls_ca is None else str(server.tls_ca)
    async with _client("receiver", "receive", server) as receiver:
        receiver_job = ReceiverJob(
            server=server.url,
            tls_ca=tls_ca,
            run=run,
            messages=plan.messages,
            size=plan.size,
            receivers=plan.receivers,
            stall=plan.stall,
            away=plan.scenario is Scenario.OFFLINE,
        )
        await receiver.write_line(encode_line(receiver_job))
        ready = decode_line(await receiver.read_line(), Ready)
        async with _client("sender", "send", server) as sender:
            sender_job = SenderJob(
                server=server.url,
                tls_ca=tls_ca,
                run=run,
                messages=plan.messages,
                size=plan.size,
                window=plan.window,
                devices=ready.devices,
                stall=plan.stall,
            )
            await sender.write_line(encode_line(sender_job))
            decode_line(await sender.read_line(), Ready)
            if plan.scenario is Scenario.RELAY:
                return await _at_once(server, sender, receiver)
            return await _one_after_the_other(server, sender, receiver)


def _client(name: str, role: str, server: ServerUnderLoad) -> AbstractAsyncContextManager[Child]:
    return running(
        name, "commucat_cli.bench.worker", [role], folder=server.folder, environment=clean_environment()
    )


async def _at_once(server: ServerUnderLoad, sender: Child, receiver: Child) -> Measured:
    sent: list[SenderReport] = []
    received: list[ReceiverReport] = []
    cpu_before = server.cpu_seconds()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_collect, receiver, ReceiverReport, received)
        nursery.start_soon(_collect, sender, SenderReport, sent)
    return Measured(
        sender=sent[0], receiver=received[0], cpu_before=cpu_before, cpu_after=server.cpu_seconds()
    )


async def _one_after_the_other(server: ServerUnderLoad, sender: Child, receiver: Child) -> Measured:
    cpu_before = server.cpu_seconds()
    sent = await _let_go(sender, SenderReport)
    cpu_between = server.cpu_seconds()
    received = await _let_go(receiver, ReceiverReport)
    return Measured(
        sender=sent,
        receiver=received,
        cpu_before=cpu_before,
        cpu_between=cpu_between,
        cpu_after=server.cpu_seconds(),
    )


async def _collect(child: Child, kind: type[T], reports: list[T]) -> None:
    reports.append(await _let_go(child, kind))


async def _let_go(child: Child, kind: type[T]) -> T:
    await child.write_line(_GO)
    return decode_line(await child.read_line(), kind)
