"""Arguments of many types, and answers that tell how much came."""

from pydantic import BaseModel, ConfigDict

from hayhooks import BasePipelineWrapper


class Closed(BaseModel):
    """Has no other fields."""

    model_config = ConfigDict(extra="forbid")

    a: int = 0


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
        nested: list[list[list[int]]] | None = None,
        either: list[int] | str = "",
        unique: set[int] | None = None,
        text: str = "",
        anything: object = None,
    ) -> list[int]:
        return [len(numbers or ()), len(text)]

    def run_chat_completion(self, model: str, messages: list[dict], body: dict) -> str:
        return str(len(messages))
