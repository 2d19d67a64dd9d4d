"""An agent that lets deployments of a server do the work: its tools come from ``/mcp`` there."""

import os

from haystack.components.agents import Agent
from haystack.components.generators import chat  # lazy: what is not used of it is not imported
from haystack.components.generators.chat.types import ChatGenerator
from haystack.dataclasses import ChatMessage
from haystack_integrations.tools.mcp import MCPToolset, StreamableHttpServerInfo

from hayhooks import BasePipelineWrapper

from .scripted_generator import ScriptedChatGenerator

TOOLS_URL = os.environ.get("TOOLS_URL", "http://127.0.0.1:1416/mcp")


class PipelineWrapper(BasePipelineWrapper):
    """Asks its colleagues."""

    def setup(self) -> None:
        self.colleagues = MCPToolset(StreamableHttpServerInfo(url=TOOLS_URL), tool_names=["agent"])
        self.pipeline = Agent(
            chat_generator=chat_generator(),
            tools=self.colleagues,
            system_prompt="You calculate nothing yourself: you ask your colleague, the tool agent.",
        )

    def teardown(self) -> None:
        self.colleagues.close()

    def run_api(self, question: str) -> str:
        """Answer one question.

        Args:
            question: what a colleague may know.
        """
        return self.pipeline.run(messages=[ChatMessage.from_user(question)])["last_message"].text


def chat_generator() -> ChatGenerator:
    if os.environ.get("OPENAI_API_KEY"):
        return chat.OpenAIChatGenerator(model=os.environ.get("OPENAI_MODEL", "gpt-5-mini"))
    return ScriptedChatGenerator()
