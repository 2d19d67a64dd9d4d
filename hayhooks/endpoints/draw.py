"""``/draw/{name}``: pipelines as Mermaid text, or as SVG with the extra ``draw``.

Haystack's own ``draw`` is not used: it asks a remote service, and does not escape names.
"""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from hayhooks.errors import NotFoundError, PipelineError, safe_str, shortened
from hayhooks.http.compute import compute_once
from hayhooks.http.context import switch_of
from hayhooks.http.lookup import not_served_error
from hayhooks.kernel.haystack_hooks import pipelines
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.kernel.threads import DaemonThreadPool
from hayhooks.openapi.describe import TEXT, DocumentedRoute, OperationDocs, error_responses, parameter, response_object

_SVG = "image/svg+xml"

# A drawing contains names from the user's code. Whatever a renderer makes of them, a browser runs and loads nothing.
_HEADERS = {
    "Vary": "Accept",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
}

# One thread, started on first use: the renderer keeps an engine of some megabytes for each thread that calls it.
_render_threads = DaemonThreadPool("draw", limit=1, stuck_after_s=5.0)


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
        text = await _mermaid_of(deployment)
        if wanted == "svg" or (wanted is None and _SVG in request.headers.get("accept", "")):
            return Response(await _svg_of(deployment, text), media_type=_SVG, headers=_HEADERS)
        return Response(text, media_type=TEXT, headers=_HEADERS)

    yield DocumentedRoute("/draw/{name}", draw, {"GET": lambda: _DOCS})


async def _mermaid_of(deployment: Deployment) -> str:
    try:
        text = await compute_once(deployment, "draw.text", partial(mermaid, deployment.wrapper))
    # The user's components and tools are asked for their names, and may raise anything.
    except Exception as error:
        raise PipelineError(f"it cannot be drawn: {type(error).__name__}: {safe_str(error)}", traceback="") from error
    if not text:
        raise NotFoundError(f"{deployment.name!r} has no Haystack pipeline or agent among its attributes to draw")
    return text


async def _svg_of(deployment: Deployment, text: str) -> bytes:
    try:
        _render_threads.tick()  # a drawing of thousands of components may take long
        return await compute_once(deployment, "draw.svg", partial(svg, text), _render_threads)
    except ImportError:
        message = "no renderer for SVG is installed: pip install mermaid-render, or ask with ?format=mermaid"
        raise HTTPException(501, message) from None
    except ValueError as error:
        raise HTTPException(501, f"the renderer cannot draw this; ask with ?format=mermaid ({error})") from error


_DOCS = OperationDocs(
    name="draw",
    summary="A drawing of a pipeline",
    description="Mermaid text; SVG where `Accept` or `format` ask for it and a renderer is installed.",
    parameters=(
        parameter("name", "The pipeline's name."),
        parameter("format", "Else `Accept` decides.", "query", enum=["mermaid", "svg"]),
    ),
    answers={
        "200": response_object("The drawing", {TEXT: {"type": "string"}, _SVG: {"type": "string"}}),
        **error_responses(404, 501, 503),
    },
)


# ------------------------------------------------------------------------------------------------ Mermaid

_MAX_LABEL = 200  # characters

_PLAIN = frozenset(" .,:_-+/()[]→")


def mermaid(wrapper: Any) -> str:
    """Draw the pipelines and agents of *wrapper* as one Mermaid flowchart, "" if none.

    Each of several pipelines is in a frame with its attribute's name.
    """
    ids = {id(pipeline) for pipeline in pipelines(wrapper)}
    by_id = {id(value): (name, value) for name, value in reversed(vars(wrapper).items()) if id(value) in ids}
    named = list(reversed(by_id.values()))  # each with its first name
    lines = []
    for index, (name, pipeline) in enumerate(named):
        body = list(_Flowchart(f"p{index}", pipeline).lines())
        if len(named) > 1:
            body = [f"subgraph p{index}[{_label(name)}]", *(f"  {line}" for line in body), "end"]
        lines += body
    return "\n".join(["flowchart TD", *(f"  {line}" for line in lines), ""]) if lines else ""


