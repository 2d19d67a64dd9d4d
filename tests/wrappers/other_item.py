"""A model with the name of another wrapper's, and other fields."""

from pydantic import BaseModel

from hayhooks import BasePipelineWrapper


class Item(BaseModel):
    weight: int


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, item: Item) -> Item:
        return item
