"""Attempts: run the executions that this process was given. For the engine's loop."""

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

from loguru import logger as log

from hayhooks.executions.dbos_engine import Engine
from hayhooks.executions.execution import (
    TIMED_OUT,
    Attempt,
    AttemptResult,
    AttemptStart,
    ExecutionError,
    Host,
    Order,
    SupersededError,
    split_workflow_id,
)
from hayhooks.executions.journal import MAX_CHUNK, EngineJournal, check_payload
from hayhooks.executions.projection import ATTEMPTS_EXHAUSTED, attempts_of, attempts_to_json, order_of, result_to_json
from hayhooks.executions.rows import Row
from hayhooks.executions.side_loop import LoopCall, SideLoop

T = TypeVar("T")

StopReason = Literal["canceled", "handed back", "superseded"]

_RETRY_S, _MAX_RETRY_S = 1.0, 60.0  # before the first retry, doubled for each; at most

_RETRIES_EXHAUSTED = ExecutionError(
    "ApplicationRetriesExhaustedError", "application retries exhausted", code="application_retries_exhausted"
)


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """How often an execution is tried, and how much of it is stored at a time."""

    crashes: int
    retries: int
    payload: int  # bytes


@dataclass(slots=True, eq=False)
class _Running:
    row: Row
    journal: EngineJournal | None = None
    on_host: LoopCall[Any] | None = None  # what runs on the serving loop
    stop_reason: StopReason | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self, reason: StopReason) -> None:
        """Cancel what runs, because of *reason*."""
        self.stop_reason = self.stop_reason or reason
        if self.journal is not None:
            self.journal.note_cancelled()
        if self.on_host is not None:
            self.on_host.cancel()


