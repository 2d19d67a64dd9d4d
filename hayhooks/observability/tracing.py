"""Tracing on request: OpenTelemetry is imported only if ``OTEL_*`` asks for it."""

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hayhooks.observability.log import log

if TYPE_CHECKING:
    from hayhooks.observability.otel import Tracing

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http", "haystack_integrations.tracing.opentelemetry")


def configure_tracing() -> "Tracing | None":
    """Return the tracing if the environment asks for it and the extra is installed."""
    if not is_asked_for() or _missing():
        return None
    from hayhooks.observability.otel import Tracing  # noqa: PLC0415 - the extra

    return Tracing()


def warn_if_missing() -> None:
    """Log a warning if the environment asks for traces and the extra is not installed."""
    if is_asked_for() and (missing := _missing()):
        names = ", ".join(missing)
        log.warning("OTEL_* variables ask for traces, but {} is missing: pip install '.[tracing]' in the clone", names)


def is_asked_for() -> bool:
    """Whether the environment names an exporter or endpoint and keeps the SDK enabled."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = os.environ.get("OTEL_TRACES_EXPORTER", "").strip()
    return exporters != "none" if exporters else any(os.environ.get(name) for name in _ENDPOINTS)


def _missing() -> list[str]:
    missing = []
    for module in _NEEDED:
        try:
            found = find_spec(module)
        except ModuleNotFoundError:  # not even its package
            found = None
        if found is None:
            missing.append(module)
    return missing
