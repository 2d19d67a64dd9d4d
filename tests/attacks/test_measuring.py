"""What the other tests measure is there: a loop that is blocked, and not a machine that is busy."""

import os
import signal
import time

from tests.attacks.measuring import Attacked
from tests.live_server import eventually, replace

BLOCKS = """
import time
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_api_async(self):
        began = time.thread_time()
        while time.thread_time() - began < 1:
            pass
"""


def test_a_wrapper_that_computes_on_the_loop_makes_others_wait(attacked: Attacked):
    wrapper = attacked.root / "blocks/pipeline_wrapper.py"
    replace(wrapper, BLOCKS)
    eventually(lambda: attacked.client.get("/blocks/schema").status_code == 200)

    assert attacked.cost(lambda: attacked.client.post("/blocks/run", json={}).raise_for_status()).is_slow
    wrapper.unlink()


def test_a_server_that_the_machine_does_not_run_makes_nobody_wait(attacked: Attacked):
    pid = attacked.process.process.pid

    def stop() -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1)
        os.kill(pid, signal.SIGCONT)

    assert not attacked.cost(stop).is_slow
