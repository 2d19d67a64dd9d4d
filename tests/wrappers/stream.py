"""A generator of text."""

from collections.abc import Generator

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, text: str) -> Generator[str, None, None]:
        yield "a"
        yield text
