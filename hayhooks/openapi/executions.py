"""The routes of executions, and their OpenAPI descriptions."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from hayhooks.executions.execution import STATUSES
from hayhooks.http.dispatch import without_lease
from hayhooks.kernel.state import Deployment
from hayhooks.openapi.describe import (
    EVENTS,
    JSON,
    DocumentedRoute,
    OperationDocs,
    error_responses,
    object_schema,
    parameter,
    ref,
    response_object,
)
from hayhooks.openapi.type_schemas import schemas_of

Handler = Callable[[Request], Awaitable[Response]]

_TIME = {"type": ["string", "null"], "format": "date-time"}
_TEXT = {"type": "string"}
_OPTIONAL_TEXT = {"type": ["string", "null"]}
_STATUS = {"type": "string", "enum": list(STATUSES)}

_SCHEMAS = {
    "Execution": object_schema(
        ["execution_id", "status", "attempt", "sequence", "links"],
        execution_id=_TEXT,
        deployment=_TEXT,
        kind={"type": "string", "enum": ["pipeline", "agent", "run", "response"]},
        revision=_TEXT,
        status=_STATUS,
        attempt={"type": "integer", "description": "How often it was begun."},
        sequence={"type": "integer", "description": "Grows with each change."},
        progress={"type": "array", "items": {"type": "object"}, "description": "The last 100 events."},
        steps={"type": "array", "items": _TEXT, "description": "Names of the steps that are done."},
        result={},
        error={
            "anyOf": [
                object_schema(
                    ["type", "message"], type=_TEXT, message=_TEXT, retryable={"type": "boolean"}, code=_OPTIONAL_TEXT
                ),
                {"type": "null"},
            ]
        },
        waiting={"type": ["object", "null"], "description": "What it waits for: kind, message, expected_input_schema."},
        waiting_for={**_OPTIONAL_TEXT, "description": "Why it is queued: a deployment, or a revision, is missing."},
        cancellation_requested_at=_TIME,
        delay_until=_TIME,
        attempts={"type": "array", "items": {"type": "object"}},
        created_at=_TIME,
        updated_at=_TIME,
        links={"type": "object", "additionalProperties": _TEXT},
    ),
    "ExecutionPage": object_schema(
        ["executions", "next_cursor", "has_more"],
        executions={"type": "array", "items": {"type": "object"}},
        next_cursor=_OPTIONAL_TEXT,
        has_more={"type": "boolean"},
    ),
}
_EXECUTION = {JSON: ref("Execution")}
_ID = parameter("execution_id", "The execution's id.", pattern="^[A-Za-z0-9_-]{1,128}$")


class ExecutionRoute(DocumentedRoute):
    """A route that does not call the deployment: it has no lease of it.

    *methods*: HTTP method -> what handles it, and a function that returns its description.
    """

    takes_slot = False

    def __init__(
        self,
        path: str,
        methods: Mapping[str, tuple[Handler, Callable[[], OperationDocs]]],
        *,
        shown: bool,
        listed: bool | None = None,
    ) -> None:
        async def endpoint(request: Request) -> Response:
            handle, _ = methods[request.method]
            return await handle(request)

        docs = {method: describe for method, (_, describe) in methods.items()}
        super().__init__(path, endpoint, docs, shown=shown, listed=listed)
        self.app = without_lease(self.app)


def _docs(
    name: str, summary: str, answers: dict[str, Any], *statuses: int, conflicts: bool = False, **more: Any
) -> OperationDocs:
    parameters = (*((_ID,) if name not in ("executions", "run_durable") else ()), *more.pop("parameters", ()))
    if conflicts:
        statuses = (*statuses, 409)
    answers |= error_responses(*statuses, 422, 501, 503, body=bool(more.get("body")))
    return OperationDocs(
        name=name,
        summary=summary,
        parameters=parameters,
        answers=dict(sorted(answers.items())),
        schemas=_SCHEMAS | dict(more.pop("schemas", {})),
        **more,
    )


def _body(deployment: Deployment, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    schemas, components = schemas_of(deployment.name, {"durable": (TypeAdapter(model), "validation")})
    return {JSON: schemas["durable"]}, components


def order_docs(deployment: Deployment) -> OperationDocs:
    """Describe the order of an execution, with the model of the deployment's request."""
    durable = deployment.durable
    assert durable is not None
    body, components = _body(deployment, durable.request_model)
    return _docs(
        "run_durable",
        f"Order an execution of {deployment.name}",
        {
            "200": response_object("It has ended: one with the same key, or within `Prefer: wait`", _EXECUTION),
            "202": response_object("It is kept, and will run", _EXECUTION, Location="Where to follow it."),
        },
        404,
        413,
        conflicts=True,
        body=body,
        schemas=components,
        parameters=(
            parameter("Idempotency-Key", "A second order with it is the first one.", "header", maxLength=512),
            parameter("Prefer", "`wait=10`: answer with its end, if that comes within 10 s.", "header"),
            parameter("delay", "Seconds until it may begin.", "query", type="number", minimum=0),
            parameter("priority", "1 is first, 100 last.", "query", type="integer", minimum=1, maximum=100, default=50),
        ),
    )


