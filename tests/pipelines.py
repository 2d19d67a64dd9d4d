"""Pipelines in YAML, for tests."""

PARTS = """
import time
from haystack import component
from haystack.dataclasses import ChatMessage, Document, StreamingChunk


@component
class Double:
    @component.output_types(value=int)
    def run(self, value: int, times: int = 2):
        return {"value": value * times}


@component
class Read:
    @component.output_types(documents=list[Document], count=int)
    def run(self, documents: list[Document], text: str | None = None):
        return {"documents": documents, "count": len(documents)}


@component
class Talk:
    def __init__(self, after: str = ""):
        self.after = after

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], streaming_callback=None):
        return {"replies": [self._told(messages, streaming_callback)]}

    def _told(self, messages, streaming_callback):
        told = " / ".join(f"{message.role.value}: {message.text}" for message in messages) + self.after
        if streaming_callback is not None:
            for index, word in enumerate(told.split(" ")):
                streaming_callback(StreamingChunk(word if index == 0 else f" {word}"))
        return ChatMessage.from_assistant(told)


@component
class AsyncTalk(Talk):
    @component.output_types(replies=list[ChatMessage])
    async def run_async(self, messages: list[ChatMessage], streaming_callback=None):
        told = " / ".join(message.text for message in messages)
        if streaming_callback is not None:
            await streaming_callback(StreamingChunk("async: " + told))
        return {"replies": [ChatMessage.from_assistant("async: " + told)]}
"""

DOUBLE = """\
components:
  double:
    type: parts.Double
  triple:
    type: parts.Double
    init_parameters: {}

connections: []

inputs:
  value: [double.value, triple.value]
  times: triple.times

outputs:
  doubled: double.value
  tripled: triple.value
"""

OLDEST = DOUBLE.partition("inputs:")[0]

CHAIN = """\
components:
  first:
    type: parts.Double
  second:
    type: parts.Double

connections:
  - sender: first.value
    receiver: second.value

inputs:
  value: first.value

outputs:
  value: second.value
"""

CHAT = """\
components:
  talk:
    type: parts.Talk
inputs:
  messages: talk.messages
outputs:
  replies: talk.replies
chat: messages
"""

ASK = """\
components:
  prompt:
    type: haystack.components.builders.chat_prompt_builder.ChatPromptBuilder
    init_parameters:
      template: '{% message role="user" %}Q: {{ question }}{% endmessage %}'
  llm:
    type: haystack.components.generators.chat.mock.MockChatGenerator
    init_parameters: {}
connections:
  - sender: prompt.prompt
    receiver: llm.messages
inputs:
  question: prompt.question
outputs:
  replies: llm.replies
chat: question
"""
