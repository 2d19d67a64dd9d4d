"""An record: one request and what becomes of it. The access log, the metrics, the trace and log lines read it."""

import time
from contextvars import ContextVar
from typing import Any

from hayhooks.errors import PipelineError, safe_str


class PipelineCounters:
    """What has been counted of one pipeline, or of the server's own routes; changed on the event loop alone.

    Attributes:
        answers: by endpoint, method and status: how many took how long, and in the end all their seconds together.
    """

    __slots__ = ("answers", "cancelled", "chunks", "deploys", "failures", "in_flight", "stream_failures")

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str, int], list[float]] = {}
        self.in_flight = 0
        self.cancelled = 0
        self.chunks = 0
        self.stream_failures = 0
        self.deploys = 0
        self.failures = 0


class RequestRecord:
    """One request, filled in on its way. Of the deployment only names and numbers: it may outlive that.

    Attributes:
        id: the client's ``X-Request-Id``, or one of ours.
        client: its address; "" if it has none, as behind a socket file.
        path: as the client means it, without query: that may hold secrets.
        endpoint: the path of the route, as ``/{name}/run``; "" for a path that nothing serves.
        pipeline: the name of the deployment that is asked, also if that cannot serve; "" for the server's own routes.
        revision: what answers; "" if nothing does.
        below_name: the route is one of those below ``/{name}``.
        status: 0 before the answer begins, and 499 in the end where it never did because the client went away.
        size: bytes of the answer's body so far.
        chunks: what the wrapper has streamed of it so far, in items.
        cancelled: the client went away, or the server stopped, before the last byte.
        error: what the wrapper raised, or we did; also in mid-stream, when the status has been sent.
        trace_id: of its trace, 32 hex digits; "" without one.
        ended_at: Unix seconds.
        took_s: from the request's headers to the last byte.
    """

    # On the class, for most of these are never set: to fill them in for each request took a microsecond of it.
    endpoint = pipeline = revision = error = trace_id = ""
    below_name = cancelled = False
    status = size = chunks = 0
    span: Any = None  # while it is traced
    counts: PipelineCounters | None = None  # of its pipeline, where metrics are kept
    ended_at = took_s = 0.0

    def __init__(self, method: str, path: str, client: str, id: str) -> None:
        self._began = time.perf_counter()
        self.id = id
        self.method = method
        self.path = path
        self.client = client

    def streamed(self, chunks: int) -> None:
        """Note that *chunks* more have been sent."""
        if self.counts is not None:
            self.counts.chunks += chunks
        self.chunks += chunks

    def end(self, route: str | None) -> None:
        """Note that the last byte is out, of an answer that the route with the path *route* has given, if one has."""
        self.took_s = time.perf_counter() - self._began
        self.ended_at = time.time()
        if route is not None:
            self.endpoint = "/{name}" + route if self.below_name else route
        self.status = self.status or 499  # as nginx writes for a client that did not wait


current_request: ContextVar[RequestRecord] = ContextVar("hayhooks_exchange")  # of the request that runs in this context


def record_error(error: BaseException) -> None:
    """Note that *error*, or what it came from, spoiled the answer of the request that runs here."""
    record: Any = current_request.get(None)
    if record is not None:
        if isinstance(error.__cause__, PipelineError):  # Starlette wraps what comes when the status has been sent
            error = error.__cause__
        origin = error.__cause__ or error if isinstance(error, PipelineError) else error
        record.error = f"{type(origin).__name__}: {safe_str(origin)}".removesuffix(": ")
