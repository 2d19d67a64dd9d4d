"""A chat generator without a model: it plays one that knows when to use its calculator."""

import asyncio
import json
import re
from collections.abc import Iterator
from inspect import isawaitable
from uuid import uuid4

from haystack import component
from haystack.dataclasses import (
    ChatMessage,
    ComponentInfo,
    StreamingCallbackT,
    StreamingChunk,
    ToolCall,
    ToolCallDelta,
)
from haystack.tools import ToolsType

SYMBOLS = {"plus": "+", "minus": "-", "times": "*", "divided by": "/"}
# It begins with a parenthesis or a whole number, never inside a word: 1e5*2 is not 5*2.
CALCULATION = re.compile(r"-?((?<![\w.,])\.?\d|\()[\d\s.,()]*[-+*/^%][-\d\s.,()+*/^%]*[\d)]")


@component
class ScriptedChatGenerator:
    """Asks for a calculation when the user does, and tells what came of it.

    It is called like Haystack's chat generators, so each of them can take its place.
    """

    @component.output_types(replies=list[ChatMessage])
    def run(
        self,
        messages: list[ChatMessage],
        streaming_callback: StreamingCallbackT | None = None,
        *,
        tools: ToolsType | None = None,
    ) -> dict[str, list[ChatMessage]]:
        reply = _reply(messages)
        if streaming_callback:
            for chunk in self._chunks(reply):
                streaming_callback(chunk)
        return {"replies": [reply]}

    @component.output_types(replies=list[ChatMessage])
    async def run_async(
        self,
        messages: list[ChatMessage],
        streaming_callback: StreamingCallbackT | None = None,
        *,
        tools: ToolsType | None = None,
    ) -> dict[str, list[ChatMessage]]:
        reply = _reply(messages)
        if streaming_callback:
            for chunk in self._chunks(reply):
                await asyncio.sleep(0.02)  # as if it had to think, or you would not see it stream
                called = streaming_callback(chunk)
                if isawaitable(called):
                    await called
        return {"replies": [reply]}

    def _chunks(self, reply: ChatMessage) -> Iterator[StreamingChunk]:
        me = ComponentInfo.from_component(self)
        for index, call in enumerate(reply.tool_calls):
            for delta in (
                ToolCallDelta(index, tool_name=call.tool_name, id=call.id),
                ToolCallDelta(index, arguments=json.dumps(call.arguments)),
            ):
                yield StreamingChunk(
                    "", component_info=me, index=index, start=bool(delta.tool_name), tool_calls=[delta]
                )
        for position, word in enumerate(re.findall(r"\S+\s*", reply.text or "")):
            yield StreamingChunk(word, component_info=me, start=position == 0)
        yield StreamingChunk("", component_info=me, finish_reason="tool_calls" if reply.tool_calls else "stop")


def _reply(messages: list[ChatMessage]) -> ChatMessage:
    last = messages[-1]
    if done := last.tool_call_result:
        reason = done.result.rpartition("Error: ")[2]
        return ChatMessage.from_assistant(f"Sorry: {reason}" if done.error else f"That makes {done.result}.")
    if expression := _calculation(last.text or ""):
        call = ToolCall("calculate", {"expression": expression}, id=f"call_{uuid4().hex}")
        return ChatMessage.from_assistant(tool_calls=[call])
    return ChatMessage.from_assistant("I only know how to calculate. Ask me, for example: what is 3 * 42.50 + 18?")


def _calculation(text: str) -> str | None:
    text = text.lower()
    for word, symbol in SYMBOLS.items():
        text = text.replace(word, symbol)
    found = CALCULATION.search(text)
    return found and found.group()
