"""Many folders at once, in and out, beside a pipeline that does not notice."""

import shutil

import pytest

from tests.faults.traffic import Traffic, write
from tests.live_server import replace

TRIVIAL = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self) -> int:
        return {number}
"""


@pytest.mark.slow
def test_a_thousand_folders_come_at_once_and_go_at_once(traffic: Traffic):
    server = traffic.server
    for number in range(1_000):
        replace(server.root / f"many{number}/pipeline_wrapper.py", TRIVIAL.format(number=number))
    server.eventually(lambda: len(server.status()["pipelines"]) == 1_002, "all to be served", 60)
    assert [server.run(f"many{number}") for number in (0, 500, 999)] == [0, 500, 999]
    write(server.root / "app", 11)
    traffic.serves(11)

    for number in range(1_000):
        shutil.rmtree(server.root / f"many{number}")
    server.eventually(lambda: server.status()["pipelines"] == ["app", "bystander"], "all to be gone", 60)
    write(server.root / "app", 12)
    traffic.serves(12)
    server.eventually(lambda: not server.status()["retired"], "all to be torn down", 60)
