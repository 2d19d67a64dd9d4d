"""Haystack's data classes as arguments and result."""

from haystack import Pipeline
from haystack.components.builders import PromptBuilder
from haystack.dataclasses import ChatMessage, Document

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("prompt", PromptBuilder("{{ documents }}"))

    def run_api(self, documents: list[Document], message: ChatMessage | None = None) -> list[Document]:
        return documents
