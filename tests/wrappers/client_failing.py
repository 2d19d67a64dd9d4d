"""Failures before the first item, counted."""

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    asked = 0

    def setup(self):
        pass

    def run_api(self) -> int:
        return self.asked

    def run_chat_completion(self, model, messages, body):
        self.asked += 1
        raise ValueError("no luck today")

    def run_response(self, model, input_items, body):
        raise ValueError("no luck today")
