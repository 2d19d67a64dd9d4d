"""What we rest on in DBOS: where a later version differs, one of these fails, and says what."""

import inspect
import sys

import dbos._serialization
import pytest
from dbos import DBOS, DBOSPortableJSONSerializer

from hayhooks.executions import dbos_engine
from tests.cli.processes import started
from tests.executions.conftest import Bench

PLAIN = """
import sys
from hayhooks import BasePipelineWrapper

class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self) -> list[str]:
        return sorted({"dbos", "sqlalchemy", "psycopg"} & sys.modules.keys())
"""


def test_executions_of_dead_processes_can_be_begun_again():
    assert list(inspect.signature(DBOS._recover_pending_workflows).parameters) == ["executor_ids"]


def test_no_pickle_is_read():
    assert dbos._serialization.DefaultSerializer.deserialize is dbos_engine._refuse_pickle
    with pytest.raises(TypeError, match="pickle"):
        dbos._serialization.deserialize_value("gASVAAAA", "py_pickle", DBOSPortableJSONSerializer())


def test_the_steps_have_the_names_that_tell_where_to_go_on(bench: Bench):
    async def work():
        execution, _ = await bench.service.submit(bench.order(do="ask", wait={}))
        await bench.reached(execution, "waiting")
        side = bench.service._side
        assert side is not None
        steps = await side.run(lambda: DBOS.list_workflow_steps_async(f"it~{execution.id}"))
        return [step["function_name"] for step in steps]

    assert bench.run(work())[:2] == [dbos_engine._ATTEMPT, dbos_engine._RECV]


def test_what_has_not_ended_cannot_be_rewound(bench: Bench):
    async def work():
        execution, _ = await bench.service.submit(bench.order(do="answer", value=1, delay_s=600))
        side = bench.service._side
        assert side is not None
        with pytest.raises(Exception, match="terminal state"):
            await side.run(lambda: DBOS.rewind_workflow_async(f"it~{execution.id}"))

    bench.run(work())


def test_a_server_without_durable_wrappers_loads_nothing_of_it(tmp_path):
    folder = tmp_path / "pipelines/plain"
    folder.mkdir(parents=True)
    (folder / "pipeline_wrapper.py").write_text(PLAIN)
    with started(tmp_path, "run", STATE_DIR=str(tmp_path / "state"), forks=False) as server:
        assert server.post("/plain/run", {}).json() == {"result": []}
        assert server.get("/executions").json()["executions"] == []
    assert not (tmp_path / "state/durable.sqlite").exists()
    assert "dbos" in sys.modules  # here it is known
