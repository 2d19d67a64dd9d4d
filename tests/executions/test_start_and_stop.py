"""Services that start and stop: DBOS serves one at a time in a process."""

import asyncio
import sqlite3
import threading

import pytest

from hayhooks.errors import UnavailableError
from hayhooks.executions.execution import Execution
from hayhooks.executions.service import ExecutionService
from tests.executions.conftest import Bench, ScriptHost, options


async def until(service: ExecutionService, execution: Execution, is_due) -> Execution:
    async with asyncio.timeout(60):
        while not is_due(execution):
            execution = await service.wait(execution, 60)
    return execution


def test_too_many_are_refused_and_old_ones_forgotten(tmp_path):
    host = ScriptHost()

    async def work():
        service = ExecutionService(options(tmp_path, max_unfinished=2, keep_s=0))
        async with service.serving(host, tmp_path / "state"):
            held = [(await service.submit(Bench.order(do="ask", wait={})))[0] for _ in range(2)]
            with pytest.raises(UnavailableError, match="HAYHOOKS_DURABLE_MAX_UNFINISHED"):
                await service.submit(Bench.order(do="answer", value=1))
            for each in held:
                await service.cancel(each)
            return await service.counts()

    assert asyncio.run(work()) == {}


def test_nothing_is_left_after_the_stop_and_a_second_start_goes_on(tmp_path):
    before = {thread.name for thread in threading.enumerate()}
    host = ScriptHost()

    async def first():
        service = ExecutionService(options(tmp_path))
        async with service.serving(host, tmp_path / "state"):
            execution, _ = await service.submit(Bench.order(do="sleep"))
            await until(service, execution, lambda now: now.status == "running")
        assert await asyncio.to_thread(lambda: "usable") == "usable"
        return execution

    execution = asyncio.run(first())
    left = {thread.name for thread in threading.enumerate()} - before

    async def second():
        service = ExecutionService(options(tmp_path))
        async with service.serving(host, tmp_path / "state"):
            again = await until(service, execution, lambda now: now.attempt == 2)
            return await service.wait(await service.cancel(again), 60, until_end=True)

    done = asyncio.run(second())

    assert left == set()
    assert [each.outcome for each in done.attempts] == ["handed back", "canceled"]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state/durable.sqlite").stat().st_mode & 0o777 == 0o600


def test_a_pickle_in_the_database_is_not_read(tmp_path):
    host = ScriptHost()

    async def work(execution=None):
        service = ExecutionService(options(tmp_path))
        async with service.serving(host, tmp_path / "state"):
            if execution is None:
                execution, _ = await service.submit(Bench.order(do="answer", value=1))
                return await service.wait(execution, 60, until_end=True)
            return await service.get("it", execution.id, None)

    execution = asyncio.run(work())
    with sqlite3.connect(tmp_path / "state/durable.sqlite") as database:
        # pickle.dumps of an object whose unpickling would call print, as base64
        database.execute(
            "UPDATE workflow_status SET output = 'Y2J1aWx0aW5zCnByaW50CihWYQp0Ui4=', serialization = 'py_pickle'"
        )
    database.close()

    unreadable = asyncio.run(work(execution))
    assert (unreadable.status, unreadable.error.code) == ("failed", "stored_execution_invalid")
