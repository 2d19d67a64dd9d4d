"""Haystack components for tests, examples and templates."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from haystack import component
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage, StreamingCallbackT, StreamingChunk

_PAUSE_S = 0.02  # before each chunk, as if it had to think


@component
class Hello:
    """Return a greeting."""

    @component.output_types(output=str)
    def run(self, word: str = "world") -> dict[str, str]:
        """Greet *word*."""
        return {"output": f"Hello, {word}!"}


@component
class StandInChatGenerator:
    """Play a model, without network and key, until a real chat generator takes its place.

    Haystack's ``MockChatGenerator``, with pauses between the chunks of a stream, and the usage in the last one.
    """

    def __init__(self, reply: Callable[[list[ChatMessage]], str | ChatMessage]) -> None:
        self._model = MockChatGenerator(response_fn=reply, model="stand-in")

    @component.output_types(replies=list[ChatMessage])
    def run(
        self,
        messages: list[ChatMessage],
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        tools: Any = None,
    ) -> dict[str, list[ChatMessage]]:
        """Answer *messages*."""
        chunks, replies = self._answer(messages, generation_kwargs, tools)
        if streaming_callback is not None:
            for chunk in chunks:
                time.sleep(_PAUSE_S)
                streaming_callback(chunk)
        return {"replies": replies}

    @component.output_types(replies=list[ChatMessage])
    async def run_async(
        self,
        messages: list[ChatMessage],
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        tools: Any = None,
    ) -> dict[str, list[ChatMessage]]:
        """Answer *messages*; the callback may be a coroutine function."""
        chunks, replies = self._answer(messages, generation_kwargs, tools)
        if streaming_callback is not None:
            for chunk in chunks:
                await asyncio.sleep(_PAUSE_S)
                if (called := streaming_callback(chunk)) is not None:
                    await called
        return {"replies": replies}

    def _answer(
        self, messages: list[ChatMessage], generation_kwargs: dict[str, Any] | None, tools: Any
    ) -> tuple[list[StreamingChunk], list[ChatMessage]]:
        """Return the answer as chunks, the last with the usage, and as replies."""
        chunks: list[StreamingChunk] = []
        replies = self._model.run(messages, chunks.append, generation_kwargs, tools=tools)["replies"]
        meta = {**chunks[-1].meta, "usage": replies[-1].meta["usage"]}
        return [*chunks[:-1], replace(chunks[-1], meta=meta)], replies
