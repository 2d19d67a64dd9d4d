"""An agent with two tools that note themselves in LOG; its third model call is held."""

import os
import time
from pathlib import Path

from haystack import component
from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import tool
from pydantic import BaseModel

from hayhooks import BasePipelineWrapper, DurableContext

LOG: str
GATE: str


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    text: str
    attempt: int


def note(name: str) -> str:
    with open(LOG, "a") as file:
        file.write(f"{os.getpid()} {name}\n")
    while name == "held" and not Path(GATE).exists():
        time.sleep(0.02)
    return name


@tool
def look(word: str) -> str:
    """Look a word up."""
    return note(word)


@component
class Model:
    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], tools: list | None = None):
        results = [message.tool_call_result.result for message in messages if message.tool_call_result]
        note(["model", "model", "held"][len(results)])
        if len(results) == 2:
            return {"replies": [ChatMessage.from_assistant(" ".join(results))]}
        return {"replies": [ChatMessage.from_assistant(tool_calls=[ToolCall("look", {"word": "ab"[len(results)]})])]}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Agent(chat_generator=Model(), tools=[look])

    async def run_durable_async(self, context: DurableContext, request: Question) -> Answer:
        result = await context.run_agent_async(messages=[ChatMessage.from_user(request.text)])
        return Answer(text=result["last_message"].text, attempt=context.attempt)

    def run_api(self, text: str) -> str:
        return self.pipeline.run(messages=[ChatMessage.from_user(text)])["last_message"].text

    def run_response(self, model: str, input_items: list[dict], body: dict) -> str:
        return self.run_api("go")
