"""``/files``: OpenAI's Files, for wrappers that keep them; ``/{name}/files`` for those of one.

Without a name in the path it is the form's ``model``, or the query's, that chooses among several such wrappers.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any

import anyio
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from hayhooks.errors import OpenAIError, PipelineError
from hayhooks.http.context import switch_of
from hayhooks.http.disconnect import cancel_on_disconnect
from hayhooks.http.dispatch import serve_with_lease
from hayhooks.http.forms import content_type, form_of
from hayhooks.http.invoke import Stream, collect, invoke
from hayhooks.http.json import encode
from hayhooks.http.lookup import model_not_served_error, wait_for_deployment
from hayhooks.http.responses import TextStreamResponse
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.observability.log import log
from hayhooks.observability.request_record import record_error
from hayhooks.openapi.describe import (
    FORM,
    JSON,
    OPENAI,
    DocumentedRoute,
    OperationDocs,
    Schema,
    object_schema,
    parameter,
    pipeline_responses,
    ref,
    response_object,
)

_UPLOAD = "run_file_upload"

# Path, then HTTP method -> the wrapper's.
_PATHS: Mapping[str, Mapping[str, str]] = {
    "/files": {"POST": _UPLOAD, "GET": "run_file_list"},
    "/files/{file_id}": {"GET": "run_file_retrieve", "DELETE": "run_file_delete"},
    "/files/{file_id}/content": {"GET": "run_file_content"},
}


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the paths on which the request names the wrapper, or there is but one."""
    for path, methods in _PATHS.items():
        yield Route(path, _Files(methods), methods=list(methods))
        docs = {method: partial(_DOCS.__getitem__, name) for method, name in methods.items()}
        yield DocumentedRoute(f"/v1{path}", _Files(methods), docs)


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve the same of one wrapper; it says so where the wrapper has no such method."""
    for path, methods in _PATHS.items():
        shown = deployment.operation(*methods.values()) is not None
        docs = {method: _docs_if(deployment, name) for method, name in methods.items()}
        yield DocumentedRoute(path, _Files(methods, deployment), docs, shown=shown)


class _Files:
    """One path; an ASGI app, for lease and uploaded file must last to the last byte."""

    def __init__(self, methods: Mapping[str, str], deployment: Deployment | None = None) -> None:
        self._methods = methods
        self._deployment = deployment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        method = self._methods["GET" if request.method == "HEAD" else request.method]
        await _require_any(request, method, self._deployment)
        async with AsyncExitStack() as stack:
            form = FormData()
            if method == _UPLOAD:
                form = await stack.enter_async_context(form_of(request))
                _check_upload(form, request)

            async def answer(scope: Scope, receive: Receive, send: Send) -> None:
                response = await _answer(deployment, method, form, request)
                await response(scope, receive, send)

            if self._deployment is not None:  # its routes are only reached on a lease
                deployment = self._deployment
                await answer(scope, receive, send)
            else:
                model = form.get("model") or request.query_params.get("model")
                deployment = await _chosen(scope, method, model)
                await serve_with_lease(deployment, answer, scope, receive, send)


async def _require_any(request: Request, method: str, deployment: Deployment | None) -> None:
    """Refuse what nobody here can do, before a file is read for it.

    Raises:
        OpenAIError: no deployment, or not this one, implements *method*.
    """
    snapshot = switch_of(request.scope).live.snapshot
    if deployment is None and not snapshot.ready:
        return
    if any(method in it.operations for it in ([deployment] if deployment else snapshot.deployments.values())):
        return
    with suppress(ClientDisconnect):
        async for _ in request.stream():  # a client that still sends would not see the answer
            pass
    who = f"The pipeline {deployment.name!r} does not implement" if deployment else "No pipeline implements"
    raise _not_implemented(f"{who} {method}")


def _not_implemented(message: str) -> OpenAIError:
    return OpenAIError(501, message, code="not_implemented", retry=False)


def _check_upload(form: FormData, request: Request) -> None:
    if not isinstance(form.get("file"), UploadFile):
        message = "'file' must be a file, in a form of type multipart/form-data"
        if content_type(request.headers) != "multipart/form-data":
            message += f", and not {content_type(request.headers) or 'without a type'}"
        raise OpenAIError(400, message, param="file")
    for name in ("purpose", "model"):
        if not isinstance(form.get(name, ""), str):
            raise OpenAIError(400, f"'{name}' must be a text", param=name)
    if not form.get("purpose"):
        raise OpenAIError(400, "'purpose' is required: say what the file is for, as 'user_data'", param="purpose")


async def _chosen(scope: Scope, method: str, model: Any) -> Deployment:
    """The deployment *model*, or the only one that implements *method*; nothing may be awaited before its lease."""
    if model:
        deployment = await wait_for_deployment(scope, model)
        if deployment is None:
            raise model_not_served_error(switch_of(scope).live.snapshot, model)
        if method not in deployment.operations:
            raise _not_implemented(f"The pipeline {deployment.name!r} does not implement {method}")
        return deployment
    snapshot = switch_of(scope).live.snapshot
    able = [deployment for deployment in snapshot.deployments.values() if method in deployment.operations]
    if len(able) == 1:
        return able[0]
    if able:
        names = ", ".join(deployment.name for deployment in able)
        raise OpenAIError(400, f"Several pipelines keep files: name one of {names} as 'model'", param="model")
    if not snapshot.ready:
        raise OpenAIError(503, "The pipelines are being loaded for the first time", type="server_error")
    raise _not_implemented(f"No pipeline implements {method}")


async def _answer(deployment: Deployment, method: str, form: FormData, request: Request) -> Response:
    operation = deployment.operations[method]
    arguments = await _uploaded(form, operation) if method == _UPLOAD else _asked(request)
    arguments = operation.accepted({"model": deployment.name, **arguments})
    if operation.wants_headers:
        arguments["headers"] = request.headers
    try:
        result = await cancel_on_disconnect(request.receive, invoke(deployment, operation, arguments))
        return result if isinstance(result, Response) else await _response(method, result, form, request)
    except PipelineError as error:
        record_error(error)
        log.opt(exception=error.__cause__ or error).error("{}: {} failed: {}", deployment.name, method, error)
        raise OpenAIError(500, str(error), type="server_error", retry=False) from error


async def _uploaded(form: FormData, operation: Operation) -> dict[str, Any]:
    """What is known of the file that came; its content only for who takes that, for it is all in memory then."""
    file = form["file"]
    assert isinstance(file, UploadFile)
    arguments: dict[str, Any] = {
        "file": file,
        "filename": file.filename,
        "content_type": file.content_type,
        "purpose": form["purpose"],
        "body": {name: value for name, value in form.items() if name != "file"},
    }
    if "content" in operation.parameters or (operation.takes_any and "file" not in operation.parameters):
        arguments["content"] = await file.read()
        await file.seek(0)
    return arguments


def _asked(request: Request) -> dict[str, Any]:
    """The arguments in path and query: ``file_id``; ``after``, ``limit``, ``order``, ``purpose`` for a list."""
    arguments: dict[str, Any] = {**request.query_params, **request.path_params}
    if "limit" in arguments:
        if not arguments["limit"].isdecimal():
            raise OpenAIError(400, "'limit' must be a number", param="limit")
        arguments["limit"] = int(arguments["limit"])
    return arguments


async def _response(method: str, result: Any, form: FormData, request: Request) -> Response:
    file_id = request.path_params.get("file_id")
    if method == "run_file_delete" and (result is None or result is True):
        result = {"id": file_id, "object": "file", "deleted": True}
    if file_id is not None and (result is None or result is False):
        raise OpenAIError(404, f"No such file: {file_id!r}", param="file_id", code="file_not_found")
    if method == "run_file_content":
        return await _content(result)
    plain = await _plain(result)
    if method == _UPLOAD:
        plain = _file_object(plain, form)
    elif method == "run_file_list" and not isinstance(plain, dict):
        plain = _page(plain)
    if not isinstance(plain, dict):
        raise PipelineError(f"{method} returned {type(result).__name__}: return a dict", traceback="")
    return JSONResponse(plain)


async def _plain(result: Any) -> Any:
    """*result* as JSON has it; of a generator the list of its items."""
    try:
        return from_json(encode(await collect(result) if isinstance(result, Stream) else result))
    except TypeError as error:
        raise PipelineError(str(error), traceback="") from error


def _file_object(plain: Any, form: FormData) -> Any:
    """OpenAI's file object: what the wrapper returned, a dict or an id, and what it left out as it came."""
    if plain is None or isinstance(plain, str):
        plain = {"id": plain} if plain else {}
    if not isinstance(plain, dict):
        return plain
    file = form["file"]
    assert isinstance(file, UploadFile)
    known = {
        "id": f"file-{uuid.uuid4().hex}",
        "object": "file",
        "bytes": file.size,
        "created_at": int(time.time()),
        "filename": file.filename,
        "purpose": form["purpose"],
    }
    return {**known, **plain}


