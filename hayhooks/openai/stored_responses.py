"""Stored responses of OpenAI's API: in the background, retrieved, streamed again, canceled, deleted.

A response is an execution of the kind ``response``; its id is the execution's. With ``background`` the request without
it is sent to the deployment within the process; a whole answer with ``store`` is kept as it is.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from hayhooks.errors import HayhooksError, OpenAIError, safe_str, shortened
from hayhooks.executions.execution import ANYBODY, Execution, Order, StreamEvent
from hayhooks.http.api_keys import may_call
from hayhooks.http.context import context_of, switch_of
from hayhooks.http.executions import WatchedStream, executions_of, owner_of, submit
from hayhooks.http.json import JSONBytesResponse, encode_part
from hayhooks.http.responses import EventStreamResponse
from hayhooks.kernel.state import Deployment
from hayhooks.observability.log import log
from hayhooks.openai.bridge import Body
from hayhooks.openai.response_encoder import ResponsesEncoder
from hayhooks.openai.schemas import stored_docs
from hayhooks.openapi.executions import ExecutionRoute

_PREFIX = "resp_"
_OF_AN_ATTEMPT = 1_000_000  # sequence numbers: those of a later attempt are above those of the one before
_STATUSES = {"queued": "queued", "running": "in_progress", "waiting": "in_progress", "canceled": "cancelled"}


def routes(path: str, *, shown: bool = False) -> Iterator[BaseRoute]:
    """Serve what is stored below *path*."""
    one = f"{path}/{{response_id}}"
    retrieve, delete, cancel, input_items = (
        partial(stored_docs, name) for name in ("retrieve", "delete", "cancel", "input_items")
    )
    yield ExecutionRoute(one, {"GET": (_retrieve, retrieve), "DELETE": (_delete, delete)}, shown=shown)
    yield ExecutionRoute(f"{one}/cancel", {"POST": (_cancel, cancel)}, shown=shown)
    yield ExecutionRoute(f"{one}/input_items", {"GET": (_input_items, input_items)}, shown=shown)


async def order(deployment: Deployment, body: Body, scope: Scope, receive: Receive, send: Send) -> None:
    """Order a response in the background, and answer with what it is now, or with its events."""
    service = executions_of(scope)
    if not service.is_available:
        message = (
            "'background' needs executions, which this server lacks: they need pip install \"hayhooks[durable]\" "
            "and a database (HAYHOOKS_DURABLE_URL or HAYHOOKS_STATE_DIR), and HAYHOOKS_DURABLE may turn them off"
        )
        raise OpenAIError(400, message, param="background", code="unsupported_parameter")
    if body.get("store") is False:
        message = "'background' needs 'store': true, or no 'store': the response is retrieved later"
        raise OpenAIError(400, message, param="store", code="unsupported_parameter")
    request = Request(scope, receive)
    is_streamed = bool(body["stream"])
    inner = {key: value for key, value in body.items() if key not in ("background", "store")}
    execution, _ = await submit(
        request, deployment, "response", {"body": inner, "asked": {"store": True}}, wants_chunks=is_streamed
    )
    if is_streamed:
        response: Response = _stream(request, execution, -1)
    else:
        response = _whole(execution)
    await response(scope, receive, send)


async def keep(deployment: Deployment, body: Body, response: dict[str, Any], scope: Scope) -> None:
    """Store the whole *response* to *body*, where that is possible."""
    service = executions_of(scope)
    response_id = str(response.get("id", ""))
    if not service.is_available or not response_id.startswith(_PREFIX):
        return
    request = Request(scope)
    stored = {"body": body, "answer": response}
    owner = await owner_of(deployment, request) or ANYBODY
    try:
        await service.submit(
            Order(deployment.name, "response", stored, owner=owner, id=response_id.removeprefix(_PREFIX))
        )
    except HayhooksError as error:  # its client has the answer all the same
        log.warning("{}: a response could not be stored: {}", deployment.name, safe_str(error))


async def add_previous(body: Body, scope: Scope) -> None:
    """Put the conversation of ``previous_response_id`` before the input of *body*, if it is stored here.

    One that is not stored is the wrapper's own business.
    """
    previous = body.get("previous_response_id")
    service = executions_of(scope)
    if not isinstance(previous, str) or not service.is_running:
        return
    conversation: list[Any] = []
    while isinstance(previous, str):
        execution = await _visible(Request(scope), "", previous)
        if execution is None:
            return
        asked, response = execution.order.input["body"], _object(execution)
        conversation = [*_items(asked.get("input")), *response.get("output", ()), *conversation]
        previous = asked.get("previous_response_id")
    body["input"] = [*conversation, *_items(body["input"])]
    body["previous_response_id"] = None  # it is resolved


async def _retrieve(request: Request) -> Response:
    execution = await _execution(request)
    if request.query_params.get("stream", "false").lower() not in ("true", "1"):
        return _whole(execution)
    if not execution.order.wants_chunks:
        message = "This response was not created with 'stream': true, so it cannot be streamed"
        raise OpenAIError(400, message, param="stream")
    after = request.query_params.get("starting_after", "-1")
    if not after.removeprefix("-").isdecimal():
        raise OpenAIError(400, "'starting_after' must be the sequence_number of an event", param="starting_after")
    return _stream(request, execution, int(after))


async def _cancel(request: Request) -> Response:
    execution = await _execution(request)
    if "answer" in execution.order.input:
        raise OpenAIError(400, "Only responses with 'background': true can be cancelled", param="background")
    execution = await executions_of(request.scope).cancel(execution)
    return _whole(execution, "cancelled" if not execution.is_terminal else "")


async def _delete(request: Request) -> Response:
    execution, service = await _execution(request), executions_of(request.scope)
    if not execution.is_terminal:
        execution = await service.wait(await service.cancel(execution), 5, until_end=True)
    await service.delete(execution)
    body = {"id": _PREFIX + execution.id, "object": "response", "deleted": True}
    return JSONBytesResponse(encode_part(body))


async def _input_items(request: Request) -> Response:
    execution = await _execution(request)
    items = [
        {"id": f"msg_{execution.id}_{index}", **item}
        for index, item in enumerate(_items(execution.order.input["body"].get("input")))
    ]
    order, limit, after = (request.query_params.get(name, "") for name in ("order", "limit", "after"))
    if order != "asc":
        items.reverse()
    ids = [item["id"] for item in items]
    for name, value, fits, accepted in (
        ("order", order, order in ("", "asc", "desc"), "'asc' or 'desc'"),
        ("limit", limit, not limit or (limit.isdecimal() and 1 <= int(limit) <= 100), "a number from 1 to 100"),
        ("after", after, not after or after in ids, "the id of an item"),
    ):
        if not fits:
            raise OpenAIError(400, f"'{name}' must be {accepted}, not {shortened(value)!r}", param=name)
    start = ids.index(after) + 1 if after else 0
    page = items[start : start + int(limit or 20)]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    has_more = len(items) > start + len(page)
    return JSONBytesResponse(encode_part({"object": "list", "data": page, **ends, "has_more": has_more}))


async def _execution(request: Request) -> Execution:
    """Return the execution of the response in the path; a 404 in OpenAI's words if the client has none of this id."""
    response_id = request.path_params["response_id"]
    deployment = context_of(request.scope).deployment
    execution = await _visible(request, deployment.name if deployment is not None else "", response_id)
    if execution is None:
        message = f"Response with id {shortened(response_id)!r} not found."
        raise OpenAIError(404, message, param="id", code="response_not_found")
    return execution


