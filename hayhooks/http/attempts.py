"""Attempts of executions: call ``run_durable`` of what is deployed, or send a request within the process."""

import asyncio
import importlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pydantic import BaseModel
from starlette.types import ASGIApp

from hayhooks.errors import DrainedError, InvalidInputError, TimedOutError, safe_str, sendable, shortened
from hayhooks.executions.execution import TIMED_OUT, AttemptResult, AttemptStart, ExecutionError, Order
from hayhooks.http.invoke import in_thread
from hayhooks.http.json import encode
from hayhooks.http.user_code import honest, log_failure, pipeline_error
from hayhooks.http.within import Answer, request_within
from hayhooks.kernel.admission import Lease, current_lease
from hayhooks.kernel.haystack_hooks import pipelines
from hayhooks.kernel.isolation import enter_package, with_public_names
from hayhooks.kernel.operations import DurableMethod
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.kernel.threads import Outcome
from hayhooks.observability.log import log
from hayhooks.observability.metrics import Metrics
from hayhooks.toolkit.durable import (
    DurableContext,
    DurableExecutionCancelledError,
    RetryRequested,
    Suspended,
)
from hayhooks.toolkit.durable_scope import durable_context_scope
from hayhooks.toolkit.journal import Journal, TooLargeError
from hayhooks.toolkit.tracing import trace_operation

_RECANCEL_S = 5.0


