"""A pipeline of four components that pass on a class of the wrapper; they note themselves in LOG, the third is held."""

import os
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from haystack import Pipeline, component
from pydantic import BaseModel

from hayhooks import BasePipelineWrapper, DurableContext

LOG: str
GATE: str


@dataclass
class Passage:
    text: str

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> "Passage":
        return cls(**data)


class Work(BaseModel):
    text: str


@component
class Note:
    def __init__(self, name: str):
        self.name = name

    @component.output_types(passages=list[Passage])
    def run(self, passages: list[Passage]):
        with open(LOG, "a") as file:
            file.write(f"{os.getpid()} {self.name}\n")
        while self.name == "held" and not Path(GATE).exists():
            time.sleep(0.02)
        return {"passages": [Passage(f"{passage.text} {self.name}") for passage in passages]}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        names = ["one", "two", "held", "four"]
        for name in names:
            self.pipeline.add_component(name, Note(name))
        for before, after in pairwise(names):
            self.pipeline.connect(f"{before}.passages", f"{after}.passages")

    def run_durable(self, context: DurableContext, request: Work) -> list[str]:
        outputs = context.run_pipeline({"one": {"passages": [Passage(request.text)]}})
        return [passage.text for passage in outputs["four"]["passages"]]
