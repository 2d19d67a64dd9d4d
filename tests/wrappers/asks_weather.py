"""A chat that calls the client's tool ``weather``, and tells its result."""

from haystack.dataclasses import ChatMessage, ToolCall

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_chat_completion(self, model, messages, body):
        if messages[-1]["role"] == "tool":
            return f"It is {messages[-1]['content']}."
        return ChatMessage.from_assistant(tool_calls=[ToolCall("weather", {"city": "Paris"}, id="call_1")])
