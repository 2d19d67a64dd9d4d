"""Calls of a tool that the client has."""

from haystack.dataclasses import ChatMessage, ToolCall

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_chat_completion(self, model, messages, body):
        if messages[-1]["role"] == "tool":
            return f"It is {messages[-1]['content']}."
        assert body["tools"][0]["function"]["name"] == "weather", body["tools"]
        return ChatMessage.from_assistant(tool_calls=[ToolCall("weather", {"city": "Berlin"}, "call_1")])

    def run_response(self, model, input_items, body):
        return ChatMessage.from_assistant(tool_calls=[ToolCall("weather", {"city": "Berlin"}, "call_1")])
