"""The API pages: ``/openapi.json`` and ``.yaml`` of the live generation, ``/docs`` and ``/redoc`` to read it.

``/{name}/schema`` has the JSON schemas of one deployment for programs. The pages load nothing from other hosts and use
relative URLs: they work behind a proxy's prefix and where the application is mounted. They need no API key, but ask
their reader for one before they ask for the document.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from hayhooks._version import __version__
from hayhooks.errors import NotFoundError, shortened
from hayhooks.http.access import PublicRoute
from hayhooks.http.cached_body import CachedBody
from hayhooks.http.compute import compute_once
from hayhooks.http.context import deployment_of, switch_of
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.kernel.threads import server_threads
from hayhooks.openapi.describe import (
    JSON,
    DocumentedRoute,
    OperationDocs,
    error_responses,
    object_schema,
    response_object,
)
from hayhooks.openapi.document import (
    HEAD,
    document_of,
    json_body,
    request_fields,
    schema_of,
    yaml_body,
)

_YAML = "application/yaml"

# The pages need scripts, styles made at run time, and a worker for the search index of ReDoc.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)

_YEAR_S = 365 * 24 * 3600


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the document, made on its first request and kept for the generation, and the pages."""
    bodies = _Bodies()

    async def as_json(request: Request) -> Response:
        return (await bodies.get(request, JSON)).respond(request, JSON)

    async def as_yaml(request: Request) -> Response:
        return (await bodies.get(request, _YAML)).respond(request, _YAML)

    yield DocumentedRoute("/openapi.json", as_json, {"GET": lambda: _docs("openapi", JSON)})
    yield DocumentedRoute("/openapi.yaml", as_yaml, {"GET": lambda: _docs("openapi_yaml", _YAML)})
    for page in (_SWAGGER, _REDOC):
        yield PublicRoute(page.path, page.html)
        yield PublicRoute(f"{page.path}/{{file}}", page.file)


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve ``/schema``."""

    async def schema(request: Request) -> Response:
        deployment = deployment_of(request.scope)
        body = await compute_once(deployment, "openapi.schema", partial(schema_of, deployment))
        return body.respond(request, JSON)

    yield DocumentedRoute("/schema", schema, {"GET": lambda: _SCHEMA_DOCS}, listed=False)


class _Bodies:
    """The bodies of one generation's document: each is made once, in a thread, for all that ask at the same time."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._document: dict[str, Any] | None = None
        self._last: dict[str, tuple[dict[str, Any], CachedBody]] = {}  # by media type: the request's fields, the body

    async def get(self, request: Request, media_type: str) -> CachedBody:
        encode_document = json_body if media_type == JSON else yaml_body
        if "openapi" in vars(request.app):  # the application's own, which may give another one each time
            switch = switch_of(request.scope)
            live = switch.live
            body = await server_threads.run(lambda: encode_document(request.app.openapi()))
            if switch.live is not live:  # what the function keeps may describe the generation before
                request.app.openapi_schema = None
            return body
        # The fields that depend on the request; they seldom differ, so one body of each type is kept.
        fields = request_fields(request.scope.get("root_path", ""))
        async with self._lock:
            if self._document is None:
                describe = partial(document_of, has_keys=request.app.settings.has_keys)
                self._document = await server_threads.run(describe, switch_of(request.scope).live)
            if media_type not in self._last or self._last[media_type][0] != fields:
                document = {**HEAD, **fields, **self._document}
                self._last[media_type] = fields, await server_threads.run(encode_document, document)
            return self._last[media_type][1]


# ------------------------------------------------------------------------------------------------ the pages


@dataclass(frozen=True, slots=True)
class _Page:
    """A page that shows the document: HTML, the files it loads, and our script that starts it."""

    path: str
    files: Mapping[str, str]  # of offapi, and "start.js" -> the tags that load them, in order
    start: str
    style: str = ""

    async def html(self, request: Request) -> Response:
        """Answer with the page, at a path without slashes at its end: its links are relative."""
        raw_path = request.scope.get("raw_path", b"")
        if slashes := len(raw_path) - len(raw_path.rstrip(b"/")):
            return RedirectResponse("../" * slashes + self.path[1:])
        tags = "".join(self.files.values()).replace("DIR", self.path[1:]).replace("VERSION", _version())
        body = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>hayhooks API</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
            f'<style>body {{ margin: 0 }}\n{self.style}</style>{tags}</head><body><div id="page">'
            '<noscript>This page needs JavaScript; it shows <a href="openapi.yaml">openapi.yaml</a>.</noscript>'
            "</div></body></html>\n"
        )
        return Response(body, media_type="text/html", headers={"Content-Security-Policy": _POLICY, **_SAFE})

    async def file(self, request: Request) -> Response:
        """Answer with one of the files, to be cached for good: the URL has the version."""
        name = request.path_params["file"]
        headers = {"Cache-Control": f"public, max-age={_YEAR_S}, immutable", **_SAFE}
        if name not in self.files:
            raise NotFoundError(f"the page {self.path} has no file {shortened(name)!r}")
        if name == "start.js":
            content = (_KEY_SCRIPT + self.start).replace("VERSION", _version()).encode()
        else:
            content = await server_threads.run((_assets() / name).read_bytes)
            content = _FOREIGN.sub(b"data:,", content)
        media_type = "text/css" if name.endswith(".css") else "text/javascript"
        return Response(content, media_type=media_type, headers=headers)


