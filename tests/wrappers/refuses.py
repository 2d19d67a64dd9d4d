"""Starlette's own exceptions."""

from starlette.exceptions import HTTPException

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, number: int) -> int:
        raise HTTPException(409 if number > 0 else 403, {"number": number % 7})
