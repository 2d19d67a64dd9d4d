"""``/draw/{name}``: pipelines as Mermaid text or as SVG."""

from collections.abc import Iterator

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from hayhooks.drawing.graph import Graph, graphs
from hayhooks.drawing.mermaid import mermaid
from hayhooks.errors import NotFoundError, PipelineError, safe_str, shortened
from hayhooks.http.compute import compute_once
from hayhooks.http.context import switch_of
from hayhooks.http.lookup import not_served_error
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.openapi.describe import TEXT, DocumentedRoute, OperationDocs, error_responses, parameter, response_object

_SVG = "image/svg+xml"

# A drawing contains names from the user's code. Whatever they hold, a browser runs and loads nothing.
_HEADERS = {
    "Vary": "Accept",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/draw/{name}``; drawings are cached with their deployment."""

    async def draw(request: Request) -> Response:
        name = request.path_params["name"]
        wanted = request.query_params.get("format")
        if wanted not in (None, "mermaid", "svg"):
            raise HTTPException(400, f"'format' must be 'mermaid' or 'svg', not {shortened(wanted)!r}")
        deployment = snapshot.deployments.get(name)
        if deployment is None:
            raise not_served_error(switch_of(request.scope).live.snapshot, name)
        if deployment.endpoints.forward_to is not None:
            forward: Response = deployment.endpoints.forward_to  # an ASGI app, which is all that Starlette asks for
            return forward
        drawn = await _graphs_of(deployment)
        if wanted == "svg" or (wanted is None and _SVG in request.headers.get("accept", "")):
            return Response(await _svg_of(deployment, drawn), media_type=_SVG, headers=_HEADERS)
        text = await compute_once(deployment, "draw.mermaid", lambda: mermaid(drawn))
        return Response(text, media_type=TEXT, headers=_HEADERS)

    yield DocumentedRoute("/draw/{name}", draw, {"GET": lambda: _DOCS})


async def _graphs_of(deployment: Deployment) -> list[Graph]:
    try:
        drawn = await compute_once(deployment, "draw.graphs", lambda: graphs(deployment.wrapper))
    # The user's components and tools are asked for their names, and may raise anything.
    except Exception as error:
        raise PipelineError(f"it cannot be drawn: {type(error).__name__}: {safe_str(error)}", traceback="") from error
    if not drawn:
        raise NotFoundError(f"{deployment.name!r} has no Haystack pipeline or agent among its attributes to draw")
    return drawn


async def _svg_of(deployment: Deployment, drawn: list[Graph]) -> bytes:
    def draw() -> bytes:
        from hayhooks.drawing.svg import svg  # noqa: PLC0415 - networkx takes long to import, and is loaded with Haystack

        return svg(deployment.name, drawn)

    try:
        return await compute_once(deployment, "draw.svg", draw)
    except ValueError as error:
        raise HTTPException(501, f"this is too large for SVG; ask with ?format=mermaid ({error})") from error


_DOCS = OperationDocs(
    name="draw",
    summary="A drawing of a pipeline",
    description="Mermaid text; SVG where `Accept` or `format` ask for it.",
    parameters=(
        parameter("name", "The pipeline's name."),
        parameter("format", "Else `Accept` decides.", "query", enum=["mermaid", "svg"]),
    ),
    answers={
        "200": response_object("The drawing", {TEXT: {"type": "string"}, _SVG: {"type": "string"}}),
        **error_responses(404, 501, 503),
    },
)
