"""The measured work, shared by the wrappers and the bare applications.

Each benchmarked wrapper has a copy of this file in its folder, and bench_limits.py imports it.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NotRequired

from pydantic import BaseModel
from typing_extensions import TypedDict


class Shout(TypedDict):
    """The arguments of small requests."""

    text: str
    times: NotRequired[int]


class Article(BaseModel):
    """An object in large requests."""

    number: int
    title: str
    price: float
    tags: list[str]
    in_stock: bool = True


def shout(text: str, times: int = 1) -> str:
    return text.upper() + "!" * times


def discounted(articles: list[Article]) -> list[Article]:
    for article in articles:
        article.price *= 0.5
    return articles


def nap(text: str) -> str:
    time.sleep(0.1)
    return text


def count_down(text: str) -> str:
    """Compute for about 0.1 s in pure Python."""
    number = 2_000_000
    while number:
        number -= 1
    return text


def prompting() -> Any:
    """Return a small pipeline: one component that fills a template."""
    from haystack import Pipeline  # noqa: PLC0415 - a late import, for the wrappers without Haystack
    from haystack.components.builders import PromptBuilder  # noqa: PLC0415 - as above

    pipeline = Pipeline()
    pipeline.add_component("prompt", PromptBuilder("{{ text | upper }}{{ '!' * times }}"))
    return pipeline


def prompted(pipeline: Any, text: str, times: int = 1) -> str:
    prompt: str = pipeline.run({"prompt": {"text": text, "times": times}})["prompt"]["prompt"]
    return prompt


# Streams: the last message holds the number of words and the pause before each as JSON, "[1000, 0]".


def wanted(messages: list[dict[str, Any]]) -> tuple[int, float]:
    count, pause_s = json.loads(messages[-1]["content"])
    return count, pause_s


def words(count: int, pause_s: float) -> Iterator[str]:
    for number in range(count):
        if pause_s:
            time.sleep(pause_s)
        yield f"word{number} "


async def words_async(count: int, pause_s: float) -> AsyncIterator[str]:
    for number in range(count):
        if pause_s:
            await asyncio.sleep(pause_s)
        yield f"word{number} "


def speaking() -> Any:
    """Return a pipeline whose only component streams words like a chat generator."""
    from haystack import Pipeline, component  # noqa: PLC0415 - a late import, for the wrappers without Haystack
    from haystack.dataclasses import StreamingChunk  # noqa: PLC0415 - as above

    @component
    class Speaker:
        @component.output_types(text=str)
        def run(
            self, count: int, pause_s: float, streaming_callback: Callable[[StreamingChunk], None] | None = None
        ) -> dict[str, str]:
            for word in words(count, pause_s):
                if streaming_callback:
                    streaming_callback(StreamingChunk(content=word))
            return {"text": ""}

    pipeline = Pipeline()
    pipeline.add_component("speaker", Speaker())
    return pipeline
