"""A service over SQLite, with a host that does what an order's input says."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hayhooks.executions.execution import AttemptResult, AttemptStart, Execution, ExecutionError, Order
from hayhooks.executions.options import ServiceOptions
from hayhooks.executions.service import ExecutionService
from hayhooks.toolkit.journal import Journal, PayloadError

T = TypeVar("T")


class ScriptHost:
    """Runs orders whose input names what they do; *missing* is what is not deployed."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.began: list[tuple[str, int]] = []  # id and number of each attempt
        self.journals: list[Journal] = []  # that attempts have left
        self._changed = asyncio.Event()

    def names(self) -> Sequence[str]:
        return ("it", "other")

    def concurrency_of(self, name: str) -> int | None:
        return None

    def reason_to_wait(self, order: Order) -> str:
        return "deployment" if order.deployment in self.missing else ""

    def deploy(self, name: str) -> None:
        self.missing.discard(name)
        self._changed.set()

    async def admit(self, order: Order) -> str:
        while self.reason_to_wait(order):
            self._changed.clear()
            await self._changed.wait()
        return "a-revision"

    async def run(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        self.began.append((start.execution_id, start.number))
        action: str = start.order.input["do"]
        result: AttemptResult = await getattr(self, action)(start, journal)
        return result

    async def answer(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        return AttemptResult("completed", result=start.order.input["value"])

    async def fail(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        return AttemptResult("failed", error=ExecutionError("ValueError", "no"))

    async def fail_once(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        if "state" in journal.entries:
            return AttemptResult("completed", result=journal.entries["state"])
        await journal.keep("state", {"attempt": start.number})
        return await self.fail(start, journal)

    async def again(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        error = ExecutionError("RetryRequested", "not yet", retryable=True)
        return AttemptResult("retry", delay_s=0.0, error=error)

    async def ask(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        if start.resumed:
            return AttemptResult("completed", result=start.resume_input)
        return AttemptResult("waiting", wait={"kind": "approval", "message": "May I?", **start.order.input["wait"]})

    async def speak(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        for number in range(start.order.input["chunks"]):
            await journal.emit({"n": number})
            await asyncio.sleep(start.order.input.get("every", 0.02))
        return AttemptResult("completed", result=None)

    async def sleep(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        await asyncio.sleep(600)
        raise AssertionError

    async def keep_after(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        await asyncio.sleep(start.order.input["seconds"])
        await journal.keep("step:late", 1)
        return AttemptResult("completed", result=None)

    async def leave_journal(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        self.journals.append(journal)
        return AttemptResult("completed", result=None)

    async def keep_in_left_journal(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        await self.journals[-1].keep("step:late", 1)
        raise AssertionError

    async def keep(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        try:
            await journal.keep("step:big", "x" * start.order.input["size"])
        except PayloadError as error:
            return AttemptResult("failed", error=ExecutionError(type(error).__name__, str(error)))
        return AttemptResult("completed", result="kept")


class Bench:
    """A running service; ``run`` runs coroutines on its loop."""

    def __init__(self, service: ExecutionService, host: ScriptHost, runner: asyncio.Runner) -> None:
        self.service = service
        self.host = host
        self.run: Callable[[Coroutine[Any, Any, Any]], Any] = runner.run

    async def ended(self, **order: Any) -> Execution:
        """Order something, and wait for its end."""
        execution, _ = await self.service.submit(self.order(**order))
        return await self.service.wait(execution, 60, until_end=True)

    async def reached(self, execution: Execution, status: str) -> Execution:
        """Wait until *execution* has *status*."""
        async with asyncio.timeout(60):
            while execution.status != status:
                execution = await self.service.wait(execution, 60)
        return execution

    @staticmethod
    def order(deployment: str = "it", key: str = "", owner: str = "", delay_s: float = 0.0, **input: Any) -> Order:
        return Order(deployment, "run", input, owner=owner, idempotency_key=key, delay_s=delay_s)


def options(root: Path, **changed: Any) -> ServiceOptions:
    values: dict[str, Any] = {
        "mode": "auto", "url": "", "root": root / "pipelines", "concurrency": 4, "poll_s": 0.05, "alive_s": 0.2,
        "max_crashes": 3, "max_retries": 2, "max_unfinished": 1000, "max_payload": 100_000, "keep_s": 0, "grace_s": 0,
    }  # fmt: skip
    return ServiceOptions(**values | changed)


@contextmanager
def running_bench(options: ServiceOptions, state_dir: Path | None = None) -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        host = ScriptHost()
        service = ExecutionService(options)
        serving = service.serving(host, state_dir)
        runner.run(serving.__aenter__())
        try:
            yield Bench(service, host, runner)
        finally:
            runner.run(serving.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("executions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hayhooks.executions.runtime._CHECK_S", 0.01)  # what it does wrong is seen soon
        with running_bench(options(root), root / "state") as bench:
            yield bench