def svg(text: str) -> bytes:
    """Render Mermaid's *text* as SVG, or raise ``ImportError`` without a renderer."""
    from mermaid_render import mermaid_to_svg  # noqa: PLC0415 - an extra

    image: bytes = mermaid_to_svg(text)
    return image


class _Flowchart:
    """The statements of one pipeline or agent; all node ids begin with *prefix*."""

    def __init__(self, prefix: str, pipeline: Any) -> None:
        self._prefix = prefix
        self._pipeline = pipeline
        self._ids: dict[str, str] = {}  # by component name, which may be any text

    def lines(self) -> Iterator[str]:
        """Yield the statements without indentation."""
        if not hasattr(self._pipeline, "graph"):
            yield f"{self._prefix}[{_label(type(self._pipeline).__name__)}]"
            yield from self._agent(self._prefix, self._pipeline)
            return
        for index, (name, component) in enumerate(self._pipeline.walk()):
            node = self._ids[name] = f"{self._prefix}_{index}"
            yield f"{node}[{_label(name, type(component).__name__)}]"
            yield from self._agent(node, component)
        if not self._ids:
            return
        yield f"{self._prefix}_in([{_label('input')}])"
        # Only mandatory inputs are drawn; of a component that has none and that no other feeds, the optional ones.
        fed = {receiver for _, receiver in self._pipeline.graph.edges()}
        for name, sockets in self._pipeline.inputs().items():
            needed = {socket: data["type"] for socket, data in sockets.items() if data["is_mandatory"]}
            arrow, shown = ("-->", needed) if needed else ("-.->", {s: data["type"] for s, data in sockets.items()})
            if needed or name not in fed:
                yield f"{self._prefix}_in {arrow}|{_sockets(shown)}| {self._ids[name]}"
        for sender, receiver, data in self._pipeline.graph.edges(data=True):
            names = dict.fromkeys([data["from_socket"].name, data["to_socket"].name])
            label = _label(f"{' → '.join(names)}: {data['conn_type']}")
            arrow = "-->" if data["mandatory"] else "-.->"
            yield f"{self._ids[sender]} {arrow}|{label}| {self._ids[receiver]}"
        yield f"{self._prefix}_out([{_label('output')}])"
        for name, sockets in self._pipeline.outputs().items():
            shown = {socket: data["type"] for socket, data in sockets.items()}
            yield f"{self._ids[name]} -->|{_sockets(shown)}| {self._prefix}_out"

    def _agent(self, node: str, component: Any) -> Iterator[str]:
        """Yield the nodes of an Agent's generator and tools."""
        generator = getattr(component, "chat_generator", None)
        if generator is None or not hasattr(component, "tools"):
            return
        yield f"{node} --- {node}_llm([{_label(type(generator).__name__)}])"
        for index, tool in enumerate(_tools(component.tools)):
            yield f"{node} --- {node}_t{index}[/{_label(tool)}/]"


def _tools(tools: Any) -> Iterator[str]:
    """Yield the names of an agent's tools; *tools* may be a list of toolsets."""
    for tool in tools if isinstance(tools, Iterable) else ():
        if hasattr(tool, "name"):
            yield str(tool.name)
        else:
            yield from _tools(tool)


def _sockets(types: dict[str, Any]) -> str:
    lines = []
    for name, type_ in types.items():
        text = type_.__name__ if isinstance(type_, type) and not hasattr(type_, "__args__") else str(type_)
        text = re.sub(r"(?:\w+\.)+(?=\w)", "", text).replace("NoneType", "None")
        lines.append(f"{name}: {text}")
    return _label(*lines)


def _label(*lines: str) -> str:
    """Quote *lines* so that no character has a meaning in Mermaid or HTML."""
    quoted = []
    for line in lines:
        text = line if len(line) <= _MAX_LABEL else line[: _MAX_LABEL - 3] + "..."
        quoted.append(
            "".join(c if c.isalnum() or c in _PLAIN else f"#{ord(c)};" if c.isprintable() else " " for c in text)
        )
    return '"' + "<br/>".join(quoted) + '"'
