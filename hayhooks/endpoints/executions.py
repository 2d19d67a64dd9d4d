"""``/{name}/run-durable`` and ``/{name}/executions``: order work that outlives its request, and follow it.

``/executions`` lists those of all deployments.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from hayhooks.errors import ConflictError, InvalidInputError, RefusedError, shortened
from hayhooks.executions.execution import STATUSES, Execution, Query, StreamEvent
from hayhooks.http.context import deployment_of
from hayhooks.http.executions import (
    WatchedStream,
    execution_in,
    execution_response,
    executions_of,
    invalid,
    number,
    order_response,
    owner_of,
    result_body,
    submit,
    summary_body,
)
from hayhooks.http.json import JSONBytesResponse, encode
from hayhooks.http.request_json import parse_json
from hayhooks.http.responses import EventStreamResponse, format_event
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.kernel.validation import Validator
from hayhooks.openapi.describe import DocumentedRoute
from hayhooks.openapi.executions import (
    CANCEL_DOCS,
    DELETE_DOCS,
    LIST_DOCS,
    RETRY_DOCS,
    SHOW_DOCS,
    STREAM_DOCS,
    ExecutionRoute,
    order_docs,
    resume_docs,
)

_MAX_POLL_S = 60.0


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/executions``."""

    async def page(request: Request) -> Response:
        return await _page(request, "", None)

    yield DocumentedRoute("/executions", page, {"GET": lambda: LIST_DOCS})


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve what orders executions, if the wrapper has ``run_durable``, and what follows them."""
    shown = deployment.durable is not None
    if shown:
        yield ExecutionRoute("/run-durable", {"POST": (_order, partial(order_docs, deployment))}, shown=True)
    route = partial(ExecutionRoute, shown=shown, listed=False)
    one = "/executions/{execution_id}"
    yield route("/executions", {"GET": (_page_of_deployment, lambda: LIST_DOCS)})
    yield route(one, {"GET": (_show, lambda: SHOW_DOCS), "DELETE": (_delete, lambda: DELETE_DOCS)})
    yield route(f"{one}/cancel", {"POST": (_cancel, lambda: CANCEL_DOCS)})
    yield route(f"{one}/resume", {"POST": (_resume, partial(resume_docs, deployment))})
    yield route(f"{one}/retry", {"POST": (_retry, lambda: RETRY_DOCS)})
    yield route(f"{one}/stream", {"GET": (_stream, lambda: STREAM_DOCS)})


async def _order(request: Request) -> Response:
    deployment = deployment_of(request.scope)
    durable = deployment.durable
    assert durable is not None
    body = await _validated(request, durable.request)
    execution, is_replay = await submit(request, deployment, durable.kind, body, revision=durable.revision)
    return await order_response(request, execution, is_replay=is_replay)


async def _show(request: Request) -> Response:
    execution = await _execution(request)
    wait_s = number(request.query_params, "wait", 0, 0, _MAX_POLL_S)
    if wait_s and not execution.is_terminal:
        execution = await executions_of(request.scope).wait(execution, wait_s)
    return execution_response(request, execution)


async def _cancel(request: Request) -> Response:
    execution = await _execution(request)
    body = await parse_json(request.scope, await request.body() or b"{}", _parse)
    reason = body.get("reason", "") if isinstance(body, dict) else None
    if not isinstance(reason, str):
        raise RefusedError(422, 'The body of a cancel is empty, or {"reason": "a text"}')
    execution = await executions_of(request.scope).cancel(execution, shortened(reason, 1000))
    return execution_response(request, execution, 200 if execution.is_terminal else 202)


async def _resume(request: Request) -> Response:
    execution = await _execution(request)
    durable = deployment_of(request.scope).durable
    if execution.order.revision and durable is not None and durable.revision != execution.order.revision:
        raise ConflictError(f"the execution is of revision {execution.order.revision!r}, which is not deployed")
    if durable is not None and durable.resume is not None:
        value = await _validated(request, durable.resume)
    else:
        content = await request.body()
        value = await parse_json(request.scope, content, _parse) if content else None
    return execution_response(request, await executions_of(request.scope).resume(execution, value), 202)


async def _retry(request: Request) -> Response:
    execution = await _execution(request)
    return execution_response(request, await executions_of(request.scope).retry(execution), 202)


async def _delete(request: Request) -> Response:
    await executions_of(request.scope).delete(await _execution(request))
    return Response(status_code=204)


async def _page_of_deployment(request: Request) -> Response:
    deployment = deployment_of(request.scope)
    return await _page(request, deployment.name, await owner_of(deployment, request))


async def _page(request: Request, name: str, owner: str | None) -> Response:
    query = request.query_params
    statuses = query.getlist("status")
    if unknown := [status for status in statuses if status not in STATUSES]:
        raise invalid(("query", "status"), unknown[0], f"be among {', '.join(STATUSES)}")
    if query.get("order", "asc") not in ("asc", "desc"):
        raise invalid(("query", "order"), query["order"], "be asc or desc")
    page = await executions_of(request.scope).page(
        Query(
            deployment=name,
            owner=owner,
            status=statuses,  # type: ignore[arg-type]  # checked above
            revision=query.get("revision", ""),
            search=query.get("search", ""),
            limit=int(number(query, "limit", 50, 1, 100)),
            cursor=query.get("cursor", ""),
            newest_first=query.get("order") == "desc",
        )
    )
    body = {
        "executions": [summary_body(execution) for execution in page.executions],
        "next_cursor": page.cursor or None,
        "has_more": bool(page.cursor),
        "skipped_controls": 0,  # as the original has it
    }
    return JSONBytesResponse(encode(body))


async def _stream(request: Request) -> Response:
    execution = await _execution(request)
    cursor = request.headers.get("last-event-id") or request.query_params.get("after", "")
    all_events = request.query_params.get("events") == "all"
    events = executions_of(request.scope).watch(execution, cursor, all_events=all_events)
    return EventStreamResponse(_Encoder(partial(result_body, request)), WatchedStream(events))


async def _execution(request: Request) -> Execution:
    return await execution_in(request, deployment_of(request.scope), request.path_params["execution_id"])


async def _validated(request: Request, validator: Validator) -> Any:
    """Return the JSON of the body, which must be that of the model, without what is not set."""
    content = await request.body()
    if not content:
        raise InvalidInputError([{"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}], 1)
    model: Any = await parse_json(request.scope, content, partial(_model_of, validator))
    return model.model_dump(mode="json", exclude_unset=True)


def _model_of(validator: Validator, content: bytes) -> Any:
    model = validator.validate_json(content)
    try:
        from_json(content, allow_inf_nan=False)  # pydantic accepts NaN, which is no JSON and cannot be kept
    except ValueError as error:
        raise InvalidInputError(
            [{"type": "json_invalid", "loc": ["body"], "msg": f"Invalid JSON: {error}"}], 1
        ) from None
    return model


def _parse(content: bytes) -> Any:
    try:
        return from_json(content)
    except ValueError as error:
        raise RefusedError(400, f"The body is not valid JSON: {error}") from None


class _Encoder:
    def __init__(self, body_of: Callable[[Execution], dict[str, Any]]) -> None:
        self._body_of = body_of

    def begin(self) -> bytes:
        return b""

    def write(self, batch: list[StreamEvent | None]) -> Iterator[bytes]:
        for event in batch:
            if event is None:
                yield b": heartbeat\n\n"
                continue
            kind: str = event.kind
            data, head = event.data, b""
            if isinstance(data, Execution):
                kind, data = data.status, self._body_of(data)
            if event.cursor:
                head = f"id: {event.cursor}\n".encode()
            yield head + f"event: {kind}\n".encode() + format_event(encode(data or {}))

    def finish(self) -> bytes:
        return b""

    def fail(self, error: Exception) -> bytes:
        return b"event: error\n" + format_event(b'{"detail":"Execution stream interrupted"}')