def _page(files: Any) -> Any:
    """A list of file objects as the one page that there is."""
    if not isinstance(files, list | None):
        return files
    ids = [file.get("id") for file in files or () if isinstance(file, dict)]
    return {
        "object": "list",
        "data": files or [],
        "has_more": False,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }


async def _content(result: Any) -> Response:
    match result:
        case bytes() | bytearray() | memoryview():
            return Response(bytes(result), media_type="application/octet-stream")
        case str():
            return Response(result, media_type="text/plain")
        case PathLike() if await anyio.Path(result).is_file():
            return FileResponse(result)
        case Stream():
            return TextStreamResponse(result)
    message = f"run_file_content returned {result!r}: return bytes, text, the path of a file, or a response"
    raise PipelineError(message, traceback="")


_FILE_OBJECT = object_schema(
    ["id"],
    id={"type": "string"},
    object={"type": "string"},
    bytes={"type": ["integer", "null"]},
    created_at={"type": ["integer", "null"], "description": "Unix seconds."},
    filename={"type": ["string", "null"]},
    purpose={"type": ["string", "null"]},
)

_LIST = object_schema(
    ["data"],
    object={"type": "string"},
    data={"type": "array"},
    has_more={"type": "boolean"},
    first_id={"type": ["string", "null"]},
    last_id={"type": ["string", "null"]},
)

