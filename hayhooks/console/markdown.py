"""``POST /console/markdown``: Markdown as HTML that a page may show, whoever wrote the Markdown."""

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from hayhooks.errors import RefusedError
from hayhooks.http.request_json import read_json
from hayhooks.kernel.state import Snapshot
from hayhooks.kernel.threads import server_threads
from hayhooks.openapi.describe import (
    JSON,
    DocumentedRoute,
    OperationDocs,
    error_responses,
    object_schema,
    response_object,
)

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_MAX_CHARACTERS = 100_000  # rendering them takes a tenth of a second


class _Text(BaseModel):
    text: str


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/console/markdown``."""

    async def markdown(request: Request) -> Response:
        try:
            text = (await read_json(request.scope, request.receive, _Text.model_validate_json)).text
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise HTTPException(400, f'the body must be {{"text": "Markdown"}}: {problem}') from None
        if len(text) > _MAX_CHARACTERS:
            raise RefusedError(413, f"the text has {len(text):,} characters; at most {_MAX_CHARACTERS:,} are rendered")
        return JSONResponse({"html": await server_threads.run(render, text)})

    yield DocumentedRoute("/console/markdown", markdown, {"POST": lambda: _DOCS})


def render(text: str) -> str:
    """Render *text*: HTML in it is shown as text, an image as a link, and a link to anything but a page as text."""
    return str(_renderer().render(text))


@cache
def _renderer() -> "MarkdownIt":
    from markdown_it import MarkdownIt  # noqa: PLC0415 - only an open console needs it
    from markdown_it.rules_core import StateCore  # noqa: PLC0415 - the same

    def set_attributes(state: StateCore) -> None:
        for token in state.tokens:
            token.attrs.pop("style", None)  # the alignment of a table's cells: the page's policy forbids inline styles
            for link in token.children or ():
                if link.type == "link_open":
                    link.attrs |= {"target": "_blank", "rel": "noopener noreferrer"}

    renderer = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")
    renderer.validateLink = lambda url: re.match("(?:https?|mailto):", url, re.IGNORECASE) is not None  # type: ignore[method-assign]
    renderer.core.ruler.push("set_attributes", set_attributes)
    return renderer


_DOCS = OperationDocs(
    name="markdown",
    summary="Markdown as HTML",
    description=(
        "HTML in the text is escaped, images become links, links open in a window of their own, and those that are not "
        "to http, https or mailto are left as text."
    ),
    body={JSON: object_schema(["text"], text={"type": "string", "maxLength": _MAX_CHARACTERS})},
    answers={
        "200": response_object("The HTML", {JSON: object_schema(["html"], html={"type": "string"})}),
        **error_responses(400, 413, body=True),
    },
)
