"""OpenAI Files: ``/v1/files``, and ``/{name}/files`` for those of one wrapper.

Without a name in the path, ``model`` in the form or the query chooses among several such wrappers.
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

from hayhooks.errors import OpenAIError, PipelineError, shortened
from hayhooks.http.api_keys import may_call
from hayhooks.http.canary import choose
from hayhooks.http.context import context_of, switch_of
from hayhooks.http.disconnect import cancel_on_disconnect
from hayhooks.http.dispatch import serve_with_lease
from hayhooks.http.forms import content_type, form_of
from hayhooks.http.invoke import collect, invoke
from hayhooks.http.json import encode
from hayhooks.http.lookup import model_not_served_error, wait_for_deployment
from hayhooks.http.responses import TextStreamResponse
from hayhooks.http.stream import Stream
from hayhooks.http.user_code import log_failure
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.kernel.threads import server_threads
from hayhooks.openapi.describe import (
    FORM,
    JSON,
    OPENAI,
    DocumentedRoute,
    OperationDocs,
    Schema,
    error_response,
    object_schema,
    parameter,
    pipeline_responses,
    ref,
    response_object,
)

_UPLOAD = "run_file_upload"
_MAX_DIGITS = 18  # of a number in a query

# Path, then HTTP method -> the wrapper's.
_PATHS: Mapping[str, Mapping[str, str]] = {
    "/files": {"POST": _UPLOAD, "GET": "run_file_list"},
    "/files/{file_id}": {"GET": "run_file_retrieve", "DELETE": "run_file_delete"},
    "/files/{file_id}/content": {"GET": "run_file_content"},
}


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the paths on which ``model`` may choose the wrapper."""
    for path, methods in _PATHS.items():
        yield Route(path, FilesRoute(methods), methods=list(methods))
        docs = {http_method: partial(_DOCS.__getitem__, name) for http_method, name in methods.items()}
        yield DocumentedRoute(f"/v1{path}", FilesRoute(methods), docs)


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve the same paths for one wrapper; 501 for methods that it does not have."""

    def docs_of(method: str) -> Callable[[], OperationDocs] | None:
        operation = deployment.operation(method)
        if operation is None:
            return None
        docs = _DOCS[method]
        return lambda: replace(
            docs,
            summary=operation.summary or docs.summary,
            description=operation.description,
            parameters=tuple(parameter for parameter in docs.parameters if parameter is not _MODEL),
            body={FORM: _FORM_WITHOUT_MODEL} if docs.body else {},  # the path names the model
        )

    for path, methods in _PATHS.items():
        docs = {http_method: docs_of(name) for http_method, name in methods.items()}
        shown = deployment.operation(*methods.values()) is not None
        yield DocumentedRoute(path, FilesRoute(methods, deployment), docs, shown=shown)


class FilesRoute:
    """ASGI app of one path; it holds lease and upload until the answer's last byte."""

    def __init__(self, methods: Mapping[str, str], deployment: Deployment | None = None) -> None:
        self._methods = methods
        self._deployment = deployment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: choose the deployment, call its method, send the result."""
        request = Request(scope, receive)
        method = self._methods["GET" if request.method == "HEAD" else request.method]
        await _refuse_if_none_can(request, method, self._deployment)
        async with AsyncExitStack() as stack:
            form = FormData()
            if method == _UPLOAD:
                form = await stack.enter_async_context(form_of(request))
                if not isinstance(form.get("file"), UploadFile):
                    message = "'file' must be a file, in a form of type multipart/form-data"
                    if content_type(request.headers) != "multipart/form-data":
                        message += f"; the request's type is {shortened(content_type(request.headers)) or 'missing'}"
                    raise OpenAIError(400, message, param="file")
                for name in ("purpose", "model"):
                    if not isinstance(form.get(name, ""), str):
                        raise OpenAIError(400, f"'{name}' must be a string", param=name)
                if not form.get("purpose"):
                    message = "'purpose' is required: what the file is for, as 'user_data'"
                    raise OpenAIError(400, message, param="purpose")
            model = _model_of(request, form, self._deployment)
            if self._deployment is not None:  # dispatch has taken the lease
                await _handle(self._deployment, method, form, scope, receive, send)
            else:
                deployment = await _find_deployment(scope, method, model)
                handle = partial(_handle, deployment, method, form)
                await serve_with_lease(deployment, handle, scope, receive, send)


def _model_of(request: Request, form: FormData, deployment: Deployment | None) -> Any:
    """Return the model that the request names; raise OpenAIError if it names several."""
    named = [deployment.name] if deployment is not None else []
    named += [str(model) for model in (*form.getlist("model"), *request.query_params.getlist("model")) if model]
    for model in named:
        if model != named[0]:
            where = f"the path names {named[0]!r}" if deployment is not None else f"it is also {shortened(named[0])!r}"
            raise OpenAIError(400, f"'model' is {shortened(model)!r}, but {where}", param="model")
    return named[0] if named else None


async def _refuse_if_none_can(request: Request, method: str, deployment: Deployment | None) -> None:
    """Refuse a request that no wrapper can answer, before a file is read for it."""
    # In a function of its own, so that the request does not keep the snapshot alive.
    snapshot = switch_of(request.scope).live.snapshot
    if deployment is None and not snapshot.ready:
        return
    if any(method in each.operations for each in ([deployment] if deployment else snapshot.deployments.values())):
        return
    with suppress(ClientDisconnect):
        async for _ in request.stream():  # a client that is still sending would not see the answer
            pass
    raise _not_implemented(method, deployment)


def _not_implemented(method: str, deployment: Deployment | None = None) -> OpenAIError:
    who = f"The pipeline {deployment.name!r} does not implement" if deployment else "No pipeline implements"
    return OpenAIError(501, f"{who} {method}", code="not_implemented", retry=False)


def _several_store_files(names: str) -> OpenAIError:
    return OpenAIError(400, f"Several pipelines store files: name one of {names} as 'model'", param="model")


def _no_such_file(file_id: str) -> OpenAIError:
    return OpenAIError(404, f"No such file: {shortened(file_id)!r}", param="file_id", code="file_not_found")


async def _find_deployment(scope: Scope, method: str, model: Any) -> Deployment:
    """Return the deployment *model*, or the only one that implements *method*."""
    # Nothing may be awaited between the look at the snapshot and the lease.
    if model:
        deployment = await wait_for_deployment(scope, model)
        if deployment is None:
            raise model_not_served_error(switch_of(scope).live.snapshot, model)
        if method not in deployment.operations:
            raise _not_implemented(method, deployment)
        return deployment
    snapshot = switch_of(scope).live.snapshot
    key, served = context_of(scope).api_key, snapshot.deployments.values()
    able = [each for each in served if method in each.operations and may_call(key, each.name)]
    if len(able) == 1:
        chosen = choose(scope, snapshot, able[0].name)
        return chosen if chosen is not None and method in chosen.operations else able[0]
    if able:
        names = ", ".join(deployment.name for deployment in able)
        raise _several_store_files(names)
    if not snapshot.ready:
        raise OpenAIError(503, "The pipelines are being loaded for the first time", type="server_error")
    raise _not_implemented(method)


async def _handle(
    deployment: Deployment, method: str, form: FormData, scope: Scope, receive: Receive, send: Send
) -> None:
    operation, request = deployment.operations[method], Request(scope, receive)
    arguments: dict[str, Any]
    if method == _UPLOAD:
        file = form["file"]
        assert isinstance(file, UploadFile)
        arguments = {
            "file": file,
            "filename": file.filename,
            "content_type": file.content_type,
            "purpose": form["purpose"],
            "body": {name: value for name, value in form.items() if name != "file"},
        }
        # The content is all of the file in memory: it is read only for a method that takes it.
        if "content" in operation.parameters or (operation.takes_any and "file" not in operation.parameters):
            arguments["content"] = await server_threads.run(file.file.read)
            file.file.seek(0)
    else:  # file_id in the path; after, limit, order and purpose of a list in the query
        arguments = {**request.query_params, **request.path_params, "model": deployment.name}
        if "limit" in arguments:
            if not arguments["limit"].isdecimal() or len(arguments["limit"]) > _MAX_DIGITS:
                message = f"'limit' must be a number of at most {_MAX_DIGITS} digits"
                raise OpenAIError(400, message, param="limit")
            arguments["limit"] = int(arguments["limit"])
    arguments = operation.accepted({"model": deployment.name, **arguments})
    if operation.wants_headers:
        arguments["headers"] = request.headers
    try:
        response = await cancel_on_disconnect(receive, invoke(deployment, operation, arguments))
        if not isinstance(response, Response):
            response = await _response(method, response, form, request)
    except PipelineError as error:
        log_failure(error, f"{deployment.name}: {method} failed", operation)
        raise OpenAIError(500, str(error), type="server_error", retry=False) from error
    await response(scope, receive, send)


async def _response(method: str, result: Any, form: FormData, request: Request) -> Response:
    file_id = request.path_params.get("file_id")
    if method == "run_file_delete" and (result is None or result is True):
        result = {"id": file_id, "object": "file", "deleted": True}
    if file_id is not None and (result is None or result is False):
        raise _no_such_file(file_id)
    if method == "run_file_content":
        return await _content_response(result)
    try:
        plain = from_json(encode(await collect(result) if isinstance(result, Stream) else result))
    except TypeError as error:
        raise PipelineError(str(error), traceback="") from None
    if method == _UPLOAD:
        if plain is None or isinstance(plain, str):
            plain = {"id": plain} if plain else {}
        if isinstance(plain, dict):
            file = form["file"]
            assert isinstance(file, UploadFile)
            from_form = {
                "id": f"file-{uuid.uuid4().hex}",
                "object": "file",
                "bytes": file.size,
                "created_at": int(time.time()),
                "filename": file.filename,
                "purpose": form["purpose"],
            }
            plain = {**from_form, **plain}
    elif method == "run_file_list" and isinstance(plain, list | None):
        ids = [file.get("id") for file in plain or () if isinstance(file, dict)]
        first, last = (ids[0], ids[-1]) if ids else (None, None)
        plain = {"object": "list", "data": plain or [], "has_more": False, "first_id": first, "last_id": last}
    if not isinstance(plain, dict):
        raise PipelineError(f"{method} returned {type(result).__name__}: return a dict", traceback="")
    return JSONResponse(plain)


async def _content_response(result: Any) -> Response:
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


# ------------------------------------------------------------------------------------------------ API pages

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
    # API pages send the example unless it is empty.
    model={
        "type": "string",
        "description": "The pipeline that stores it, where several store files.",
        "examples": [""],
    },
)

_FORM_WITHOUT_MODEL = {
    **_FORM,
    "properties": {name: field for name, field in _FORM["properties"].items() if name != "model"},
}

_MODEL = parameter("model", "The pipeline that stores them, where several store files.", "query")
_FILE_ID = parameter("file_id", "The file's id.")


def _operation_docs(method: str, name: str, summary: str, content: Mapping[str, Schema], **more: Any) -> OperationDocs:
    answers = pipeline_responses(response_object("What the pipeline returns", content), 404, 501, body="body" in more)
    answers["501"] = error_response(501, _not_implemented(method).body(), "No pipeline implements it")
    answers["400"] = error_response(400, _several_store_files("docs, scans").body())
    if _FILE_ID in more.get("parameters", ()):
        answers["404"] = error_response(404, _no_such_file("file-1").body(), "There is no such file")
    return OperationDocs(
        name=name,
        summary=summary,
        tag=OPENAI,
        answers=answers,
        schemas={"File": _FILE_OBJECT},
        **more,
    )


_DOCS: Mapping[str, OperationDocs] = {
    _UPLOAD: _operation_docs(_UPLOAD, "upload_file", "Upload a file", {JSON: ref("File")}, body={FORM: _FORM}),
    "run_file_list": _operation_docs(
        "run_file_list",
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
    "run_file_retrieve": _operation_docs(
        "run_file_retrieve", "retrieve_file", "One file", {JSON: ref("File")}, parameters=(_FILE_ID, _MODEL)
    ),
    "run_file_delete": _operation_docs(
        "run_file_delete",
        "delete_file",
        "Delete a file",
        {JSON: object_schema(id={"type": "string"}, object={"type": "string"}, deleted={"type": "boolean"})},
        parameters=(_FILE_ID, _MODEL),
    ),
    "run_file_content": _operation_docs(
        "run_file_content", "download_file", "The content of a file", {"*/*": {}}, parameters=(_FILE_ID, _MODEL)
    ),
}
