"""An answer in words, with usage."""

import asyncio

from haystack.dataclasses import StreamingChunk

from hayhooks import BasePipelineWrapper, get_last_user_message

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_chat_completion_async(self, model, messages, body):
        for word in ("You ", "said: ", get_last_user_message(messages)):
            await asyncio.sleep(0)
            yield StreamingChunk(word)
        yield StreamingChunk("", finish_reason="stop", meta={"usage": USAGE})

    async def run_response_async(self, model, input_items, body):
        return self.run_chat_completion_async(model, [{"role": "user", "content": "hello"}], body)