async def _visible(request: Request, name: str, response_id: str) -> Execution | None:
    """Return the execution of a response of the deployment *name*, "": of any, if the client may see it."""
    service = executions_of(request.scope)
    if not service.is_available or not response_id.startswith(_PREFIX):
        return None
    execution = await service.get(name, response_id.removeprefix(_PREFIX), None)
    if execution is None or execution.order.kind != "response":
        return None
    deployment = switch_of(request.scope).live.snapshot.deployments.get(execution.order.deployment)
    if deployment is None or not may_call(context_of(request.scope).api_key, deployment.name):
        return None
    owner = await owner_of(deployment, request)
    return execution if owner is None or owner == execution.order.owner else None


def _items(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return list(given or ())


def _object(execution: Execution) -> dict[str, Any]:
    """Return the response object of *execution* as it is now."""
    order = execution.order
    if "answer" in order.input:
        answer: dict[str, Any] = order.input["answer"]
        return answer
    if execution.status == "completed" and isinstance(execution.result, dict):
        found = execution.result
    else:
        status = _STATUSES.get(execution.status, "failed")
        body = {**order.input["body"], "background": True}
        found = ResponsesEncoder(order.deployment, body).unfinished_object(status)
        if execution.error is not None:
            found["error"] = {"code": "server_error", "message": execution.error.message}
    return {**found, **_own(execution)}


def _own(execution: Execution) -> dict[str, Any]:
    """Return the fields of a response object that the execution decides, and not the request within the process."""
    return {
        "id": _PREFIX + execution.id,
        "created_at": int(execution.created_at),
        "background": True,
        **execution.order.input.get("asked", {}),
    }


def _whole(execution: Execution, status: str = "") -> Response:
    response = _object(execution)
    return JSONBytesResponse(encode_part({**response, "status": status or response["status"]}))


def _stream(request: Request, execution: Execution, after: int) -> Response:
    events = executions_of(request.scope).watch(execution)
    return EventStreamResponse(_Encoder(execution, after), WatchedStream(events))


class _Encoder:
    """Encode the events of the response that *execution* is, above the sequence number *after*."""

    def __init__(self, execution: Execution, after: int) -> None:
        self._execution = execution
        self._after = after
        self._last = 0
        self._has_ended = False

    def begin(self) -> bytes:
        return b""

    def write(self, batch: list[StreamEvent | None]) -> Iterator[bytes]:
        for event in batch:
            if event is None:
                # As it was: its items follow.
                response = _object(replace(self._execution, status="queued", error=None))
                yield from self._event({"type": "response.created", "response": response}, 0)
                yield from self._event({"type": "response.queued", "response": response}, 1)
                continue
            if event.kind == "chunk":
                payload, attempt = dict(event.data["payload"]), event.data["attempt"]
                if payload["type"] == "response.created" and attempt == 1:
                    continue  # it was told before
                number = payload.get("sequence_number", self._last) + 1 + (attempt - 1) * _OF_AN_ATTEMPT
                if "response" in payload:
                    payload["response"] = {**payload["response"], **_own(self._execution)}
                self._has_ended = payload["type"] in ("response.completed", "response.incomplete", "response.failed")
                yield from self._event(payload, number)
            elif event.kind == "end" and not self._has_ended:
                response = _object(event.data)  # the last event was too large to be kept, or there was none
                kind = response["status"] if response["status"] in ("completed", "incomplete") else "failed"
                yield from self._event({"type": f"response.{kind}", "response": response}, self._last + 1)

    def finish(self) -> bytes:
        return b""

    def fail(self, error: Exception) -> None:
        return None

    def _event(self, payload: dict[str, Any], number: int) -> Iterator[bytes]:
        self._last = max(self._last, number)
        if number > self._after:
            data = encode_part({**payload, "sequence_number": number})
            yield b"event: %b\ndata: %b\n\n" % (payload["type"].encode(), data)
