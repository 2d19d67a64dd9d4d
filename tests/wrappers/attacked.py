"""Arguments of many types, and answers that tell how much came."""

import time
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from hayhooks import BasePipelineWrapper


class Closed(BaseModel):
    """Has no other fields."""

    model_config = ConfigDict(extra="forbid")

    a: int = 0


@dataclass(config=ConfigDict(extra="forbid"))
class ClosedData:
    """Has no other fields either."""

    a: int = 0


class ClosedDict(TypedDict, total=False):
    """Nor has this."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    a: int


class Tree(BaseModel):
    """Requires several fields."""

    a: int
    b: int
    c: int
    children: list["Tree"] = []


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        pass

    def run_api(
        self,
        numbers: list[int] | None = None,
        trees: list[Tree] | None = None,
        by_name: dict[str, int] | None = None,
        closed: Closed | None = None,
        data: ClosedData | None = None,
        dicts: list[ClosedDict] | None = None,
        nested: list[list[list[int]]] | None = None,
        either: list[int] | str = "",
        unique: set[int] | None = None,
        text: str = "",
        anything: object = None,
    ) -> list[int]:
        return [len(numbers or ()), len(text)]

    def run_chat_completion(self, model: str, messages: list[dict], body: dict) -> str | Iterator[str]:
        if str(messages[-1]["content"]).startswith("stream"):
            return self.stream()
        return str(len(messages))

    def stream(self) -> Iterator[str]:
        for index in range(60):
            yield f"{index:05}" * 5_000  # 25 kB
            time.sleep(0.025)
