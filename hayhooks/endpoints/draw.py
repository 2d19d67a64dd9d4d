"""``/draw/{name}``: a deployment's pipelines as Mermaid text, or as SVG where a renderer is installed."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from hayhooks.drawing import mermaid, svg
from hayhooks.errors import NotFoundError, PipelineError, told
from hayhooks.kernel.snapshot import Deployment, Snapshot
from hayhooks.openapi import TEXT, Described, Docs, answer, errors, parameter
from hayhooks.router import missing

_SVG = "image/svg+xml"

_TEXT_KEY, _SVG_KEY = "draw.text", "draw.svg"

# Names in the drawing are the user's: whatever a renderer may make of them one day, nothing of it shall run or load.
_HEADERS = {
    "Vary": "Accept",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
}

_drawers = ThreadPoolExecutor(1, thread_name_prefix="draw")  # a thread is started when somebody first asks


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/draw/{name}``; what was drawn is kept with its deployment."""

    async def draw(request: Request) -> Response:
        name = request.path_params["name"]
        wanted = request.query_params.get("format")
        if wanted not in (None, "mermaid", "svg"):
            raise HTTPException(400, f"'format' is 'mermaid' or 'svg', and not {wanted!r}")
        deployment = snapshot.deployments.get(name)
        if deployment is None:
            raise missing(snapshot, name)
        text = await _kept(deployment)
        if wanted == "svg" or (wanted is None and _SVG in request.headers.get("accept", "")):
            return Response(await _drawn(deployment, text), media_type=_SVG, headers=_HEADERS)
        return Response(text, media_type=TEXT, headers=_HEADERS)

    yield Described("/draw/{name}", draw, {"GET": lambda: _DOCS})


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Nothing below a deployment."""
    return iter(())


async def _kept(deployment: Deployment) -> str:
    made = deployment.endpoints.made
    if _TEXT_KEY not in made:
        try:
            made[_TEXT_KEY] = await asyncio.to_thread(mermaid, deployment.wrapper)
        # It asks the user's components and tools for their names.
        except Exception as error:
            raise PipelineError(f"it cannot be drawn: {told(error)}", traceback="") from error
    text: str = made[_TEXT_KEY]
    if not text:
        raise NotFoundError(f"{deployment.name!r} has no Haystack pipeline or agent among its attributes to draw")
    return text


async def _drawn(deployment: Deployment, text: str) -> bytes:
    made = deployment.endpoints.made
    if _SVG_KEY not in made:
        try:
            made[_SVG_KEY] = await asyncio.get_running_loop().run_in_executor(_drawers, svg, text)
        except ImportError:
            message = "no renderer for SVG is installed: pip install mermaid-render, or ask with ?format=mermaid"
            raise HTTPException(501, message) from None
        except ValueError as error:
            raise HTTPException(501, f"the renderer cannot draw this; ask with ?format=mermaid ({error})") from error
    drawn: bytes = made[_SVG_KEY]
    return drawn


_DOCS = Docs(
    name="draw",
    summary="A drawing of a pipeline",
    description="Mermaid text; SVG where `Accept` or `format` ask for it and a renderer is installed.",
    parameters=(
        parameter("name", "The pipeline's name."),
        parameter("format", "Else `Accept` decides.", "query", enum=["mermaid", "svg"]),
    ),
    answers={
        "200": answer("The drawing", {TEXT: {"type": "string"}, _SVG: {"type": "string"}}),
        **errors(404, 501, 503),
    },
)