# What ReDoc would ask its maker for: a logo, icons, and a place for telemetry.
_FOREIGN = re.compile(rb"https://(?:cdn\.redoc(?:\.ly|ly\.com)|otel\.cloud\.redocly\.com)/[^`'\"]*")


def _version() -> str:
    return f"{version_of('offapi')}-{__version__}"


_SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def _assets() -> Path:
    """Find offapi's files. It is not imported: that would read all of them, 9 MB, into memory."""
    spec = find_spec("offapi")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


# The scripts find the document next to the page. Its reader types the key: it is kept in the page, and nowhere else.
_KEY_SCRIPT = """\
const url = new URL("openapi.json", location.href).href;
const page = document.getElementById("page");
const headers = {};

function askForKey(message) {
  page.innerHTML = `<form style="font: 16px sans-serif; margin: 4em auto; width: max-content"><p></p>
    <label>API key <input type="password" autocomplete="current-password" pattern="[!-~]+" required autofocus></label>
    <button>Show the API</button></form>`;
  page.querySelector("p").textContent = message;
  return new Promise((resolve) => {
    page.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      resolve(page.querySelector("input").value);
      page.replaceChildren();
    });
  });
}

for (let message = "This server needs an API key.", answer; ; message = "The API key is not valid.") {
  answer = await fetch(url, { method: "HEAD", headers });
  if (answer.status !== 401) break;
  headers.Authorization = `Bearer ${await askForKey(message)}`;
}

"""

_SWAGGER = _Page(
    "/docs",
    {
        "swagger_style.css": '<link rel="stylesheet" href="DIR/swagger_style.css?VERSION">',
        "swagger_bundle.js": '<script src="DIR/swagger_bundle.js?VERSION" defer></script>',
        "start.js": '<script type="module" src="DIR/start.js?VERSION"></script>',
    },
    """\
// The example of an error opens at a click on its line: twelve of them would hide the operation.
const FoldedErrors = ({ React: { createElement } }) => ({
  wrapComponents: {
    modelExample: (ModelExample) => (props) => {
      const path = props.specPath?.toJS() ?? [];
      const example = createElement(ModelExample, props);
      if (!/^([45]|default)/.test(path[path.indexOf("responses") + 1])) return example;
      return createElement("details", { className: "error" }, createElement("summary", null, "example"), example);
    },
  },
});

SwaggerUIBundle({
  plugins: [FoldedErrors],
  url,
  dom_id: "#page",
  deepLinking: true,
  filter: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
  requestInterceptor(request) {
    const isOurs = new URL(request.url, location.href).origin === location.origin;
    if (isOurs) request.headers = { ...headers, ...request.headers };
    return request;
  },
});
""",
    # A folded error is one line: its meaning, and the word to click.
    """\
.swagger-ui tr.response:has(details.error) > td { padding-top: 4px }
td > .response-col_description__inner:has(~ details.error) { float: left; margin-right: 1em }
td > .response-controls:has(~ details.error), details.error:not([open]) ~ .headers-wrapper { display: none }
details.error > summary { color: #4a6fa5; cursor: pointer; font-size: 12px; line-height: 22px }
details.error > .model-example { clear: both }
.swagger-ui .opblock-body pre.microlight { max-height: 300px }
""",
)

_REDOC = _Page(
    "/redoc",
    {"redoc.js": "", "start.js": '<script type="module" src="DIR/start.js?VERSION"></script>'},
    """\
import { init } from "./redoc.js?VERSION";

const answer = await fetch(url, { headers });
init(await answer.json(), { disableTelemetry: true }, page);
""",
)


def _docs(name: str, kind: str) -> OperationDocs:
    return OperationDocs(
        name=name,
        summary="This document",
        description="It describes the pipelines that are served now. `/docs` and `/redoc` show it.",
        answers={
            "200": response_object("An OpenAPI 3.1 document", {kind: {"type": "object"}}),
            "304": response_object("Not modified: `If-None-Match` names it"),
            **error_responses(),
        },
    )


_SCHEMA_DOCS = OperationDocs(
    name="schema",
    summary="The JSON schemas of this pipeline",
    description="Request and response of each operation by content type; each schema is self-contained.",
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
        "304": response_object("Not modified: `If-None-Match` names it"),
        **error_responses(404),
    },
)