_FORM = object_schema(
    ["file", "purpose"],
    file={"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"},
    purpose={"type": "string", "minLength": 1, "examples": ["user_data"], "description": "What the file is for."},
    model={"type": "string", "description": "The pipeline that is to keep it, where several keep files."},
)

_MODEL = parameter("model", "The pipeline that keeps them, where several keep files.", "query")
_FILE_ID = parameter("file_id", "The file's id.")


def _docs_if(deployment: Deployment, name: str) -> Callable[[], OperationDocs] | None:
    operation = deployment.operation(name)
    return None if operation is None else partial(_docs, _DOCS[name], operation)


def _docs(docs: OperationDocs, operation: Operation) -> OperationDocs:
    """*docs* with what a wrapper's *operation* says of itself, and without the choice of a wrapper."""
    parameters = tuple(given for given in docs.parameters if given is not _MODEL)
    return replace(
        docs,
        summary=operation.summary or docs.summary,
        description=operation.description,
        parameters=parameters,
    )


def _described(name: str, summary: str, content: Mapping[str, Schema], **more: Any) -> OperationDocs:
    return OperationDocs(
        name=name,
        summary=summary,
        tag=OPENAI,
        answers=pipeline_responses(response_object("What the pipeline says", content), 404, 501, body="body" in more),
        schemas={"File": _FILE_OBJECT},
        **more,
    )


_DOCS: Mapping[str, OperationDocs] = {
    _UPLOAD: _described("upload_file", "Upload a file", {JSON: ref("File")}, body={FORM: _FORM}),
    "run_file_list": _described(
        "list_files",
        "The files",
        {JSON: _LIST},
        parameters=(
            _MODEL,
            parameter("purpose", "Only files for this.", "query"),
            parameter("after", "Only files after the one of this id.", "query"),
            parameter("limit", "How many at most.", "query", type="integer", minimum=0),
            parameter("order", "By date, `asc` or `desc`.", "query"),
        ),
    ),
    "run_file_retrieve": _described("retrieve_file", "One file", {JSON: ref("File")}, parameters=(_FILE_ID, _MODEL)),
    "run_file_delete": _described(
        "delete_file",
        "Delete a file",
        {JSON: object_schema(id={"type": "string"}, object={"type": "string"}, deleted={"type": "boolean"})},
        parameters=(_FILE_ID, _MODEL),
    ),
    "run_file_content": _described("download_file", "What is in a file", {"*/*": {}}, parameters=(_FILE_ID, _MODEL)),
}
