"""Says who it is: another answer is another instance."""

import uuid

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.born = uuid.uuid4().hex

    def run_api(self) -> str:
        return self.born
