"""Shared by the tests of chat completions and of Responses: wrappers, clients that go away or read slowly."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.live_server import LiveServer, eventually

HEAD = """
import asyncio, json, time
from pathlib import Path

from haystack import Pipeline
from haystack.components.agents import Agent
from haystack.components.builders import ChatPromptBuilder
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage, ComponentInfo, ReasoningContent, StreamingChunk, ToolCall
from haystack.dataclasses.chat_message import ToolCallResult
from haystack.dataclasses.streaming_chunk import ToolCallDelta
from haystack.tools import tool

from hayhooks import BasePipelineWrapper, async_streaming_generator, get_last_user_message, streaming_generator


@tool
def add(a: int, b: int) -> int:
    '''Add two numbers.'''
    return a + b


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("llm", MockChatGenerator("one two three"))

    DEF
"""


@dataclass(frozen=True)
class Api:
    """One of the two APIs."""

    path: str
    other_paths: tuple[str, str]  # without /v1, and the path of the deployment "it"
    question: dict[str, Any]  # the field of the body
    argument: str  # of the methods
    method: str  # without _async
    text: Callable[[Any], str]  # of a whole answer

    @property
    def sync(self) -> str:
        """The head of a ``def`` method; its body follows, indented by four spaces."""
        return f"def {self.method}(self, model, {self.argument}, body):\n    "

    @property
    def asynchronous(self) -> str:
        """The head of an ``async def`` method."""
        return f"async def {self.method}_async(self, model, {self.argument}, body):\n    "

    @property
    def body(self) -> dict[str, Any]:
        """A request to the deployment "it"."""
        return {"model": "it", **self.question}

    def ask(self, server: LiveServer, path: str = "", **body: Any) -> Any:
        """Ask the deployment "it"."""
        return server.client.post(path or self.path, json={**self.body, **body})


CHAT = Api(
    "/v1/chat/completions",
    ("/chat/completions", "/it/chat"),
    {"messages": [{"role": "user", "content": "hello"}]},
    "messages",
    "run_chat_completion",
    lambda answer: answer["choices"][0]["message"]["content"],
)
RESPONSES = Api(
    "/v1/responses",
    ("/responses", "/it/responses"),
    {"input": "hello"},
    "input_items",
    "run_response",
    lambda answer: answer["output"][0]["content"][0]["text"],
)


def method(definition: str) -> str:
    return HEAD.replace("DEF", definition.replace("\n", "\n    "))


def leases(server: LiveServer) -> int:
    """How many leases of the deployment "it" are held."""
    return len(server.app.switch.live.snapshot.deployments["it"].runtime.leases.held)


@contextmanager
def asked(server: LiveServer, path: str, body: dict[str, Any], receive_buffer: int = 0) -> Iterator[socket.socket]:
    """A connection on which *body* has been posted; with a small *receive_buffer* the reader is felt soon."""
    content = json.dumps(body).encode()
    with server.connected(receive_buffer=receive_buffer) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        yield connection


def go_away(server: LiveServer, path: str, body: dict[str, Any], began: Path) -> None:
    """Ask, and close the connection when the work has begun."""
    with asked(server, path, body):
        eventually(began.exists)


def settled(path: Path) -> str:
    """What the file at *path* says when it no longer changes."""
    before, same = "", 0
    while same < 50:
        now = path.read_text()  # "" while it is being written
        before, same = now, same + 1 if now and now == before else 0
        time.sleep(0.01)
    return before
