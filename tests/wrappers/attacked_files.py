"""Takes files and fields, and tells how much came."""

import os

from starlette.datastructures import UploadFile

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        pass

    def run_api(
        self, files: list[UploadFile] | None = None, numbers: list[int] | None = None, **more: object
    ) -> list[object]:
        contents = [file.file.read() for file in files or ()]
        return [
            sum(map(len, contents)),
            [file.filename for file in files or ()],
            len(os.listdir("/proc/self/fd")),
            {name: value if len(str(value)) < 100 else len(str(value)) for name, value in more.items()},
        ]
