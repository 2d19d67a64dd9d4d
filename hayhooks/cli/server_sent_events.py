"""Server-sent events of an answer: read as https://html.spec.whatwg.org/multipage/server-sent-events.html says."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

_LINE_END = re.compile(r"\r\n|\n|\r(?!\Z)")  # a CR at the end of what has arrived may be half of a CRLF


class BrokenOffError(Exception):
    """The answer ended before its end; ``str()`` is the reason."""


def events(content: Iterable[bytes]) -> Iterator[str]:
    """Yield the data of each server-sent event in *content*; one of type ``error`` is the last."""
    kind, data = "", list[str]()
    for line in _split_lines(codecs.iterdecode(content, "utf-8-sig", errors="replace")):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            kind = value
        elif not line:
            if kind == "error":
                raise BrokenOffError(error_message("\n".join(data)))
            if data:
                yield "\n".join(data)
            kind, data = "", []


def _split_lines(texts: Iterable[str]) -> Iterator[str]:
    """Split *texts* as the standard of server-sent events does: after CR, LF or CRLF, and nowhere else."""
    rest = ""
    for text in texts:
        *lines, rest = _LINE_END.split(rest + text)
        yield from lines
    if rest.endswith("\r"):
        yield rest.removesuffix("\r")


def error_message(data: str) -> str:
    """Return the message in an error event's *data*: ``{"error": message}`` or ``{"error": {"message": message}}``."""
    error = json_or_text(data)
    error = error.get("error", error) if isinstance(error, dict) else data
    return str(error.get("message", error) if isinstance(error, dict) else error)


def json_or_text(text: str) -> Any:
    """Return the JSON value in *text*, or *text* itself if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text