class AttemptHost:
    """Runs attempts on what *live* has, each for *timeout_s* at most; for the serving loop."""

    def __init__(self, app: ASGIApp, live: Callable[[], Snapshot], timeout_s: float, metrics: Metrics | None) -> None:
        self._app = app
        self._live = live
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._published = asyncio.Event()

    def note_snapshot(self) -> None:
        """Look again whether attempts that wait can run."""
        self._published.set()
        self._published = asyncio.Event()

    def names(self) -> Sequence[str]:
        """Return the names of what is deployed."""
        return tuple(self._live().deployments)

    def concurrency_of(self, name: str) -> int | None:
        """Return what the wrapper of a deployment sets; None: nothing."""
        deployment = self._live().deployments.get(name)
        return deployment.durable.concurrency if deployment is not None and deployment.durable is not None else None

    def reason_to_wait(self, order: Order) -> str:
        """Return what *order* waits for; from any thread."""
        deployment = self._live().deployments.get(order.deployment)
        if deployment is None or (order.kind in ("pipeline", "agent") and deployment.durable is None):
            return "deployment"
        if order.revision and deployment.durable is not None and deployment.durable.revision != order.revision:
            return f"revision {order.revision}"
        return ""

    async def admit(self, order: Order) -> str:
        """Wait until something deployed can run *order*, and return the id of its revision."""
        while self.reason_to_wait(order):
            await self._published.wait()
        return self._live().deployments[order.deployment].revision.id

    async def run(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        """Run one attempt; a cancellation waits for its code, but not for a thread that is past its timeout."""
        name, began = start.order.deployment, time.monotonic()
        if self._metrics is not None and start.number == 1:
            self._metrics.attempt_begun(name, max(time.time() - start.ordered_at, 0.0))
        outcome = "canceled"
        try:
            result = await self._attempt(start, journal)
            outcome = result.kind
            return result
        finally:
            if self._metrics is not None:
                self._metrics.attempt_ended(name, outcome)
            told = log.warning if outcome == "failed" else log.info
            message = "{}: execution {} {} in attempt {} after {:.3g} s"
            told(message, name, start.execution_id, outcome, start.number, time.monotonic() - began)

    async def _attempt(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        order = start.order
        deployment = self._live().deployments.get(order.deployment)
        if deployment is None or self.reason_to_wait(order):  # removed or changed since it was admitted
            return AttemptResult("again")
        durable, wrapper = deployment.durable, deployment.wrapper
        context = DurableContext(
            journal,
            execution_id=start.execution_id,
            attempt=start.number,
            owner_id=order.owner or None,
            resume_input=start.resume_input,
            resumed=start.resumed,
            target=wrapper.pipeline,
            package=deployment.package,
            memo=wrapper.durable_memo,
        )
        for pipeline in pipelines(wrapper):
            # Not at the top: it imports Haystack, which a server without wrappers does not need.
            importlib.import_module("hayhooks.toolkit.agent_memo").remember(pipeline)
        with durable_context_scope(context):
            if durable is not None and order.kind in ("pipeline", "agent"):
                return await self._run_method(deployment, durable, context, start)
            return await self._run_request(order, journal)

    async def _run_method(
        self, deployment: Deployment, durable: DurableMethod, context: DurableContext, start: AttemptStart
    ) -> AttemptResult:
        """Call the wrapper's method, on a lease of its deployment as a request has one."""
        try:
            request = durable.request.validate_python(start.order.input)
            if start.resumed and durable.resume is not None and start.resume_input != TIMED_OUT:
                durable.resume.validate_python(start.resume_input)
        except InvalidInputError as error:  # it was ordered with another model
            return _failed("InvalidInputError", error.told(), "input_incompatible")
        leases = deployment.runtime.leases
        lease = Lease(asyncio.current_task(), is_attempt=True)
        current_lease.set(lease)
        leases.take(lease)
        timeout_s = durable.timeout_s if durable.timeout_s is not None else self._timeout_s
        if timeout_s:
            lease.expire_in(timeout_s, partial(TimedOutError, timeout_s))
        # A task of its own: a wrapper may raise SystemExit, and a cancelled thread is waited for.
        call = asyncio.create_task(Outcome.awaited(_call(deployment, durable, context, request)))
        try:
            return _method_result(durable, await asyncio.shield(call))
        except asyncio.CancelledError:
            if lease.expired is not None or durable.on_loop:
                await _end(call)
            else:
                await asyncio.wait([call])
            try:
                lease.raise_expired()
            except DrainedError:
                return AttemptResult("again")
            except TimedOutError as error:
                return _failed("TimedOutError", str(error), "timed_out")
            raise
        finally:
            lease.end()
            leases.give_back(lease)

    async def _run_request(self, order: Order, journal: Journal) -> AttemptResult:
        if order.kind == "response" and "answer" in order.input:  # which was made before, and is only kept
            return AttemptResult("completed", result=order.input["answer"])
        path = f"/{order.deployment}/{'run' if order.kind == 'run' else 'responses'}"
        body = json.dumps(order.input if order.kind == "run" else order.input["body"]).encode()
        if not order.wants_chunks:
            return _result_of(await request_within(self._app, "POST", path, body, is_background=True))
        events = _Events(journal)
        answer = await request_within(self._app, "POST", path, body, is_background=True, on_chunk=events.add)
        return events.result or _result_of(answer)


class _Events:
    """The server-sent events of a response: each is a chunk, and the last one has the result."""

    def __init__(self, journal: Journal) -> None:
        self.result: AttemptResult | None = None
        self._journal = journal
        self._rest = b""

    async def add(self, content: bytes) -> None:
        """Take a part of the stream."""
        *events, self._rest = (self._rest + content).split(b"\n\n")
        for event in events:
            data = b"".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
            if data.startswith(b"{"):
                payload: Any = json.loads(data)
                await self._journal.emit(payload)
                if payload.get("type") in ("response.completed", "response.incomplete", "response.failed"):
                    self.result = AttemptResult("completed", result=payload["response"])


async def _call(deployment: Deployment, durable: DurableMethod, context: DurableContext, request: Any) -> Any:
    enter_package(deployment.package)
    tags = {"hayhooks.pipeline": deployment.name, "hayhooks.execution": context.execution_id}
    with trace_operation("hayhooks.execution.attempt", tags=tags | {"hayhooks.attempt": context.attempt}):
        if durable.on_loop:
            return await durable.method(context, request)
        return await in_thread(deployment, partial(durable.method, context, request))


async def _end(call: "asyncio.Task[Outcome]") -> None:
    """Cancel *call* until it has ended: user code may ignore the first time."""
    while not call.done():
        call.cancel()
        await asyncio.wait([call], timeout=_RECANCEL_S)


def _method_result(durable: DurableMethod, outcome: Outcome) -> AttemptResult:
    """Return how an attempt has ended whose method returned or raised *outcome*."""
    match outcome.error:
        case None:
            return _encoded(durable, outcome.result)
        case Suspended() as suspended:
            return AttemptResult("waiting", wait=suspended.wait)
        case RetryRequested() as retry:
            asked = ExecutionError("RetryRequested", safe_str(retry), retryable=True)
            return AttemptResult("retry", error=asked, delay_s=retry.delay_s)
        case DurableExecutionCancelledError():
            return AttemptResult("canceled")
        case TooLargeError() as too_large:
            return _failed("PayloadError", safe_str(too_large), "payload_too_large")
    raised = honest(outcome.error)
    failure = pipeline_error(raised)
    failure.__cause__ = raised
    log_failure(failure, f"{durable.name}() failed")
    return _failed(type(raised).__name__, sendable(with_public_names(safe_str(raised))))


def _encoded(durable: DurableMethod, result: Any) -> AttemptResult:
    try:
        if durable.result is not None and isinstance(result, BaseModel):
            return AttemptResult("completed", result=durable.result.dump_python(result, mode="json"))
        return AttemptResult("completed", result=json.loads(encode(result)))
    except (TypeError, ValueError) as error:
        return _failed(type(error).__name__, safe_str(error))


def _result_of(answer: Answer) -> AttemptResult:
    """Return the result of a request within the process: the ``result`` of its JSON, its JSON, or its text."""
    if answer.cut_by:
        return _failed(*answer.cut_by.split(": ", 1))
    is_json = answer.media_type == "application/json"
    content: Any = json.loads(answer.body) if is_json else answer.body.decode(errors="replace")
    if answer.status == 503:  # at capacity, or its revision was replaced: it does no harm to ask again
        return AttemptResult("retry", error=ExecutionError("UnavailableError", _detail(content), True))
    if answer.status >= 400:
        return _failed(f"HTTP {answer.status}", _detail(content))
    if not is_json and not answer.media_type.startswith("text/"):
        return _failed("TypeError", f"the answer is {answer.media_type or 'of no type'}: only JSON and text are kept")
    is_wrapped = isinstance(content, dict) and content.keys() == {"result"}
    return AttemptResult("completed", result=content["result"] if is_wrapped else content)


def _detail(content: Any) -> str:
    """Return what the body of an error says, in the format of this server or of OpenAI."""
    if isinstance(content, dict):
        error = content.get("error")
        detail = error.get("message") if isinstance(error, dict) else content.get("detail")
        return detail if isinstance(detail, str) else json.dumps(detail)
    return shortened(str(content), 1000)


def _failed(error_type: str, message: str, code: str = "") -> AttemptResult:
    return AttemptResult("failed", error=ExecutionError(error_type, message, code=code))
