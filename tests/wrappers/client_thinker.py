"""Reasoning before the answer."""

from haystack.dataclasses import ReasoningContent, StreamingChunk

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_chat_completion(self, model, messages, body):
        yield StreamingChunk("", reasoning=ReasoningContent("Let me think."), index=0)
        yield "Done."

    def run_response(self, model, input_items, body):
        return self.run_chat_completion(model, [], body)
