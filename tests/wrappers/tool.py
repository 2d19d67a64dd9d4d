"""What a tool takes and returns, and how it fails."""

from dataclasses import dataclass

from starlette.exceptions import HTTPException

from hayhooks import BasePipelineWrapper


@dataclass
class Sum:
    total: int
    count: int


class PipelineWrapper(BasePipelineWrapper):
    """Adds."""

    def setup(self):
        pass

    def run_api(self, numbers: list[int], luck: bool = True) -> Sum:
        """Add numbers.

        However many.

        Args:
            numbers: what to add.
        """
        if not luck:
            raise ValueError("no luck today")
        if not numbers:
            raise HTTPException(400, "there is nothing to add")
        return Sum(sum(numbers), len(numbers))
