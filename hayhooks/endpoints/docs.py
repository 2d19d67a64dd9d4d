"""The API pages: ``/openapi.json`` and ``.yaml`` of the live generation, ``/docs`` and ``/redoc`` to read it.

And ``/{name}/schema``, the JSON schemas of one deployment for programs. The pages load nothing from elsewhere, and find
everything by relative URLs: they work behind a proxy's prefix and where the application is mounted.
"""

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import yaml
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hayhooks.encode import encode
from hayhooks.errors import NotFoundError, sendable
from hayhooks.kernel.snapshot import Deployment, Snapshot
from hayhooks.openapi import (
    JSON,
    OPENAI,
    RESPONSES,
    SERVER,
    SHARED,
    Described,
    Docs,
    Part,
    alone,
    answer,
    errors,
    obj,
    part,
)
from hayhooks.router import Generation, deployment_of, switch_of
from hayhooks.version import __version__

_YAML = "application/yaml"

# What the pages need: they are scripts, their styles are made at run time, and the search index of ReDoc is a worker.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes what occurs twice twice: an alias would be lost in a document that is put together of parts."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


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

    yield Described("/openapi.json", as_json, {"GET": lambda: _docs("openapi", JSON)})
    yield Described("/openapi.yaml", as_yaml, {"GET": lambda: _docs("openapi_yaml", _YAML)})
    for page in (_SWAGGER, _REDOC):
        yield Route(page.path, page.html)
        yield Route(f"{page.path}/{{file}}", page.file)


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve ``/schema``."""

    async def schema(request: Request) -> Response:
        deployment = deployment_of(request.scope)
        made = deployment.endpoints.made
        if _SCHEMA_KEY not in made:
            made[_SCHEMA_KEY] = await asyncio.to_thread(_schema, deployment)
        return _respond(request, made[_SCHEMA_KEY], JSON)

    yield Described("/schema", schema, {"GET": lambda: _SCHEMA_DOCS}, listed=False)


# ------------------------------------------------------------------------------------------------ the document


_ENCODED_KEY, _SCHEMA_KEY = "openapi.encoded", "openapi.schema"


@dataclass(frozen=True, slots=True)
class _Text:
    """A body that is ready to be sent."""

    body: bytes
    etag: str


@dataclass(frozen=True)
class _Encoded:
    """A part as JSON, and when somebody asks as YAML, ready to be joined with others."""

    paths: bytes  # the items of an object, without its braces
    schemas: Mapping[str, bytes]
    tag: bytes

    @cached_property
    def yaml(self) -> tuple[str, Mapping[str, str]]:
        """Paths and schemas, indented as they stand in the document."""
        paths = from_json(b"{" + self.paths + b"}")
        schemas = {
            name: _below({name: from_json(schema)}, "components", "schemas") for name, schema in self.schemas.items()
        }
        return _below(paths, "paths") if paths else "", schemas


@dataclass(frozen=True, slots=True)
class _Document:
    """The document, but for what depends on the request: that is the items of another JSON object, *own*."""

    head: bytes
    tail: bytes
    parts: Sequence[_Encoded]  # what it was made of
    digest: str

    def json(self, own: bytes) -> _Text:
        """The document as JSON."""
        return _Text(self.head + own[1:-1] + self.tail, f'"{self.digest}{_digest(own)}"')

    def yaml(self, own: bytes) -> _Text:
        """The document as YAML; put together of its parts, for all at once would take seconds for hundreds."""
        tags = from_json(b"[" + b",".join(each.tag for each in self.parts) + b"]")
        schemas: dict[str, str] = {}
        for each in self.parts:
            schemas.update(each.yaml[1])
        text = [
            _dumped({**_HEAD, **from_json(own), "tags": tags}),
            "paths:\n",
            *(each.yaml[0] for each in self.parts),
            _dumped({"components": _COMPONENTS}),
            "  schemas:\n",
            *(schemas[name] for name in sorted(schemas)),
        ]
        return _Text("".join(text).encode(), f'"{self.digest}{_digest(own)}y"')


def _seen_by(request: Request) -> bytes:
    """What the document says to *request* alone: where it found the server, and whether that asks for a key."""
    has_keys = request.app.settings.has_keys
    return encode(
        {
            "servers": [{"url": request.scope.get("root_path", "") or "/"}],
            "security": [{"bearerAuth": []}] if has_keys else [{}, {"bearerAuth": []}],
        }
    )


class _Made:
    """What has been made of one generation: each at most once, in a thread, however many ask at the same time."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._document: _Document | None = None
        self._yaml: dict[bytes, _Text] = {}

    async def document(self, generation: Generation) -> _Document:
        async with self._lock:
            if self._document is None:
                self._document = await asyncio.to_thread(_document, generation)
            return self._document

    async def yaml(self, document: _Document, own: bytes) -> _Text:
        async with self._lock:
            if own not in self._yaml:
                self._yaml = {own: await asyncio.to_thread(document.yaml, own)}  # root paths seldom differ
            return self._yaml[own]


