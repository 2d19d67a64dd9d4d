import asyncio
from pathlib import Path

from hayhooks import BasePipelineWrapper

gate = Path(GATE)


class PipelineWrapper(BasePipelineWrapper):
    """Waits until the file GATE, named gate, exists; files beside it tell what became of a run."""

    def setup(self):
        pass

    async def run_api_async(self, number: int = 0) -> int:
        note("begun", number)
        try:
            while not gate.exists():  # noqa: ASYNC110, ASYNC240 - the test opens it, in another process
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            note("cancelled", number)
            raise
        return number


def note(event: str, number: int) -> None:
    gate.with_name(f"gate-{event}-{number}").touch()
