"""A chat with all that a UI shows: a status, reasoning, a notification, a source, and a text."""

from haystack.dataclasses import ReasoningContent, StreamingChunk

from hayhooks import BasePipelineWrapper, default_on_tool_call_end
from hayhooks.toolkit.events import create_notification_event, create_source_event, create_status_event


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_chat_completion(self, model, messages, body):
        question = messages[-1]["content"]
        yield create_status_event("Searching")
        yield StreamingChunk(content="", reasoning=ReasoningContent(reasoning_text="It is simple."), index=0)
        yield create_notification_event("Look!", "warning")
        yield from default_on_tool_call_end("search", {"query": question}, "two\nlines", False)
        yield create_source_event(
            {"source": {"name": "handbook.md"}, "document": ["x"], "metadata": [{"name": "p. 3"}]}
        )
        yield f"{question}: {len(messages)}"
        if question == "fail":
            raise ValueError("no \x1b[31m way")
