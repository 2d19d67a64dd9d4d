"""The smallest wrapper: a pipeline of one component, and a method that runs it."""

from haystack import Pipeline
from haystack.components.builders import PromptBuilder

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    """Says what you say."""

    def setup(self) -> None:
        # Once for every version of this folder, before it serves.
        self.pipeline = Pipeline()
        self.pipeline.add_component("prompt", PromptBuilder("You said: {{ text }}", required_variables=["text"]))

    def run_api(self, text: str) -> str:
        """Echo a text.

        Args:
            text: what to say.
        """
        # The parameters are the fields of the request, what is returned is the answer.
        return self.pipeline.run({"prompt": {"text": text}})["prompt"]["prompt"]
