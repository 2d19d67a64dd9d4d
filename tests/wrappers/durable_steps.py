"""Steps that note themselves, with their process, in LOG; one named "held" waits for the file GATE."""

import asyncio
import os
import time
from itertools import pairwise
from pathlib import Path

from haystack import Pipeline, component
from pydantic import BaseModel

from hayhooks import BasePipelineWrapper, DurableContext

LOG: str
GATE: str


class Work(BaseModel):
    kind: str
    names: list[str] = []


class Result(BaseModel):
    done: list[str]
    attempt: int


def note(name: str) -> str:
    with open(LOG, "a") as file:
        file.write(f"{os.getpid()} {name}\n")
    while name == "held" and not Path(GATE).exists():
        time.sleep(0.02)
    return name


@component
class Note:
    def __init__(self, name: str):
        self.name = name

    @component.output_types(names=list[str])
    def run(self, names: list[str]):
        return {"names": [*names, note(self.name)]}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        names = ["one", "two", "held", "four"]
        for name in names:
            self.pipeline.add_component(name, Note(name))
        for before, after in pairwise(names):
            self.pipeline.connect(f"{before}.names", f"{after}.names")

    def run_api(self, names: list[str]) -> list[str]:
        return self.pipeline.run({"one": {"names": names}})["four"]["names"]

    async def run_durable_async(self, context: DurableContext, request: Work) -> Result:
        match request.kind:
            case "steps":
                done = [await context.step(name, note, name) for name in request.names]
            case "pipeline":
                outputs = await asyncio.to_thread(context.run_pipeline, {"one": {"names": []}})
                done = outputs["four"]["names"]
            case "pipeline_async":
                outputs = await context.run_pipeline_async({"one": {"names": []}}, checkpoint_at="held")
                done = outputs["four"]["names"]
            case "dies":
                note("dies")
                os.kill(os.getpid(), 9)
            case "sleeps":
                note("sleeps")
                await asyncio.sleep(600)
        return Result(done=done, attempt=context.attempt)
