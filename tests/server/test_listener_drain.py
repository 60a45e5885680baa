"""Connections that are between two steps when the server stops: they end as all others do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from commucat_server.listener import (
    ListenerSettings,
    Step,
    Turnstile,
)
from server.listener_builders import Server, client_tls, running

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


@asynccontextmanager
async def stopping(folder: Path, **more: Any) -> AsyncIterator[Server]:
    """A server that has all the time there is, so that what does not end at once does not end at all."""
    async with running(folder, settings=SETTINGS, **more) as server:
        with trio.fail_after(60):
            yield server


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_one_that_waits_for_its_turn_behind_tls_ends(tmp_path: Path, protocol: str) -> None:
    gate = Gate(Step.HTTP)
    async with stopping(tmp_path, turnstile=gate) as server:
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

    async with stopping(tmp_path, is_proxy=is_proxy) as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        await seen.wait()
        await trio.testing.wait_all_tasks_blocked()
        server.shutdown.request()

        await server.done.wait()
        await tcp.aclose()


async def test_one_that_was_accepted_in_the_same_moment_ends(tmp_path: Path) -> None:
    gate = Gate(Step.ACCEPT)
    async with stopping(tmp_path, turnstile=gate) as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        await gate.reached.wait()
        gate.opened.set()
        server.shutdown.request()

        await server.done.wait()
        await tcp.aclose()
