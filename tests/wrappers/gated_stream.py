"""A stream that waits between its items until the file GATE exists."""

import time
from pathlib import Path

from hayhooks import BasePipelineWrapper

gate = Path(GATE)


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, fails: bool = False):
        try:
            yield "first "
            while not gate.exists():
                time.sleep(0.005)
                yield ""
            if fails:
                raise ValueError("no luck today")
            yield "second"
        finally:
            gate.with_name("closed").touch()
