"""``/draw/{name}``: a deployment's pipelines as Mermaid text, or as SVG where a renderer is installed."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from hayhooks.errors import NotFoundError, PipelineError, safe_str
from hayhooks.http.context import switch_of
from hayhooks.http.lookup import not_served_error
from hayhooks.kernel.haystack_hooks import pipelines
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.openapi.describe import TEXT, DocumentedRoute, OperationDocs, error_responses, parameter, response_object

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
            raise not_served_error(switch_of(request.scope).live.snapshot, name)
        text = await _kept(deployment)
        if wanted == "svg" or (wanted is None and _SVG in request.headers.get("accept", "")):
            return Response(await _drawn(deployment, text), media_type=_SVG, headers=_HEADERS)
        return Response(text, media_type=TEXT, headers=_HEADERS)

    yield DocumentedRoute("/draw/{name}", draw, {"GET": lambda: _DOCS})


async def _kept(deployment: Deployment) -> str:
    made = deployment.runtime.cache
    if _TEXT_KEY not in made:
        try:
            made[_TEXT_KEY] = await asyncio.to_thread(mermaid, deployment.wrapper)
        # It asks the user's components and tools for their names.
        except Exception as error:
            raise PipelineError(f"it cannot be drawn: {safe_str(error)}", traceback="") from error
    text: str = made[_TEXT_KEY]
    if not text:
        raise NotFoundError(f"{deployment.name!r} has no Haystack pipeline or agent among its attributes to draw")
    return text


async def _drawn(deployment: Deployment, text: str) -> bytes:
    made = deployment.runtime.cache
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


# Drawing. Not by Haystack's own `draw`: it asks a remote service, and puts names into the text as they are.

_LONGEST_LABEL = 200  # characters

_PLAIN = frozenset(" .,:_-+/()[]→")


def mermaid(wrapper: Any) -> str:
    """The Haystack pipelines and agents among the attributes of *wrapper*, as one flowchart.

    Returns:
        Mermaid's text: components, their connections with names and types, what comes in and what goes out; a frame
        with the attribute's name around each, where there are several. "" if there are none.
    """
    drawn = {id(pipeline) for pipeline in pipelines(wrapper)}
    found = {id(value): (name, value) for name, value in reversed(vars(wrapper).items()) if id(value) in drawn}
    named = list(reversed(found.values()))  # the first name of each
    lines = []
    for index, (name, pipeline) in enumerate(named):
        body = list(_Flowchart(f"p{index}", pipeline).lines())
        if len(named) > 1:
            body = [f"subgraph p{index}[{_label(name)}]", *(f"  {line}" for line in body), "end"]
        lines += body
    return "\n".join(["flowchart TD", *(f"  {line}" for line in lines), ""]) if lines else ""


def svg(text: str) -> bytes:
    """The SVG of Mermaid's *text*, at least 3 ms of work; without scripts, links and foreign objects.

    To be called in one and the same thread: the renderer keeps an engine of some megabytes for each.

    Raises:
        ImportError: no renderer is installed.
        ValueError: the renderer cannot draw it; the message says why.
    """
    from mermaid_render import mermaid_to_svg  # noqa: PLC0415 - an extra

    drawn: bytes = mermaid_to_svg(text)
    return drawn


class _Flowchart:
    """One pipeline or agent; *prefix* keeps its nodes apart from others'."""

    def __init__(self, prefix: str, pipeline: Any) -> None:
        self._prefix = prefix
        self._pipeline = pipeline
        self._ids: dict[str, str] = {}  # of the components: their names may be anything

    def lines(self) -> Iterator[str]:
        """The statements, without indentation."""
        if not hasattr(self._pipeline, "graph"):
            yield f"{self._prefix}[{_label(type(self._pipeline).__name__)}]"
            yield from self._agent(self._prefix, self._pipeline)
            return
        for index, (name, component) in enumerate(self._pipeline.walk()):
            node = self._ids[name] = f"{self._prefix}_{index}"
            yield f"{node}[{_label(name, type(component).__name__)}]"
            yield from self._agent(node, component)
        yield from self._inputs()
        yield from self._connections()
        yield from self._outputs()

    def _connections(self) -> Iterator[str]:
        for sender, receiver, data in self._pipeline.graph.edges(data=True):
            names = dict.fromkeys([data["from_socket"].name, data["to_socket"].name])
            label = _label(f"{' → '.join(names)}: {data['conn_type']}")
            arrow = "-->" if data["mandatory"] else "-.->"
            yield f"{self._ids[sender]} {arrow}|{label}| {self._ids[receiver]}"

    def _inputs(self) -> Iterator[str]:
        """What has to be given; of a component that nothing else leads to, what can be."""
        fed = {receiver for _, receiver in self._pipeline.graph.edges()}
        yield from self._outside("in", "input")
        for name, sockets in self._pipeline.inputs().items():
            needed = {socket: data["type"] for socket, data in sockets.items() if data["is_mandatory"]}
            arrow, shown = ("-->", needed) if needed else ("-.->", {s: data["type"] for s, data in sockets.items()})
            if needed or name not in fed:
                yield f"{self._prefix}_in {arrow}|{_sockets(shown)}| {self._ids[name]}"

    def _outputs(self) -> Iterator[str]:
        yield from self._outside("out", "output")
        for name, sockets in self._pipeline.outputs().items():
            shown = {socket: data["type"] for socket, data in sockets.items()}
            yield f"{self._ids[name]} -->|{_sockets(shown)}| {self._prefix}_out"

    def _outside(self, node: str, text: str) -> Iterator[str]:
        if self._ids:
            yield f"{self._prefix}_{node}([{_label(text)}])"

    def _agent(self, node: str, component: Any) -> Iterator[str]:
        """What an Agent works with."""
        generator = getattr(component, "chat_generator", None)
        if generator is None or not hasattr(component, "tools"):
            return
        yield f"{node} --- {node}_llm([{_label(type(generator).__name__)}])"
        for index, tool in enumerate(_tools(component.tools)):
            yield f"{node} --- {node}_t{index}[/{_label(tool)}/]"


def _tools(tools: Any) -> Iterator[str]:
    """The names of an agent's tools; a list of toolsets is possible too."""
    for tool in tools if isinstance(tools, Iterable) else ():
        if hasattr(tool, "name"):
            yield str(tool.name)
        else:
            yield from _tools(tool)


def _sockets(types: dict[str, Any]) -> str:
    return _label(*(f"{name}: {_type_name(type_)}" for name, type_ in types.items()))


def _type_name(type_: Any) -> str:
    name = type_.__name__ if isinstance(type_, type) and not hasattr(type_, "__args__") else str(type_)
    return re.sub(r"(?:\w+\.)+(?=\w)", "", name).replace("NoneType", "None")


def _label(*lines: str) -> str:
    """A quoted text of these *lines*, in which nothing means anything to Mermaid or HTML."""
    return '"' + "<br/>".join(_escaped(line) for line in lines) + '"'


def _escaped(text: str) -> str:
    if len(text) > _LONGEST_LABEL:
        text = text[: _LONGEST_LABEL - 3] + "..."
    return "".join(c if c.isalnum() or c in _PLAIN else f"#{ord(c)};" if c.isprintable() else " " for c in text)
