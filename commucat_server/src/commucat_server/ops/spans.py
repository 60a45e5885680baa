"""Spans: what took how long, for those who collect traces. Without a collector they cost nothing."""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Final, Protocol

import trio

from commucat_server.config import ServerConfig
from commucat_server.ops.tracing import TraceContext
from commucat_server.provision.errors import ProvisionError

CLOSE_TIMEOUT: Final = 5.0
"""Seconds to hand over the last spans when the server stops."""

Value = str | int | bool


class Span(Protocol):
    """One thing that takes time."""

    def name(self, name: str) -> None:
        """Call it otherwise than it was called at its beginning."""
        ...

    def note(self, key: str, value: Value) -> None:
        """Add an attribute: no secret, no content."""
        ...

    def fail(self, reason: str) -> None:
        """Mark it as failed."""
        ...


class _NoSpan:
    def name(self, name: str) -> None:
        """Nobody collects."""

    def note(self, key: str, value: Value) -> None:
        """Nobody collects."""

    def fail(self, reason: str) -> None:
        """Nobody collects."""


_NO_SPAN: Final = nullcontext(_NoSpan())


class Spans:
    """Makes no spans."""

    def span(self, name: str, trace: TraceContext | None) -> AbstractContextManager[Span]:
        """Time what happens in this context, as a part of ``trace`` if the peer named one."""
        return _NO_SPAN


@asynccontextmanager
async def open_spans(config: ServerConfig, *, version: str, node: str) -> AsyncIterator[Spans]:
    """Spans as the configuration wants them; the last ones are handed over at the end.

    ``node`` names this process, and no other one or earlier one.

    Raises:
        ProvisionError: they are wanted, and the library is not installed.
    """
    endpoint = config.telemetry.otlp_endpoint
    if endpoint is None:
        yield Spans()
        return
    try:
        from commucat_server.ops.otlp import OtlpSpans
    except ModuleNotFoundError as exc:
        raise ProvisionError(
            f"telemetry.otlp_endpoint needs {exc.name}, which is not installed; "
            "run: pip install 'commucat-server[telemetry]'"
        ) from exc
    spans = OtlpSpans(endpoint, config.telemetry.sample_ratio, version=version, instance=node)
    try:
        yield spans
    finally:
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await trio.to_thread.run_sync(spans.close, abandon_on_cancel=True)
