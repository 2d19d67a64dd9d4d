"""A chat generator without a model: it plays one that asks the first of its tools, and tells what that says."""

import json
from uuid import uuid4

from haystack import component
from haystack.dataclasses import ChatMessage, StreamingCallbackT, ToolCall
from haystack.tools import ToolsType, flatten_tools_or_toolsets


@component
class ScriptedChatGenerator:
    """Called like Haystack's chat generators, so each of them can take its place."""

    @component.output_types(replies=list[ChatMessage])
    def run(
        self,
        messages: list[ChatMessage],
        streaming_callback: StreamingCallbackT | None = None,
        *,
        tools: ToolsType | None = None,
    ) -> dict[str, list[ChatMessage]]:
        last = messages[-1]
        if answered := last.tool_call_result:
            return {"replies": [ChatMessage.from_assistant(f"My colleague says: {_text(answered.result)}")]}
        tool = flatten_tools_or_toolsets(tools)[0]
        call = ToolCall(tool.name, {"question": last.text}, id=f"call_{uuid4().hex}")
        return {"replies": [ChatMessage.from_assistant(tool_calls=[call])]}


def _text(result: str) -> str:
    """Return the text in the result of a tool of MCP, which a model reads as JSON."""
    return "".join(part.get("text", "") for part in json.loads(result)["content"])
