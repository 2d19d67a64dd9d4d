"""A stream of server-sent events."""

from hayhooks import BasePipelineWrapper, SSEStream


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, text: str) -> SSEStream:
        return SSEStream(iter(["a", text]))
