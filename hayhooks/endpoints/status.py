"""``/status``: the deployments, their revisions, and the errors of failed ones."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from hayhooks.errors import sendable
from hayhooks.http.context import switch_of
from hayhooks.http.executions import executions_of
from hayhooks.http.json import encode
from hayhooks.http.lookup import not_served_error, serving_summary
from hayhooks.http.switch import Switch
from hayhooks.kernel.state import Snapshot, Unfinished
from hayhooks.observability.change_log import failure_parts, failure_text
from hayhooks.observability.worker_state import WorkerStateDir
from hayhooks.openapi.describe import (
    JSON,
    DocumentedRoute,
    OperationDocs,
    Schema,
    error_responses,
    object_schema,
    parameter,
    ref,
    response_object,
)


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/status`` and ``/status/{name}``; each snapshot is encoded once."""
    worker_dir = WorkerStateDir.of_environment()
    cached: tuple[Snapshot | None, bytes, dict[str, Any]] = (None, b"", {})

    async def status(request: Request) -> Response:
        nonlocal cached
        switch = switch_of(request.scope)
        snapshot = switch.live.snapshot  # newer than the routes' own where only what is being loaded has changed
        if cached[0] is not snapshot:
            summary = serving_summary(snapshot)
            body = {
                "status": "Up!",
                "pipelines": list(snapshot.deployments),
                **summary,
                "error": snapshot.problem or None,
                "deployments": [_deployment_status(snapshot, name) for name in _names(snapshot)],
            }
            cached = (snapshot, encode(body), summary)
        _, encoded, summary = cached
        python_path = request.app.settings.python_path
        live = {
            **_live_status(switch),
            "executions": executions_of(request.scope).is_started,
            "additional_python_path": python_path,
            "workers": worker_dir.read(summary),
            "replicas": await replicas() if (replicas := request.app.replicas) else [],
        }
        return Response(encoded[:-1] + b"," + encode(live)[1:], media_type="application/json")

    async def status_of(request: Request) -> Response:
        name, switch = request.path_params["name"], switch_of(request.scope)
        snapshot, kernel = switch.live.snapshot, switch.kernel
        if name not in _names(snapshot):
            raise not_served_error(snapshot, name)
        found = kernel and kernel.found(name)
        on_disk = found and {"revision": found.id, **found.identity._asdict()}
        body = {
            "status": "Up!",
            "pipeline": name,
            **_deployment_status(snapshot, name),
            "found": on_disk,
        }
        return JSONResponse(body, status_code=200 if name in snapshot.deployments else 503)

    yield DocumentedRoute("/status", status, {"GET": lambda: _STATUS})
    yield DocumentedRoute("/status/{name}", status_of, {"GET": lambda: _STATUS_OF})


def _names(snapshot: Snapshot) -> list[str]:
    return sorted(snapshot.deployments.keys() | snapshot.failures.keys() | snapshot.loading.keys())


def _live_status(switch: Switch) -> dict[str, Any]:
    """Return the fields that change without a new generation."""
    kernel = switch.kernel
    watching = kernel.watch.state if kernel else None
    store = kernel.store if kernel else None
    directory = kernel.directory if kernel else None
    return {
        "directory": directory and {"path": directory[0], "device": directory[1][0], "inode": directory[1][1]},
        "watching": watching
        and {
            "by": "events" if watching.directories else "look-around",
            "directories": watching.directories,
            "poll_interval_ms": round(watching.poll_interval_s * 1000),
            "problem": watching.problem or None,
        },
        "state_directory": store and str(store.directory),
        "canaries": [asdict(report) for report in kernel.canaries.reports()] if kernel else [],
        "loading": [_sendable(unfinished) for unfinished in kernel.loading()] if kernel else [],
        "retired": [_sendable(unfinished) for unfinished in kernel.retired()] if kernel else [],
    }


def _sendable(unfinished: Unfinished) -> dict[str, Any]:
    return {**asdict(unfinished), "name": sendable(unfinished.name), "why": sendable(unfinished.why)}


def _deployment_status(snapshot: Snapshot, name: str) -> dict[str, Any]:
    deployment, failure = snapshot.deployments.get(name), snapshot.failures.get(name)
    loading, canary = snapshot.loading.get(name), snapshot.canaries.get(name)
    return {
        "name": sendable(name),
        "state": snapshot.state(name),
        "revision": deployment.revision.id if deployment else None,
        "canary": canary.revision.id if canary else None,
        "canary_share": canary.canary if canary else None,
        "loaded_at": deployment.loaded_at if deployment else None,
        "load_ms": round(deployment.load_ms, 1) if deployment else None,
        "endpoints": list(deployment.endpoints.paths) if deployment else [],
        "description": deployment.description if deployment else "",
        "error": failure_text(failure) if failure else None,
        "failure": failure and failure_parts(failure),
        "failed_revision": failure.revision.id if failure else None,
        "failed_at": failure.failed_at if failure else None,
        "loading_since": loading.since if loading else None,
    }


