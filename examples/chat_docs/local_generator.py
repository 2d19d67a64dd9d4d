"""A chat generator without a model: it quotes from its prompt. It needs neither network nor key."""

import asyncio
import re
from collections.abc import Iterator
from inspect import isawaitable

from haystack import component
from haystack.dataclasses import ChatMessage, ChatRole, ComponentInfo, StreamingCallbackT, StreamingChunk

PASSAGE = re.compile(r'<passage file="(.*?)">(.*?)</passage>', re.DOTALL)
COMMON_WORDS = re.findall(
    r"\w+",
    "a about an and any are at be by can could do does for from have how i in is it me much my of on or our tell the"
    " there this to us was we what when where which who why will with you your",
)


@component
class LocalChatGenerator:
    """Answers with the passage of its system message that has most words in common with the question.

    It is called like Haystack's chat generators, so each of them can take its place.
    """

    @component.output_types(replies=list[ChatMessage])
    def run(
        self, messages: list[ChatMessage], streaming_callback: StreamingCallbackT | None = None
    ) -> dict[str, list[ChatMessage]]:
        answer = _answer(messages)
        if streaming_callback:
            for chunk in self._chunks(answer):
                streaming_callback(chunk)
        return {"replies": [ChatMessage.from_assistant(answer)]}

    @component.output_types(replies=list[ChatMessage])
    async def run_async(
        self, messages: list[ChatMessage], streaming_callback: StreamingCallbackT | None = None
    ) -> dict[str, list[ChatMessage]]:
        answer = _answer(messages)
        if streaming_callback:
            for chunk in self._chunks(answer):
                await asyncio.sleep(0.02)  # as if it had to think, or you would not see it stream
                called = streaming_callback(chunk)
                if isawaitable(called):
                    await called
        return {"replies": [ChatMessage.from_assistant(answer)]}

    def _chunks(self, answer: str) -> Iterator[StreamingChunk]:
        me = ComponentInfo.from_component(self)
        for word in re.findall(r"\S+\s*", answer):
            yield StreamingChunk(word, component_info=me)
        yield StreamingChunk("", component_info=me, finish_reason="stop")


def _answer(messages: list[ChatMessage]) -> str:
    question = _words(_text(messages, ChatRole.USER))
    passages = PASSAGE.findall(_text(messages, ChatRole.SYSTEM))
    file, best = max(passages, key=lambda passage: len(question & _words(passage[1])), default=("", ""))
    if not question & _words(best):
        return "The handbook does not say."
    prose = re.sub(r"^#+ .*$", "", best, flags=re.MULTILINE)
    return f"{' '.join(prose.split())} ({file})"


def _text(messages: list[ChatMessage], role: ChatRole) -> str:
    return "\n".join(message.text or "" for message in messages if message.is_from(role))


def _words(text: str) -> set[str]:
    return {word.removesuffix("s") for word in re.findall(r"\w+", text.lower()) if word not in COMMON_WORDS}
