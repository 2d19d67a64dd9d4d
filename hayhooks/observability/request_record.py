"""Request record: facts about one request, for logs, metrics and traces."""

import time
from contextvars import ContextVar
from typing import Any

from hayhooks.errors import PipelineError, shortened, type_and_message
from hayhooks.kernel.admission import Outcomes

# What the console, commands and probes ask again and again, and what carries requests that are listed themselves: lists
# and charts of requests leave these out.
POLLED = frozenset(
    {
        "/healthz",
        "/readyz",
        "/metrics",
        "/status",
        "/status/{name}",
        "/status/{name}/revisions",
        "/events",
        "/mcp",
        "/{name}/a2a",
        "/{name}/",
        "/traces",
        "/traces/{id}",
        "/draw/{name}",
        "/{name}/schema",
        "/console/difference",
        "/console/markdown",
        "/console/numbers",
        "/console/static/{file}",
    }
)

_MAX_METHOD = 20  # characters
_MAX_PATH = 1_000
_MAX_CLIENT = 100


class PipelineCounters:
    """Counters of one pipeline, or of the server's own routes; only the loop writes."""

    __slots__ = (
        *("answers", "attempts", "cancelled", "chunks", "deploys", "failures", "in_flight", "queued", "rollbacks"),
        "stream_failures",
    )

    def __init__(self) -> None:
        # By endpoint, method and status: responses per duration bucket, and last the sum of all durations.
        self.answers: dict[tuple[str, str, int], list[float]] = {}
        self.in_flight = 0
        self.cancelled = 0
        self.chunks = 0
        self.stream_failures = 0
        self.deploys = 0
        self.failures = 0
        self.rollbacks = 0
        self.attempts: dict[str, int] = {}  # of executions, by how they ended
        self.queued: list[float] = []  # executions that have begun per duration bucket of their wait, and the sum


class RequestRecord:
    """One request. It refers to no deployment: it may outlive that."""

    # Defaults on the class: most are never set (benchmark row run-async).
    endpoint = ""  # the path of the route, as `/{name}/run`; "" if no route serves it
    below_name = False  # the route is below `/{name}`
    pipeline = ""  # the name that is asked for, even if it cannot serve; "" for the server's own routes
    revision = ""  # of the deployment that serves it
    outcomes: Outcomes | None = None  # of that deployment
    counts: PipelineCounters | None = None  # of its pipeline, if metrics are on
    status = 0  # 0 before the response begins; 499 at the end if the client went away before that
    size = 0  # bytes of the response's body so far
    chunks = 0  # items that the wrapper has streamed so far
    api_key = ""  # the name of the key that it carries
    cancelled = False  # the client went away, or the server stopped, before the last byte
    error = ""  # the exception that spoiled the response, also in mid-stream, after the status
    problem = ""  # what was wrong with a request that was refused, in one line
    is_of_command = False  # of `hayhooks status` and the like; only `hayhooks dev` looks
    is_of_page = False  # sent by one of the server's own pages; as above
    is_logged = False  # that error, so that the server need not log it again
    span: Any = None  # while it is traced
    trace_id = ""  # 32 hex digits
    ended_at = 0.0  # Unix seconds
    took_s = 0.0  # from the request's headers to the last byte

    def __init__(self, method: str, path: str, client: str, id: str) -> None:
        self._started_at = time.perf_counter()
        self.id = id  # the client's `X-Request-Id`, or one of ours
        self.method = method
        self.path = path  # below the root path; without the query, which may hold secrets
        self.client = client  # its address, or what X-Forwarded-For says; "" behind a Unix socket
        # Thousands of records may wait to be logged, so what clients choose is short.
        if len(path) > _MAX_PATH or len(client) > _MAX_CLIENT or len(method) > _MAX_METHOD:
            self.method = shortened(method, _MAX_METHOD)
            self.path = shortened(path, _MAX_PATH)
            self.client = shortened(client, _MAX_CLIENT)

    def streamed(self, chunks: int) -> None:
        """Count *chunks* more items as sent."""
        if self.counts is not None:
            self.counts.chunks += chunks
        self.chunks += chunks

    def end(self, route: str | None) -> None:
        """Complete the record after the last byte; *route* is the path of its route."""
        self.took_s = time.perf_counter() - self._started_at
        self.ended_at = time.time()
        if route is not None:
            self.endpoint = "/{name}" + route if self.below_name else route
        self.status = self.status or 499  # nginx's status for a client that closed the connection
        outcomes = self.outcomes
        if outcomes is None:
            return
        if not (self.error or self.cancelled or self.status >= 400):
            outcomes.ended += 1
            if outcomes.durations_s is not None:
                outcomes.durations_s.append(self.took_s)
        # By the pipeline's fault: a 500, an answer that broke off, one that took too long.
        elif not self.cancelled and (self.status == 500 or (self.error and self.status != 503)):
            outcomes.fail(self.error or self.problem or f"status {self.status}")


current_request: ContextVar[RequestRecord] = ContextVar("hayhooks_request")  # that runs in this context


def record_error(error: BaseException) -> BaseException:
    """Note *error*, or its cause, in the current request's record; return what was noted."""
    if isinstance(error.__cause__, PipelineError):  # Starlette wraps errors after the status
        error = error.__cause__
    origin = error.__cause__ or error if isinstance(error, PipelineError) else error
    record: Any = current_request.get(None)
    if record is not None:  # a PipelineError's own message names the component too
        told = isinstance(error, PipelineError) and origin is not error
        record.error = str(error) if told else type_and_message(origin)
        if record.outcomes is not None and (judge := record.outcomes.judge) is not None:
            judge.note(record.outcomes, origin)
    return origin
