"""The API pages: ``/openapi.json`` and ``.yaml`` of the live generation, ``/docs`` and ``/redoc`` to read it.

And ``/{name}/schema``, the JSON schemas of one deployment for programs. The pages load nothing from elsewhere, and find
everything by relative URLs: they work behind a proxy's prefix and where the application is mounted.
"""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hayhooks._version import __version__
from hayhooks.errors import NotFoundError
from hayhooks.http.context import deployment_of, switch_of
from hayhooks.http.json import encode
from hayhooks.http.switch import Generation
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.openapi.describe import (
    JSON,
    DocumentedRoute,
    OperationDocs,
    error_responses,
    object_schema,
    response_object,
)
from hayhooks.openapi.document import CachedBody, Document, document_of, schema_of

_YAML = "application/yaml"

# What the pages need: they are scripts, their styles are made at run time, and the search index of ReDoc is a worker.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)

_SCHEMA_KEY = "openapi.schema"  # among what was made of a deployment

_YEAR_S = 365 * 24 * 3600


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the document, made once for a generation when somebody first asks, and the pages."""
    made = _Made()

    async def as_json(request: Request) -> Response:
        document = await made.document(switch_of(request.scope).live)
        return _respond(request, document.json(_seen_by(request)), JSON)

    async def as_yaml(request: Request) -> Response:
        document = await made.document(switch_of(request.scope).live)
        return _respond(request, await made.yaml(document, _seen_by(request)), _YAML)

    yield DocumentedRoute("/openapi.json", as_json, {"GET": lambda: _docs("openapi", JSON)})
    yield DocumentedRoute("/openapi.yaml", as_yaml, {"GET": lambda: _docs("openapi_yaml", _YAML)})
    for page in (_SWAGGER, _REDOC):
        yield Route(page.path, page.html)
        yield Route(f"{page.path}/{{file}}", page.file)


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve ``/schema``."""

    async def schema(request: Request) -> Response:
        deployment = deployment_of(request.scope)
        made = deployment.runtime.cache
        if _SCHEMA_KEY not in made:
            made[_SCHEMA_KEY] = await asyncio.to_thread(schema_of, deployment)
        return _respond(request, made[_SCHEMA_KEY], JSON)

    yield DocumentedRoute("/schema", schema, {"GET": lambda: _SCHEMA_DOCS}, listed=False)


class _Made:
    """What has been made of one generation: each at most once, in a thread, however many ask at the same time."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._document: Document | None = None
        self._yaml: dict[bytes, CachedBody] = {}

    async def document(self, generation: Generation) -> Document:
        async with self._lock:
            if self._document is None:
                self._document = await asyncio.to_thread(document_of, generation)
            return self._document

    async def yaml(self, document: Document, own: bytes) -> CachedBody:
        async with self._lock:
            if own not in self._yaml:
                self._yaml = {own: await asyncio.to_thread(document.yaml, own)}  # root paths seldom differ
            return self._yaml[own]


def _seen_by(request: Request) -> bytes:
    """What the document says to *request* alone: where it found the server, and whether that asks for a key."""
    has_keys = request.app.settings.has_keys
    return encode(
        {
            "servers": [{"url": request.scope.get("root_path", "") or "/"}],
            "security": [{"bearerAuth": []}] if has_keys else [{}, {"bearerAuth": []}],
        }
    )


def _respond(request: Request, text: CachedBody, media_type: str) -> Response:
    """*text*, or only "not modified" to who has it already."""
    headers = {"ETag": text.etag, "Cache-Control": "no-cache"}
    if text.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(text.body, headers=headers, media_type=media_type)


# ------------------------------------------------------------------------------------------------ the pages


@dataclass(frozen=True, slots=True)
class _Page:
    """One way to read the document: a page, and the script of ours that starts what it loads."""

    path: str
    files: Mapping[str, str]  # of offapi, and "start.js": the tags that load them, in order
    start: str

    async def html(self, request: Request) -> Response:
        """Answer with the page."""
        tags = "".join(self.files.values()).replace("DIR", self.path[1:]).replace("VERSION", _version())
        body = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>hayhooks API</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
            f'<style>body {{ margin: 0 }}</style>{tags}</head><body><div id="page"><noscript>This page needs '
            'JavaScript; what it shows is <a href="openapi.yaml">openapi.yaml</a>.</noscript></div></body></html>\n'
        )
        return Response(body, media_type="text/html", headers={"Content-Security-Policy": _POLICY, **_SAFE})

    async def file(self, request: Request) -> Response:
        """Answer with one of the files; their URLs change with their versions."""
        name = request.path_params["file"]
        headers = {"Cache-Control": f"public, max-age={_YEAR_S}, immutable", **_SAFE}
        if name not in self.files:
            raise NotFoundError(f"the page {self.path} has no file {name!r}")
        if name == "start.js":
            content = self.start.replace("VERSION", _version()).encode()
        else:
            content = await anyio.Path(_assets(), name).read_bytes()
        media_type = "text/css" if name.endswith(".css") else "text/javascript"
        return Response(content, media_type=media_type, headers=headers)


def _version() -> str:
    """Of the files and of ours, as a part of their URLs."""
    return f"{version_of('offapi')}-{__version__}"


_SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def _assets() -> Path:
    """Where offapi's files lie. It is not imported: that would read all of them, 9 MB, into memory."""
    spec = find_spec("offapi")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


# The document lies beside the page, wherever that is.
_SWAGGER = _Page(
    "/docs",
    {
        "swagger_style.css": '<link rel="stylesheet" href="DIR/swagger_style.css?VERSION">',
        "swagger_bundle.js": '<script src="DIR/swagger_bundle.js?VERSION" defer></script>',
        "start.js": '<script src="DIR/start.js?VERSION" defer></script>',
    },
    """\
SwaggerUIBundle({
  url: new URL("openapi.json", location.href).href,
  dom_id: "#page",
  deepLinking: true,
  filter: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
});
""",
)

_REDOC = _Page(
    "/redoc",
    {"redoc.js": "", "start.js": '<script type="module" src="DIR/start.js?VERSION"></script>'},
    """\
import { init } from "./redoc.js?VERSION";

const options = { disableTelemetry: true };
init(new URL("openapi.json", location.href).href, options, document.getElementById("page"));
""",
)


def _docs(name: str, kind: str) -> OperationDocs:
    return OperationDocs(
        name=name,
        summary="This document",
        description="Of what is served at the moment. `/docs` and `/redoc` show it.",
        answers={
            "200": response_object("An OpenAPI 3.1 document", {kind: {"type": "object"}}),
            "304": response_object("It is the one that `If-None-Match` names"),
            **error_responses(),
        },
    )


_SCHEMA_DOCS = OperationDocs(
    name="schema",
    summary="The JSON schemas of this pipeline",
    description="For each operation what it takes and gives, by content type; each schema stands for itself.",
    answers={
        "200": response_object(
            "The operations",
            {
                JSON: object_schema(
                    ["name", "description", "operations"],
                    name={"type": "string"},
                    description={"type": "string"},
                    operations={
                        "type": "array",
                        "items": object_schema(
                            ["method", "path", "request", "response"],
                            method={"type": "string"},
                            path={"type": "string"},
                            summary={"type": "string"},
                            description={"type": "string"},
                            request={"type": "object", "description": "JSON schemas by content type."},
                            response={"type": "object", "description": "JSON schemas by content type."},
                        ),
                    },
                )
            },
        ),
        "304": response_object("It is the one that `If-None-Match` names"),
        **error_responses(404),
    },
)
