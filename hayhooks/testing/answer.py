"""The answer of a chat, in one form whether it was streamed or not."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import httpx


@dataclass(slots=True)
class ChatAnswer:
    """What a client gets of one answer; ``str()`` is its text."""

    response: httpx.Response = field(repr=False)
    text: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)  # those that the client is to make
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)  # for the UI: status, source, ...
    chunks: list[dict[str, Any]] = field(default_factory=list, repr=False)  # of a stream; empty for a whole answer

    @classmethod
    def of(cls, response: httpx.Response) -> Self:
        """Read a chat completion."""
        body = response.json()
        answer = cls(response, usage=body.get("usage"), events=body.get("events") or [])
        answer._add(body["choices"][0], body["choices"][0]["message"])
        return answer

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The data of the events of type ``source``."""
        return [event["data"] for event in self.events if event.get("type") == "source"]

    def __str__(self) -> str:
        return self.text

    def add(self, chunk: dict[str, Any]) -> None:
        """Add a chunk of a stream."""
        self.chunks.append(chunk)
        self.usage = chunk.get("usage") or self.usage
        if "event" in chunk:
            self.events.append(chunk["event"])
        for choice in chunk["choices"]:
            self._add(choice, choice["delta"])

    def _add(self, choice: dict[str, Any], delta: dict[str, Any]) -> None:
        self.text += delta.get("content") or ""
        self.reasoning += delta.get("reasoning_content") or ""
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        for position, call in enumerate(delta.get("tool_calls") or ()):
            index = call.get("index", position)
            if index == len(self.tool_calls):  # a copy: `chunks` has them as they came
                named = {key: value for key, value in call.items() if key != "index"}
                self.tool_calls.append({**named, "function": {**call["function"]}})
            else:  # the arguments come in pieces
                self.tool_calls[index]["function"]["arguments"] += call["function"]["arguments"]


def chunks_of(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a stream, and what has an ``error`` in their place."""
    for line in response.iter_lines():
        data = line.removeprefix("data: ")
        if data != line and data != "[DONE]":
            yield json.loads(data)