_HEAD = {
    "openapi": "3.1.0",
    "info": {
        "title": "hayhooks",
        "version": __version__,
        "description": "Haystack pipelines and agents, as REST endpoints and as models of OpenAI's API.",
    },
}

_COMPONENTS = {
    "responses": RESPONSES,
    "securitySchemes": {"bearerAuth": {"type": "http", "scheme": "bearer", "description": "One of the API keys."}},
}

_TAGS = (
    {"name": OPENAI, "description": "For OpenAI's clients; pipelines are models."},
    {"name": SERVER, "description": "What is served, and how it is."},
)


def _document(generation: Generation) -> _Document:
    deployments = generation.snapshot.deployments.values()
    of_server = part(generation.router.routes)
    server = _encoded(Part(of_server.paths, {**SHARED, **of_server.schemas}), *_TAGS)
    parts = [*(_encoded_part(deployment) for deployment in deployments), server]
    schemas: dict[str, bytes] = {}
    for each in parts:
        schemas.update(each.schemas)
    head = encode(_HEAD)[:-1] + b","
    tail = b"".join(
        [
            b',"tags":[',
            b",".join(each.tag for each in parts),
            b'],"paths":{',
            b",".join(each.paths for each in parts if each.paths),
            b'},"components":',
            encode(_COMPONENTS)[:-1],
            b',"schemas":{',
            b",".join(encode(name) + b":" + schemas[name] for name in sorted(schemas)),
            b"}}}",
        ]
    )
    return _Document(head, tail, parts, _digest(head + tail))


def _encoded_part(deployment: Deployment) -> _Encoded:
    """The part of *deployment*, kept with it: a new generation describes only what is new in it."""
    made = deployment.endpoints.made
    if _ENCODED_KEY not in made:
        described = {"description": sendable(deployment.description)} if deployment.description else {}
        made[_ENCODED_KEY] = _encoded(_part(deployment), {"name": deployment.name, **described})
    encoded: _Encoded = made[_ENCODED_KEY]
    return encoded


def _part(deployment: Deployment) -> Part:
    return part(deployment.endpoints.router.routes, deployment.name)


def _encoded(described: Part, *tags: Mapping[str, str]) -> _Encoded:
    schemas = {component: encode(schema) for component, schema in described.schemas.items()}
    return _Encoded(encode(described.paths)[1:-1], schemas, b",".join(encode(tag) for tag in tags))


def _dumped(value: Any) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def _below(value: Any, *keys: str) -> str:
    """The YAML of *value* as it is below *keys*, each of them one line."""
    for key in reversed(keys):
        value = {key: value}
    return _dumped(value).split("\n", len(keys))[len(keys)]


def _schema(deployment: Deployment) -> _Text:
    """What ``/{name}/schema`` answers."""
    described = _part(deployment)
    components = {**SHARED, **described.schemas}
    operations = [
        {
            "method": method.upper(),
            "path": path,
            "summary": operation["summary"],
            "description": operation.get("description", ""),
            "request": _alone(operation.get("requestBody", {}), components),
            "response": _alone(operation["responses"]["200"], components),
        }
        for path, item in described.paths.items()
        for method, operation in item.items()
        if path != f"/{deployment.name}/schema"
    ]
    body = encode({"name": deployment.name, "description": sendable(deployment.description), "operations": operations})
    return _Text(body, f'"{_digest(body)}"')


def _alone(body: Mapping[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    """By content type, the schemas of a request's or response's body."""
    return {kind: alone(media["schema"], components) for kind, media in body.get("content", {}).items()}


def _respond(request: Request, text: _Text, media_type: str) -> Response:
    """*text*, or only "not modified" to who has it already."""
    headers = {"ETag": text.etag, "Cache-Control": "no-cache"}
    if text.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(text.body, headers=headers, media_type=media_type)


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=8).hexdigest()


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


def _docs(name: str, kind: str) -> Docs:
    return Docs(
        name=name,
        summary="This document",
        description="Of what is served at the moment. `/docs` and `/redoc` show it.",
        answers={
            "200": answer("An OpenAPI 3.1 document", {kind: {"type": "object"}}),
            "304": answer("It is the one that `If-None-Match` names"),
            **errors(),
        },
    )


_SCHEMA_DOCS = Docs(
    name="schema",
    summary="The JSON schemas of this pipeline",
    description="For each operation what it takes and gives, by content type; each schema stands for itself.",
    answers={
        "200": answer(
            "The operations",
            {
                JSON: obj(
                    ["name", "description", "operations"],
                    name={"type": "string"},
                    description={"type": "string"},
                    operations={
                        "type": "array",
                        "items": obj(
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
        "304": answer("It is the one that `If-None-Match` names"),
        **errors(404),
    },
)
