"""Answers of other types than JSON."""

from starlette.responses import Response

from hayhooks import BasePipelineWrapper, SSEStream


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, kind: str, status: int = 200):
        if kind == "events":
            return SSEStream(iter(["one ", {"two": 2}]))
        return Response(b"bytes" if status == 200 else b"", media_type=kind, status_code=status)
