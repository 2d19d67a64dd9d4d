"""A deployment on Ray Serve, which says in which process it runs, and leaves files behind when something ends."""

import asyncio
import os
from pathlib import Path

from haystack import Pipeline
from haystack.components.builders import PromptBuilder
from starlette.datastructures import UploadFile

from hayhooks import BasePipelineWrapper

folder = Path(FOLDER)


class PipelineWrapper(BasePipelineWrapper):
    """Answers."""

    ray_options = OPTIONS

    def setup(self):
        """Build the pipeline."""
        if PROBLEM == "everywhere":
            raise ValueError("broken here")
        if PROBLEM == "in one process":
            (folder / "one").touch(exist_ok=False)
        self.pipeline = Pipeline()
        self.pipeline.add_component("prompt", PromptBuilder("{{text}}", required_variables=["text"]))

    def teardown(self):
        """Leave a file."""
        (folder / f"teardown-{os.getpid()}").touch()

    async def run_api_async(self, text: str = "", wait_s: float = 0) -> dict:
        """Say who answers."""
        await asyncio.sleep(wait_s)
        executable = [
            file.name for file in Path(__file__).parent.iterdir() if file.is_file() and os.access(file, os.X_OK)
        ]
        return {"text": text, "pid": os.getpid(), "version": VERSION, "executable": executable}

    def run_file_upload(self, file: UploadFile, purpose: str) -> dict:
        """Count the bytes."""
        return {"id": "file-1", "bytes": len(file.file.read()), "purpose": purpose}

    async def run_chat_completion_async(self, model: str, messages: list[dict], body: dict):
        """Stream words, one each tenth of a second; for ever if asked to."""
        try:
            number = 0
            while number < 5 or messages[-1]["content"] == "for ever":
                yield f"word{number} "
                number += 1
                await asyncio.sleep(0.1)
        finally:
            (folder / "closed").touch()

    async def run_response_async(self, model: str, input_items: list[dict], body: dict):
        """Stream two words."""
        yield "two "
        yield "words"
