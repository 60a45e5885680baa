"""Spans for an OpenTelemetry collector: OTLP over HTTP, by the SDK. Imported only where one is configured."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import attrs
from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from commucat_server.ops.spans import Span, Spans, Value
from commucat_server.ops.tracing import TraceContext

EXPORT_TIMEOUT: Final = 5.0
"""Seconds for one attempt to reach the collector."""


@attrs.frozen
class _Recorded:
    span: api.Span

    def name(self, name: str) -> None:
        self.span.update_name(name)

    def note(self, key: str, value: Value) -> None:
        self.span.set_attribute(key, value)

    def fail(self, reason: str) -> None:
        self.span.set_status(api.Status(api.StatusCode.ERROR, reason))


class OtlpSpans(Spans):
    """Hands spans over in portions, from a thread of the library; what does not fit is dropped."""

    def __init__(self, endpoint: str, sample_ratio: float, *, version: str, instance: str) -> None:
        resource = Resource.create(
            {
                "service.name": "commucat-server",
                "service.version": version,
                "service.instance.id": instance,
            }
        )
        # A handler of the library at the end of the process would wait for a collector that is away.
        self._provider = TracerProvider(
            resource=resource, sampler=ParentBased(TraceIdRatioBased(sample_ratio)), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("commucat_server")

    def span(self, name: str, trace: TraceContext | None) -> AbstractContextManager[Span]:
        return self._record(name, trace)

    def close(self) -> None:
        """Hand over what is left. Blocks."""
        self._provider.shutdown()

    @contextmanager
    def _record(self, name: str, trace: TraceContext | None) -> Iterator[Span]:
        parent = None
        if trace is not None:
            flags = api.TraceFlags.SAMPLED if trace.sampled else api.TraceFlags.DEFAULT
            remote = api.SpanContext(
                int(trace.trace_id, 16),
                int(trace.parent_id, 16),
                is_remote=True,
                trace_flags=api.TraceFlags(flags),
            )
            parent = api.set_span_in_context(api.NonRecordingSpan(remote))
        span = _Recorded(self._tracer.start_span(name, context=parent, kind=api.SpanKind.SERVER))
        try:
            yield span
        except BaseException as exc:
            # The kind only: the text of an error may quote what a client sent.
            span.fail(type(exc).__name__)
            raise
        finally:
            span.span.end()
