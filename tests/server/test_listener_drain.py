"""Connections that are between two steps when the server stops: they end as all others do."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from commucat_server.listener import (
    ListenerSettings,
    ShutdownSignal,
    Step,
    Turnstile,
    open_tcp,
    serve_listeners,
    tls_context,
)
from server.listener_builders import client_tls, echo, hello_app, write_certificate

SETTINGS = ListenerSettings(handshake_timeout=3600.0, idle_timeout=3600.0, drain_timeout=3600.0)


class Gate(Turnstile):
    """Holds one step up, as many newcomers at once do."""

    def __init__(self, held: Step) -> None:
        super().__init__()
        self._held = held
        self.reached, self.opened = trio.Event(), trio.Event()

    async def turn(self, step: Step, deadline: trio.CancelScope | None = None) -> None:
        if step is self._held:
            self.reached.set()
            await self.opened.wait()


@attrs.define
class Server:
    port: int
    shutdown: ShutdownSignal
    done: trio.Event


@asynccontextmanager
async def running(
    folder: Path, *, turnstile: Turnstile | None = None, is_proxy: Callable[[str], bool] | None = None
) -> AsyncIterator[Server]:
    shutdown, done = ShutdownSignal(), trio.Event()
    listeners = await open_tcp("127.0.0.1", 0)

    async def run(task_status: trio.TaskStatus[Any]) -> None:
        await serve_listeners(
            listeners,
            tls_context(*write_certificate(folder)),
            SETTINGS,
            connect_handler=echo,
            asgi_app=hello_app,
            shutdown=shutdown,
            turnstile=turnstile,
            is_proxy=is_proxy,
            task_status=task_status,
        )
        done.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        with trio.fail_after(5):
            yield Server(listeners[0].socket.getsockname()[1], shutdown, done)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_one_that_waits_for_its_turn_behind_tls_ends(tmp_path: Path, protocol: str) -> None:
    gate = Gate(Step.HTTP)
    async with running(tmp_path, turnstile=gate) as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        tls = trio.SSLStream(tcp, client_tls(protocol), server_hostname="127.0.0.1")
        await tls.do_handshake()
        await gate.reached.wait()
        server.shutdown.request()
        await trio.testing.wait_all_tasks_blocked()
        gate.opened.set()

        await server.done.wait()
        await trio.aclose_forcefully(tls)


async def test_one_whose_proxy_says_nothing_ends(tmp_path: Path) -> None:
    seen = trio.Event()

    def is_proxy(host: str) -> bool:
        seen.set()
        return True

    async with running(tmp_path, is_proxy=is_proxy) as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        await seen.wait()
        await trio.testing.wait_all_tasks_blocked()
        server.shutdown.request()

        await server.done.wait()
        await tcp.aclose()


async def test_one_that_was_accepted_in_the_same_moment_ends(tmp_path: Path) -> None:
    gate = Gate(Step.ACCEPT)
    async with running(tmp_path, turnstile=gate) as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        await gate.reached.wait()
        gate.opened.set()
        server.shutdown.request()

        await server.done.wait()
        await tcp.aclose()