def resume_docs(deployment: Deployment) -> OperationDocs:
    """Describe the answer to what an execution waits for, with the deployment's model if it has one."""
    durable = deployment.durable
    model = durable.resume_model if durable is not None else None
    body, components = _body(deployment, model) if model is not None else ({JSON: {}}, {})
    answers = {"202": response_object("It goes on", _EXECUTION)}
    more = {"body": body, "schemas": components, "body_required": model is not None}
    return _docs("resume_execution", "Go on with an execution that waits", answers, 404, 413, conflicts=True, **more)


SHOW_DOCS = _docs(
    "execution",
    "Show an execution",
    {"200": response_object("The execution", _EXECUTION)},
    404,
    parameters=(
        parameter("wait", "Answer once it has changed, or after so many seconds.", "query", type="number", maximum=60),
    ),
)
CANCEL_DOCS = _docs(
    "cancel_execution",
    "Ask for the end of an execution",
    {
        "200": response_object("It has ended", _EXECUTION),
        "202": response_object("It runs, and ends when its code does", _EXECUTION),
    },
    404,
    body={JSON: object_schema(reason=_TEXT)},
    body_required=False,
)
RETRY_DOCS = _docs(
    "retry_execution",
    "Run a failed or canceled execution again, from its last checkpoint",
    {"202": response_object("It is queued", _EXECUTION)},
    404,
    conflicts=True,
)
DELETE_DOCS = _docs(
    "delete_execution",
    "Forget an execution that has ended",
    {"204": response_object("It is gone")},
    404,
    conflicts=True,
)
STREAM_DOCS = _docs(
    "stream_execution",
    "Follow an execution: chunks as they come, and its end",
    {"200": response_object("`chunk` events, then one that is named as its status", {EVENTS: _TEXT})},
    404,
    parameters=(
        parameter("Last-Event-ID", "The id of the last event: what came after it is sent.", "header"),
        parameter("after", "The same, in the path.", "query"),
        parameter("events", "`all`: progress and states too.", "query", enum=["all"]),
    ),
)
LIST_DOCS = _docs(
    "executions",
    "List executions",
    {"200": response_object("A page", {JSON: ref("ExecutionPage")})},
    404,
    parameters=(
        parameter("limit", "How many.", "query", type="integer", minimum=1, maximum=100, default=50),
        parameter("cursor", "`next_cursor` of the page before.", "query"),
        parameter("status", "Only these; may be repeated.", "query", enum=list(STATUSES)),
        parameter("revision", "Only those of this `durable_revision`.", "query"),
        parameter("search", "Part of an id.", "query"),
        parameter("order", "The oldest or the newest first.", "query", enum=["asc", "desc"], default="asc"),
    ),
)
