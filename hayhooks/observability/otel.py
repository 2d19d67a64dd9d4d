"""OpenTelemetry spans: one for each request, the parent of Haystack's spans.

``hayhooks.observability.tracing`` imports this when traces are asked for. It needs the extra ``tracing``.
"""

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

from hayhooks._version import __version__
from hayhooks.observability.log import log
from hayhooks.observability.request_record import RequestRecord

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})  # polled by machines
_FLUSH_S = 5.0  # for the last spans at shutdown: the collector may be away


class Tracing:
    """Creates request spans; exports them and Haystack's.

    OpenTelemetry's ASGI middleware would record the query, which may hold secrets, but no pipeline and no revision.
    """

    def __init__(self) -> None:
        given = trace.get_tracer_provider()
        self._ours = not isinstance(given, TracerProvider)  # otherwise the embedding application has set it up
        self._provider = given if isinstance(given, TracerProvider) else provider()
        if self._ours:
            trace.set_tracer_provider(self._provider)
        self._tracer = self._provider.get_tracer("hayhooks", __version__)

    def begin(self, record: RequestRecord, scope: Mapping[str, Any]) -> None:
        """Start a request's span: a child of the current one, or of that in the headers."""
        if record.path in _UNTRACED:
            return
        parent = None  # the current span
        if not trace.get_current_span().is_recording():
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            parent = propagate.extract(headers)
        span = self._tracer.start_span(
            record.method,
            context=parent,
            kind=trace.SpanKind.SERVER,
            attributes={
                "http.request.method": record.method,
                "url.path": record.path,
                "url.scheme": scope.get("scheme", "http"),
                "client.address": record.client,
                "hayhooks.request_id": record.id,
            },
        )
        record.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        record.span = span, attach(trace.set_span_in_context(span))

    def end(self, record: RequestRecord) -> None:
        """End the span, after the last byte."""
        if record.span is None:
            return
        (span, token), record.span = record.span, None
        span.set_attribute("http.response.status_code", record.status)
        if record.endpoint:
            span.update_name(f"{record.method} {record.endpoint.replace('{name}', record.pipeline)}")
            span.set_attribute("http.route", record.endpoint)
        for name in ("pipeline", "revision", "chunks", "cancelled"):
            if value := getattr(record, name):
                span.set_attribute(f"hayhooks.{name}", value)
        if record.error or record.status >= 500:
            kind, _, message = record.error.partition(": ")
            span.set_status(trace.StatusCode.ERROR, record.error or None)
            span.set_attribute("error.type", kind or str(record.status))
            if kind:
                span.add_event("exception", {"exception.type": kind, "exception.message": message})
        span.end()
        detach(token)

    def connect(self) -> None:
        """Enable Haystack's spans; this imports Haystack."""
        # It takes a second.
        from haystack.tracing.tracer import enable_tracing, is_tracing_enabled  # noqa: PLC0415
        from haystack_integrations.tracing.opentelemetry import OpenTelemetryTracer  # noqa: PLC0415

        if not is_tracing_enabled():  # an embedding application may have chosen another
            enable_tracing(OpenTelemetryTracer(self._provider.get_tracer("haystack")))

    def close(self) -> None:
        """Export the remaining spans, within a time limit."""
        if self._ours:
            # In a daemon thread: an exporter retries for long when its collector is away.
            thread = threading.Thread(target=self._provider.shutdown, name="hayhooks traces", daemon=True)
            with suppress(RuntimeError):  # the system starts no more threads
                thread.start()
                thread.join(_FLUSH_S)


def provider() -> TracerProvider:
    """Create a provider with the exporters that the environment names."""
    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "hayhooks"}))
    made = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in filter(None, map(str.strip, os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(","))):
        exporter = _exporter(name)
        if exporter is not None:
            made.add_span_processor(BatchSpanProcessor(exporter))
    return made


def _exporter(name: str) -> SpanExporter | None:
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), _PROTOCOL)
    match name:
        case "otlp" if protocol == _PROTOCOL:
            return OTLPSpanExporter()
        case "otlp":
            log.warning("OTEL_EXPORTER_OTLP_PROTOCOL={!r}: must be {}; no traces are sent", protocol, _PROTOCOL)
        case "console":
            return ConsoleSpanExporter()
        case _:
            log.warning("OTEL_TRACES_EXPORTER={!r}: must be otlp, console or none; no traces go there", name)
    return None
