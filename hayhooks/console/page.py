"""The console's page at ``/``, and the files it loads.

They need no API key and hold nothing of the deployments: the page asks for a key, and calls the public endpoints.
"""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute

from hayhooks.errors import NotFoundError, shortened
from hayhooks.http.access import PublicRoute
from hayhooks.http.cached_body import CachedBody
from hayhooks.kernel.state import Snapshot

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}

_MEDIA_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}

_PLACES = {"status": "/status", "docs": "/docs", "openapi": "/openapi.json", "models": "/v1/models"}


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/`` and ``/console/static/{file}``."""
    yield PublicRoute("/", _page)
    yield PublicRoute("/console/static/{file}", _static_file)


async def _page(request: Request) -> Response:
    """Answer a browser with the page, others with the places of the API."""
    if not request.app.settings.console:
        raise NotFoundError("nothing is served at /: HAYHOOKS_CONSOLE is false")
    if "text/html" in request.headers.get("accept", ""):
        path = request.scope["path"]
        if not path.endswith("/"):  # where the application is mounted: the page's links are relative
            return RedirectResponse(f"./{path.rpartition('/')[2]}/", headers={"Vary": "Accept"})
        return _respond(request, "index.html")
    root_path = request.scope.get("root_path", "")
    return JSONResponse({key: root_path + path for key, path in _PLACES.items()}, headers={"Vary": "Accept"})


async def _static_file(request: Request) -> Response:
    name = request.path_params["file"]
    if name not in _files() or not request.app.settings.console:
        raise NotFoundError(f"the console has no file {shortened(name)!r}")
    return _respond(request, name)


def _respond(request: Request, name: str) -> Response:
    media_type = _MEDIA_TYPES[name.rpartition(".")[2]]
    return _files()[name].respond(request, media_type, **_HEADERS)


@cache
def _files() -> dict[str, CachedBody]:
    static = files("hayhooks.console").joinpath("static")
    return {file.name: CachedBody(file.read_bytes()) for file in static.iterdir()}
