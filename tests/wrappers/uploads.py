"""Files with other arguments beside them."""

from starlette.datastructures import UploadFile

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, files: list[UploadFile], title: str, pages: list[int] = [], dry: bool = False) -> dict[str, int]:
        """Index files.

        Args:
            files: what to index.
        """
        return {"files": len(files)}
