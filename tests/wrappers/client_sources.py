"""Answers with sources, by both APIs."""

from haystack import Document

from hayhooks import BasePipelineWrapper, source_events


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_chat_completion(self, model, messages, body):
        yield from source_events([Document(id="d1", content="Breakfast is at eight", meta={"file_path": "house.md"})])
        yield "At "
        yield {"type": "status", "data": {"description": "done", "done": True}}
        yield "eight [1]"
