"""Arguments of many annotated types."""

import datetime
import enum
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from hayhooks import BasePipelineWrapper


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    name: str = Field(description="What it is called.")
    price: Annotated[float, Field(gt=0, le=1000)]
    colour: Colour = Colour.RED
    parts: "list[Item]" = []


@dataclass
class Place:
    street: str
    number: int | None = None


class PipelineWrapper(BasePipelineWrapper):
    """Counts *items*."""

    def setup(self):
        pass

    def run_api(
        self,
        items: list[Item],
        place: Place | None = None,
        unit: Literal["kg", "g"] = "kg",
        when: datetime.datetime | None = None,
        share: Annotated[int, Field(ge=0, le=100)] = 50,
        prices: dict[str, float] = {},
    ) -> list[Item]:
        """Weigh the items.

        All of them.

        Args:
            items: what to weigh.
            share: of a hundred.
        """
        return items
