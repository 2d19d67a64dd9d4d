"""``POST /console/difference``: what two answers have in common, word by word."""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import takewhile
from operator import eq

from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

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

_MAX_CHARACTERS = 100_000  # of a text
_MAX_WORDS = 1_500  # that differ in a text; more are one difference
_WORD = re.compile(r"\s+|\w+|[^\s\w]")


class _Texts(BaseModel):
    before: str = Field(max_length=_MAX_CHARACTERS)
    after: str = Field(max_length=_MAX_CHARACTERS)


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/console/difference``."""

    async def difference(request: Request) -> Response:
        try:
            texts = await read_json(request.scope, request.receive, _Texts.model_validate_json)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, problem["loc"])) or "the body"
            raise HTTPException(
                400, f'the body must be {{"before": text, "after": text}}: {where}: {problem["msg"]}'
            ) from None
        runs = await server_threads.run(lambda: list(compare(texts.before, texts.after)))
        return JSONResponse({"runs": [{"kind": kind, "text": text} for kind, text in runs]})

    yield DocumentedRoute("/console/difference", difference, {"POST": lambda: _DOCS})


def compare(before: str, after: str) -> Iterator[tuple[str, str]]:
    """Yield both texts as runs of words, each with its kind: "same", "removed" or "added"."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    middle, new_middle = old[start : len(old) - end], new[start : len(new) - end]
    codes: Sequence[tuple[str, int, int, int, int]] = [("replace", 0, len(middle), 0, len(new_middle))]
    if max(len(middle), len(new_middle)) <= _MAX_WORDS:
        codes = SequenceMatcher(None, middle, new_middle).get_opcodes()
    runs = [("same", old[:start])]
    for code, first, last, new_first, new_last in codes:
        if code == "equal":
            runs.append(("same", middle[first:last]))
        else:
            runs += [("removed", middle[first:last]), ("added", new_middle[new_first:new_last])]
    runs.append(("same", old[len(old) - end :]))
    return ((kind, "".join(words)) for kind, words in runs if words)


def _common(old: list[str], new: list[str]) -> int:
    return sum(1 for _ in takewhile(bool, map(eq, old, new)))


_DOCS = OperationDocs(
    name="difference",
    summary="The difference of two texts",
    description=(
        "Word by word: the runs that are not `added` make up the text `before`, those that are not `removed` the text "
        "`after`."
    ),
    body={
        JSON: object_schema(
            ["before", "after"],
            before={"type": "string", "maxLength": _MAX_CHARACTERS},
            after={"type": "string", "maxLength": _MAX_CHARACTERS},
        )
    },
    answers={
        "200": response_object(
            "The runs of words",
            {
                JSON: object_schema(
                    ["runs"],
                    runs={
                        "type": "array",
                        "items": object_schema(
                            ["kind", "text"], kind={"enum": ["same", "removed", "added"]}, text={"type": "string"}
                        ),
                    },
                )
            },
        ),
        **error_responses(400, body=True),
    },
)
