"""Executions on Postgres: what differs from SQLite, and what two processes contend for."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hayhooks.errors import ConflictError, UnavailableError
from hayhooks.executions.service import ExecutionService
from tests import postgres
from tests.executions.conftest import Bench, ScriptHost, options, running_bench


@pytest.fixture(scope="module")
def instance() -> Iterator[postgres.Postgres]:
    with postgres.running() as instance:
        yield instance


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, instance: postgres.Postgres) -> Iterator[Bench]:
    with running_bench(options(tmp_path_factory.mktemp("executions"), url=instance.database())) as bench:
        yield bench


def test_executions_run_wait_and_stream(bench: Bench):
    async def work():
        orders = [bench.order(do="answer", value=number) for number in range(30)]
        ordered = [execution for execution, _ in await asyncio.gather(*map(bench.service.submit, orders))]
        done = [await bench.service.wait(each, 60, until_end=True) for each in ordered]
        asking, _ = await bench.service.submit(bench.order(do="ask", wait={}))
        waiting = await bench.reached(asking, "waiting")
        both = await asyncio.gather(
            bench.service.resume(waiting, 1), bench.service.resume(waiting, 2), return_exceptions=True
        )
        speaking, _ = await bench.service.submit(bench.order(do="speak", chunks=10))
        events = [event async for event in bench.service.watch(speaking)]
        return done, both, await bench.service.wait(asking, 60, until_end=True), events

    done, both, answered, events = bench.run(work())

    assert [(each.status, each.result) for each in done] == [("completed", number) for number in range(30)]
    assert [type(each) for each in both].count(ConflictError) == 1
    assert answered.status == "completed"
    assert [event.data["payload"]["n"] for event in events[:-1]] == list(range(10))


def test_equal_keys_are_one_execution(bench: Bench):
    async def work():
        order = bench.order(do="answer", value=1, key="k1")
        return await asyncio.gather(*(bench.service.submit(order) for _ in range(8)))

    both = bench.run(work())

    assert len({execution.id for execution, _ in both}) == 1
    assert [replayed for _, replayed in both].count(False) == 1


def test_what_runs_while_postgres_is_away_goes_on_in_the_same_attempt(bench: Bench, instance: postgres.Postgres):
    async def work():
        execution, _ = await bench.service.submit(bench.order(do="keep_after", seconds=3))
        await bench.reached(execution, "running")
        await asyncio.to_thread(instance.stop)
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="has not answered"):
            await bench.service.submit(bench.order(do="answer", value=1))
        took_s = time.monotonic() - began
        await asyncio.to_thread(instance.start)
        async with asyncio.timeout(60):
            while True:
                try:
                    return took_s, await bench.service.wait(execution, 60, until_end=True)
                except UnavailableError:
                    await asyncio.sleep(0.2)

    took_s, done = bench.run(work())

    assert took_s < 15  # of the 5 s that it waits
    assert (done.status, done.attempt, done.steps) == ("completed", 1, ["late"])


def test_a_database_that_is_not_there_is_tried_again(tmp_path: Path, instance: postgres.Postgres, logged: list[str]):
    async def work():
        service = ExecutionService(options(tmp_path, url="postgresql://tests:secret@127.0.0.1:1/none", mode="true"))
        async with service.serving(ScriptHost(), None):
            with pytest.raises(UnavailableError):
                await service.submit(Bench.order(do="answer", value=1))
            with pytest.raises(UnavailableError, match="cannot be opened"):
                await service.submit(Bench.order(do="answer", value=1))

    asyncio.run(work())

    assert any("cannot be opened" in line for line in logged)
    assert not any("secret" in line for line in logged)
