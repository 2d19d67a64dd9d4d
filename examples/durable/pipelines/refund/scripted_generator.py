"""A chat generator without a model: it plays one that pays back what a customer names."""

import re

from haystack import component
from haystack.dataclasses import ChatMessage, ToolCall


@component
class ScriptedChatGenerator:
    """Asks to pay the first number back, and tells what came of it.

    It is called like Haystack's chat generators, so each of them can take its place.
    """

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], tools: list | None = None) -> dict:
        last = messages[-1]
        if last.tool_call_result is not None:
            paid = last.tool_call_result.result
            text = f"We are sorry. We have {paid}." if paid != "refused" else "We are sorry, and cannot pay you back."
            return {"replies": [ChatMessage.from_assistant(text)]}
        amount = re.search(r"\d+(\.\d+)?", last.text or "")
        if amount is None:
            return {"replies": [ChatMessage.from_assistant("How much was it?")]}
        call = ToolCall("pay_back", {"amount": float(amount[0])})
        return {"replies": [ChatMessage.from_assistant(tool_calls=[call])]}
