"""A file that may be left out."""

from starlette.datastructures import UploadFile

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_api_async(self, picture: UploadFile | None = None, size: int = 1) -> str:
        return "with" if picture else "without"
