"""Probes: ``/healthz`` (the process is alive) and ``/readyz`` (it can serve)."""

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute

from hayhooks.http.context import switch_of
from hayhooks.kernel.state import Snapshot
from hayhooks.openapi.describe import (
    JSON,
    DocumentedRoute,
    OperationDocs,
    error_responses,
    object_schema,
    response_object,
)


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the two probes."""

    async def healthz(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> JSONResponse:
        if reason := switch_of(request.scope).not_ready:
            return JSONResponse({"status": "not ready", "detail": reason}, status_code=503)
        return JSONResponse({"status": "ready"})

    yield DocumentedRoute("/healthz", healthz, {"GET": lambda: _HEALTHZ})
    yield DocumentedRoute("/readyz", readyz, {"GET": lambda: _READYZ})


_HEALTHZ = OperationDocs(
    name="healthz",
    summary="Whether the process is alive",
    answers={
        "200": response_object("It is alive", {JSON: object_schema(["status"], status={"const": "ok"})}),
        **error_responses(key=False),
    },
    needs_key=False,
)

_READYZ = OperationDocs(
    name="readyz",
    summary="Whether it can serve",
    answers={
        "200": response_object("It can serve", {JSON: object_schema(["status"], status={"const": "ready"})}),
        **error_responses(key=False),
        "503": response_object(
            "It cannot serve, and why",
            {JSON: object_schema(["status", "detail"], status={"const": "not ready"}, detail={"type": "string"})},
        ),
    },
    needs_key=False,
)