_DEPLOYMENT: dict[str, Schema] = {
    "name": {"type": "string"},
    "state": {"enum": ["serving", "stale", "failed", "loading"]},
    "revision": {"type": ["string", "null"]},
    "canary": {"type": ["string", "null"], "description": "The revision that gets a share of the requests."},
    "canary_share": {"type": ["number", "null"], "description": "That share, from 0 to 1."},
    "loaded_at": {"type": ["number", "null"], "description": "Unix seconds."},
    "load_ms": {"type": ["number", "null"], "description": "Import, setup, warm-up and check."},
    "endpoints": {"type": "array", "items": {"type": "string"}},
    "description": {"type": "string"},
    "error": {"type": ["string", "null"], "description": "Why the newest revision does not serve."},
    "failure": {
        "type": ["object", "null"],
        "description": "The error's reason, place (file, line, source lines), hint and traceback.",
    },
    "failed_revision": {"type": ["string", "null"]},
    "failed_at": {"type": ["number", "null"]},
    "loading_since": {"type": ["number", "null"]},
}

_SCHEMAS = {
    "DeploymentStatus": object_schema(["name", "state"], **_DEPLOYMENT),
    "PipelineStatus": object_schema(
        ["status", "pipeline", "name", "state"],
        status={"const": "Up!"},
        pipeline={"type": "string"},
        found={
            "type": ["object", "null"],
            "description": "Last read from disk: revision, device, inode.",
        },
        **_DEPLOYMENT,
    ),
    "CanaryFigures": object_schema(
        ["revision", "requests", "failed", "p95_ms"],
        revision={"type": "string"},
        requests={"type": "integer", "description": "Answered since the canary began."},
        failed={"type": "integer", "description": "Of them, by the pipeline's fault."},
        p95_ms={"type": ["number", "null"], "description": "95 % of the last that did not fail took no longer."},
    ),
    "Canary": object_schema(
        ["name", "share", "since", "ends_in_s", "canary", "serving"],
        name={"type": "string"},
        share={"type": "number", "description": "Of the requests, from 0 to 1."},
        since={"type": "number", "description": "Unix seconds."},
        ends_in_s={"type": "number", "description": "Seconds until it is promoted or rolled back, at the latest."},
        canary=ref("CanaryFigures"),
        serving=ref("CanaryFigures"),
    ),
    "Unfinished": object_schema(
        ["name", "revision", "since", "why"],
        name={"type": "string"},
        revision={"type": "string"},
        since={"type": "number", "description": "Unix seconds."},
        why={"type": "string", "description": "What of it runs and at which line, its requests, or what refers to it."},
    ),
    "ServerStatus": object_schema(
        ["status", "pipelines", "generation", "revision", "deployments"],
        status={"const": "Up!"},
        pipelines={"type": "array", "items": {"type": "string"}, "description": "The names that are served."},
        generation={"type": "integer", "description": "Number of published changes."},
        revision={
            "type": "string",
            "description": "Digest of all that is served.",
        },
        ready={"type": "boolean"},
        error={"type": ["string", "null"], "description": "Why the directory cannot be read."},
        deployments={"type": "array", "items": ref("DeploymentStatus")},
        watching={"type": ["object", "null"]},
        directory={
            "type": ["object", "null"],
            "description": "The directory that is served, by path, device and inode.",
        },
        additional_python_path={
            "type": "array",
            "items": {"type": "string"},
            "description": "The directories of shared modules.",
        },
        executions={"type": "boolean", "description": "Whether there may be executions: their database is in use."},
        state_directory={"type": ["string", "null"], "description": "Where the revisions that served are kept."},
        canaries={"type": "array", "items": ref("Canary"), "description": "New revisions that get a share."},
        loading={"type": "array", "items": ref("Unfinished"), "description": "The revisions that are being loaded."},
        retired={
            "type": "array",
            "items": ref("Unfinished"),
            "description": "Replaced and removed revisions of which something still runs or is in memory.",
        },
        workers={},
        replicas={
            "type": "array",
            "items": {"type": "object"},
            "description": "On Ray Serve, what each replica serves: ray_deployment, replica, revision, ready.",
        },
    ),
}

_STATUS = OperationDocs(
    name="status",
    summary="The deployments, and why some are not served",
    answers={"200": response_object("All deployments", {JSON: ref("ServerStatus")}), **error_responses()},
    schemas=_SCHEMAS,
)

_STATUS_OF = OperationDocs(
    name="pipeline_status",
    summary="One deployment",
    parameters=(parameter("name", "The pipeline's name."),),
    answers={
        "200": response_object("It serves", {JSON: ref("PipelineStatus")}),
        **error_responses(404),
        "503": response_object("It cannot serve", {JSON: {"anyOf": [ref("PipelineStatus"), ref("Error")]}}),
    },
    schemas=_SCHEMAS,
)
