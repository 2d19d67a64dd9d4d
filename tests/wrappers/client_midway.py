"""Failures after the first item."""

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_chat_completion(self, model, messages, body):
        yield "So far "
        raise ValueError("no luck today")

    def run_response(self, model, input_items, body):
        yield "So far "
        raise ValueError("no luck today")
