"""One server for all clients of a test process, with a model for everything that they do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live_server import LiveServer, replace, serving

MODELS = {
    "words": """
import asyncio
from haystack.dataclasses import StreamingChunk
from hayhooks import BasePipelineWrapper, get_last_user_message

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    async def run_chat_completion_async(self, model, messages, body):
        for word in ("You ", "said: ", get_last_user_message(messages)):
            await asyncio.sleep(0)
            yield StreamingChunk(word)
        yield StreamingChunk("", finish_reason="stop", meta={"usage": USAGE})

    async def run_response_async(self, model, input_items, body):
        return self.run_chat_completion_async(model, [{"role": "user", "content": "hello"}], body)
""",
    "tools": """
from haystack.dataclasses import ChatMessage, ToolCall
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_chat_completion(self, model, messages, body):
        if messages[-1]["role"] == "tool":
            return f"It is {messages[-1]['content']}."
        assert body["tools"][0]["function"]["name"] == "weather", body["tools"]
        return ChatMessage.from_assistant(tool_calls=[ToolCall("weather", {"city": "Berlin"}, "call_1")])

    def run_response(self, model, input_items, body):
        return ChatMessage.from_assistant(tool_calls=[ToolCall("weather", {"city": "Berlin"}, "call_1")])
""",
    "thinker": """
from haystack.dataclasses import ReasoningContent, StreamingChunk
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_chat_completion(self, model, messages, body):
        yield StreamingChunk("", reasoning=ReasoningContent("Let me think."), index=0)
        yield "Done."

    def run_response(self, model, input_items, body):
        return self.run_chat_completion(model, [], body)
""",
    "failing": """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    asked = 0

    def setup(self): pass

    def run_api(self) -> int:
        return self.asked

    def run_chat_completion(self, model, messages, body):
        self.asked += 1
        raise ValueError("no luck today")

    def run_response(self, model, input_items, body):
        raise ValueError("no luck today")
""",
    "midway": """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_chat_completion(self, model, messages, body):
        yield "So far "
        raise ValueError("no luck today")

    def run_response(self, model, input_items, body):
        yield "So far "
        raise ValueError("no luck today")
""",
    "keeper": """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.files = {}

    def run_file_upload(self, filename, content_type, content, purpose):
        id = f"file-{len(self.files) + 1}"
        self.files[id] = ({"id": id, "filename": filename, "bytes": len(content), "purpose": purpose}, content)
        return self.files[id][0]

    def run_file_list(self):
        return [{"object": "file", "created_at": 1, "status": "processed", **file} for file, _ in self.files.values()]

    def run_file_retrieve(self, file_id):
        file = self.files.get(file_id)
        return file and {"object": "file", "created_at": 1, "status": "processed", **file[0]}

    def run_file_content(self, file_id):
        file = self.files.get(file_id)
        return file and file[1]

    def run_file_delete(self, file_id):
        return self.files.pop(file_id, None) is not None
""",
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that serves ``MODELS``."""
    root: Path = tmp_path_factory.mktemp("models")
    for name, source in MODELS.items():
        replace(root / name / "pipeline_wrapper.py", source)
    with serving(root) as server:
        server.eventually(lambda: server.status()["pipelines"] == sorted(MODELS))
        yield server


@pytest.fixture(scope="session")
def base_url(models: LiveServer) -> str:
    """What clients are told."""
    return f"{models.url}/v1"