class Attempts:
    """The attempts that run in this process."""

    def __init__(
        self,
        side: SideLoop,
        serving: asyncio.AbstractEventLoop,
        host: Host,
        limits: AttemptLimits,
        on_change: Callable[[str], None],
    ) -> None:
        self.engine: Engine | None = None
        self._side = side
        self._serving = serving
        self._host = host
        self._limits = limits
        self._context = contextvars.copy_context()  # of the application's start
        self._on_change = on_change  # with the id of an execution, on the serving loop
        self._running: dict[str, _Running] = {}

    async def run(
        self,
        workflow_id: str,
        stored: dict[str, Any],
        message: dict[str, Any],
        pause: int,
        context: contextvars.Context,
    ) -> dict[str, Any]:
        """Run an attempt, and return its result as JSON."""
        engine = self.engine
        assert engine is not None
        row = await engine.row([workflow_id], whole=False)
        if row is None or row.attributes.get("cancel_requested_at"):
            return await self._end(engine, row, pause, AttemptResult("canceled"))
        self._running[workflow_id] = running = _Running(row)
        try:
            result = await self._attempt(engine, running, order_of(stored), message, pause, context)
            if running.stop_reason == "superseded":
                return result_to_json(AttemptResult("again"))  # which the engine does not keep
            if running.stop_reason is not None:
                result = AttemptResult(running.stop_reason)
            if running.journal is not None:
                await LoopCall(self._serving, running.journal.close).result()
            return await self._end(engine, running.row, pause, result)
        finally:
            del self._running[workflow_id]
            running.ended.set()

    def cancel(self, workflow_id: str) -> None:
        """Cancel the attempt of an execution, if it runs here."""
        if running := self._running.get(workflow_id):
            running.stop("canceled")

    async def check(self) -> None:
        """Cancel attempts that somebody has canceled elsewhere, or that another process has taken over."""
        assert self.engine is not None
        looked_at = self._running.copy()  # what begins meanwhile is in no row
        if not looked_at:
            return
        rows = {row.workflow_id: row for row in await self.engine.rows(statuses=(), ids=list(looked_at))}
        for workflow_id, running in looked_at.items():
            row = rows.get(workflow_id)
            if row is None or row.status != "PENDING" or row.executor != self.engine.executor:
                running.stop("superseded")
            elif row.attributes.get("cancel_requested_at"):
                running.stop("canceled")

    async def stop(self, grace_s: float) -> None:
        """Let attempts end for *grace_s*, then cancel them: another process begins them again."""
        async with asyncio.TaskGroup() as group:
            for running in list(self._running.values()):
                group.create_task(self._stop(running, grace_s if running.journal is not None else 0.0))

    async def _stop(self, running: _Running, grace_s: float) -> None:
        for seconds in (grace_s, 1.0):  # code in a thread may go on, and cannot keep anything then
            try:
                async with asyncio.timeout(seconds):
                    await running.ended.wait()
                return
            except TimeoutError:
                running.stop("handed back")

    async def _attempt(
        self,
        engine: Engine,
        running: _Running,
        order: Order,
        message: dict[str, Any],
        pause: int,
        context: contextvars.Context,
    ) -> AttemptResult:
        row, host = running.row, self._host
        workflow_id = row.workflow_id
        attempts = attempts_of(row)
        counted = attempts[row.attributes.get("counted_from", 0) :]
        if sum(not each.outcome for each in counted) >= self._limits.crashes:
            log.error("{} fails: {} attempts ended with the death of their process", workflow_id, self._limits.crashes)
            return AttemptResult("failed", error=ATTEMPTS_EXHAUSTED)
        try:
            revision = await self._on_host(running, lambda: host.admit(order))
            number = len(attempts) + 1
            begun = attempts_to_json([*attempts, Attempt(number, revision, time.time())])
            running.row = replace(row, attributes={**row.attributes, "attempts": begun})
            await engine.note(workflow_id, {"attempts": begun, "phase": ""})
            entries = await engine.events(workflow_id) if attempts else {}
            running.journal = EngineJournal(
                engine,
                self._side,
                context,
                workflow_id,
                number,
                entries,
                self._limits.payload,
                self._limits.payload if order.wants_chunks else MAX_CHUNK,  # those of a response are all of it
                partial(self._on_change, workflow_id),
            )
            resumed = pause if "input" in message else 0
            _, execution_id = split_workflow_id(workflow_id)
            start = AttemptStart(execution_id, order, number, row.created_at, resumed, message.get("input"))
            result = await self._on_host(running, partial(host.run, start, running.journal))
        except asyncio.CancelledError:
            if running.stop_reason is None:
                raise
            return AttemptResult("canceled")
        except (Exception, SupersededError) as error:  # a bug of ours, or a write into another attempt that has ended
            log.opt(exception=error).error("An attempt of {} failed", workflow_id)
            return AttemptResult("failed", error=ExecutionError(type(error).__name__, "Internal server error"))
        if result.kind == "retry" and sum(each.outcome == "retry" for each in counted) >= self._limits.retries:
            log.error("{} fails: it asked for too many retries, at last with: {}", workflow_id, result.error)
            return AttemptResult("failed", error=_RETRIES_EXHAUSTED)
        try:
            check_payload(result.result, self._limits.payload, "the result")
        except ValueError as too_large:
            return AttemptResult(
                "failed", error=ExecutionError("ValueError", str(too_large), False, "payload_too_large")
            )
        return result

    async def _on_host(self, running: _Running, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        running.on_host = call = LoopCall(self._serving, function, self._context.copy())
        if running.stop_reason is not None:
            call.cancel()
        try:
            return await call.result()
        finally:
            running.on_host = None

    async def _end(self, engine: Engine, row: Row | None, pause: int, result: AttemptResult) -> dict[str, Any]:
        """Note that the last attempt has ended."""
        stored = result_to_json(result)
        if row is None:
            return stored
        noted: dict[str, Any] = {"phase": result.kind, "pause": pause}
        attempts = attempts_of(row)
        if attempts and not attempts[-1].outcome:
            ended = replace(attempts[-1], ended_at=time.time(), outcome=result.kind)
            noted["attempts"] = attempts_to_json([*attempts[:-1], ended])
        if result.kind == "retry":
            retries = sum(each.outcome == "retry" for each in attempts)
            delay_s = result.delay_s if result.delay_s is not None else min(_RETRY_S * 2**retries, _MAX_RETRY_S)
            noted["due_at"] = time.time() + delay_s
            await engine.wake_later(row.workflow_id, pause, delay_s, {})
        timeout_s = (result.wait or {}).get("timeout")
        if result.kind == "waiting" and isinstance(timeout_s, int | float):
            message = {"input": TIMED_OUT}
            await engine.wake_later(row.workflow_id, pause, float(timeout_s), message)
        await engine.note(row.workflow_id, noted)
        self._serving.call_soon_threadsafe(self._on_change, row.workflow_id)
        return stored
