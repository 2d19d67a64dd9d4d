"""Arguments without annotations."""

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, anything=None, **more):
        return {"anything": anything, "more": more}
