"""The engine: DBOS keeps executions in a database and gives each to one process. The only module that imports it.

There is one workflow, whatever is deployed. All user code runs inside its step ``attempt``, so it need not be
deterministic and may change between attempts. What an attempt keeps are events of the workflow. An execution that
waits is a workflow that has ended with an error, ``_PausedError``: it holds no slot, is found by its status, and is
rewound to the message that it waits for when it goes on.
"""

import asyncio
import contextvars
import datetime
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dbos._serialization
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, EnqueueOptions
from dbos import error as dbos_error
from loguru import logger as log

from hayhooks.errors import ConflictError, StartError
from hayhooks.executions.alive import FileLiveness, Liveness, PostgresLiveness
from hayhooks.executions.database_url import file_of, postgres_url
from hayhooks.executions.rows import Row, row_of
from hayhooks.executions.sqlite import sqlite_engine

# With the execution's id, its order, the message that woke it, the number of its pauses, and the context to keep in.
RunAttempt = Callable[
    [str, dict[str, Any], dict[str, Any], int, contextvars.Context], Coroutine[Any, Any, dict[str, Any]]
]

_VERSION = "hayhooks-1"  # of the steps of `execution`: processes run only executions of their own version
_QUEUE, _TIMERS = "hayhooks", "hayhooks-timers"
_RECV = "DBOS.recv"  # name of the step that waits for a message
_ATTEMPT = "attempt"
_MESSAGE_S = 20.0  # for which an execution that was woken waits for the message that says why
_THREADS = 16  # of DBOS, each for one statement at a time

UNFINISHED = ("ENQUEUED", "DELAYED", "PENDING", "ERROR")  # ERROR: it waits
ENDED = ("SUCCESS", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


class _PausedError(Exception):
    """The workflow ends until somebody wakes it; the message is the outcome of its last attempt, as JSON."""


class KeyInUseError(Exception):
    """There is an execution with this id already."""


def _refuse_pickle(serializer: object, serialized: str) -> Any:
    raise TypeError("this row is a pickle, which may run any code when it is read")


# Rows say how they were written, and DBOS unpickles what says so, whatever is configured.
dbos._serialization.DefaultSerializer.deserialize = _refuse_pickle  # type: ignore[method-assign, assignment]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the engine needs to know."""

    url: str
    root: Path  # the pipelines directory
    poll_s: float


class Engine:
    """One process's part of the executions in one database; for one event loop, which DBOS takes over."""

    def __init__(self, options: EngineOptions, run_attempt: RunAttempt) -> None:
        self._options = options
        self._run_attempt = run_attempt
        self.executor = f"hayhooks-{secrets.token_hex(8)}"
        self._queues: set[str] = set()
        self._liveness: Liveness | None = None
        self._sqlite: Any = None  # SQLAlchemy's engine of a file
        self._stopping = asyncio.Event()

    async def launch(self) -> None:
        """Open the database, and begin to take executions."""
        url, file = self._options.url, file_of(self._options.url, self._options.root)
        config = DBOSConfig(
            name="hayhooks",
            application_version=_VERSION,
            executor_id=self.executor,
            serializer=DBOSPortableJSONSerializer(),
            max_executor_threads=_THREADS,
            log_level="WARNING",
        )
        if file is not None:
            self._sqlite = await asyncio.to_thread(sqlite_engine, file)
            config |= DBOSConfig(system_database_url=f"sqlite:///{file}", system_database_engine=self._sqlite)
            self._liveness = FileLiveness(file.with_name(f"{file.name}.alive"), self.executor)
        else:
            config |= DBOSConfig(system_database_url=postgres_url(url))
            self._liveness = await asyncio.to_thread(PostgresLiveness, postgres_url(url), self.executor)
        if _Current.engine is not None:
            raise StartError("another application of this process has executions: DBOS serves one at a time")
        _Current.engine = self
        DBOS(config=config)
        _quiet()
        DBOS.launch()  # here: on this loop it runs workflows
        await DBOS.register_queue_async(_TIMERS, polling_interval_sec=0.5, on_conflict="always_update")

    async def close(self) -> None:
        """Hand what runs to other processes, and close the database."""
        self._stopping.set()
        await asyncio.to_thread(DBOS._recover_pending_workflows, [self.executor])

    def destroy(self) -> None:
        """End DBOS's threads; in a thread, after ``close``."""
        if self._liveness is not None:
            self._liveness.close()
        if _Current.engine is self:
            DBOS.destroy()
            _Current.engine = None
        if self._sqlite is not None:
            self._sqlite.dispose()  # which DBOS leaves to whoever has made it

    async def listen(self, concurrency: int) -> str:
        """Return the queue whose executions run *concurrency* at a time in one process, for each deployment."""
        name = f"{_QUEUE}-{concurrency}"
        if name not in self._queues:
            await DBOS.register_queue_async(
                name,
                partition_worker_concurrency=concurrency,
                polling_interval_sec=self._options.poll_s,
                on_conflict="always_update",
            )
            self._queues.add(name)
        return name

    async def submit(
        self,
        workflow_id: str,
        order: dict[str, Any],
        attributes: dict[str, Any],
        *,
        queue: str,
        partition: str,
        owner: str,
        priority: int,
        delay_s: float,
    ) -> None:
        """Keep *order*; KeyInUseError if there is an execution of this id."""
        options = EnqueueOptions(
            workflow_name=_EXECUTION,
            queue_name=queue,
            workflow_id=workflow_id,
            workflow_id_reuse_policy="reject",
            queue_partition_key=partition,
            priority=priority,
            attributes={**attributes, "queue": queue, "partition": partition},  # for `wake`
        )
        if delay_s:
            options["delay_seconds"] = delay_s
        if owner:
            options["authenticated_user"] = owner
        try:
            await DBOS.enqueue_workflow_with_options_async(options, order)
        except dbos_error.DBOSWorkflowIDInUseError:
            raise KeyInUseError from None

    async def row(self, workflow_ids: Sequence[str], *, whole: bool = True) -> Row | None:
        """Return the first of these that there is; *whole*: with its order and outcome."""
        if not workflow_ids:
            return None
        found = await DBOS.list_workflows_async(workflow_ids=list(workflow_ids), load_input=whole, load_output=whole)
        return row_of(found[0]) if found else None

    async def rows(
        self,
        *,
        statuses: Sequence[str],
        prefix: str = "",
        owner: str | None = None,
        since: float = 0.0,
        until: float = 0.0,
        ended_before: float = 0.0,
        ids: Sequence[str] = (),
        newest_first: bool = False,
        limit: int = 1000,
        offset: int = 0,
    ) -> list[Row]:
        """List executions by the time of their creation, without orders and outcomes."""
        found = await DBOS.list_workflows_async(
            name=_EXECUTION,
            status=list(statuses) or None,
            workflow_ids=list(ids) or None,
            workflow_id_prefix=prefix or None,
            user=owner or None,
            start_time=_iso(since) if since else None,
            end_time=_iso(until) if until else None,
            completed_before=_iso(ended_before) if ended_before else None,
            sort_desc=newest_first,
            limit=limit,
            offset=offset or None,
            load_input=False,
            load_output=False,
        )
        return [row_of(each) for each in found]

    async def event(self, workflow_id: str, key: str) -> Any:
        """Return what was kept under *key*, or None."""
        return await DBOS.get_event_async(workflow_id, key, timeout_seconds=0)

    async def events(self, workflow_id: str) -> dict[str, Any]:
        """Return all that was kept."""
        return await DBOS.get_all_events_async(workflow_id)

    async def note(self, workflow_id: str, attributes: dict[str, Any]) -> None:
        """Merge *attributes*."""
        await DBOS.update_workflow_attributes_async(workflow_id, attributes, merge=True)

    async def cancel(self, workflow_id: str) -> None:
        """End what has not begun."""
        await DBOS.cancel_workflow_async(workflow_id)

    async def wake(self, row: Row, message: dict[str, Any]) -> None:
        """Let what has ended go on with *message*; ConflictError: it has not ended, or another was faster."""
        steps = await DBOS.list_workflow_steps_async(row.workflow_id, load_output=False)
        pauses = [step["function_id"] for step in steps if step["function_name"] == _RECV]
        attempts = [step["function_id"] for step in steps if step["function_name"] == _ATTEMPT]
        has_waited = bool(pauses) and pauses[-1] > attempts[-1]  # for a message that did not come
        try:
            await DBOS.rewind_workflow_async(
                row.workflow_id,
                start_step=pauses[-1] if has_waited else max(attempts, default=0) + 1,
                queue_name=row.attributes["queue"],
                queue_partition_key=row.attributes["partition"],
            )
        except dbos_error.DBOSException as error:
            raise ConflictError(f"the execution has changed meanwhile: {error}") from None
        if attempts:  # else it was canceled before it began
            await DBOS.send_async(row.workflow_id, message, _topic(len(pauses) - has_waited))

    async def wake_later(self, workflow_id: str, pause: int, delay_s: float, message: dict[str, Any]) -> None:
        """Wake what waits for the *pause*-th time, with *message*, after *delay_s* seconds."""
        options = EnqueueOptions(
            workflow_name=_TIMER,
            queue_name=_TIMERS,
            workflow_id=f"timer~{pause}~{workflow_id}",
            delay_seconds=delay_s,
        )
        await DBOS.enqueue_workflow_with_options_async(options, workflow_id, pause, message)

    async def delete(self, workflow_ids: Sequence[str]) -> None:
        """Forget executions."""
        if workflow_ids:
            await DBOS.delete_workflows_async(list(workflow_ids))

    async def forget_timers(self) -> None:
        """Forget timers that have woken what they had to."""
        ended = await DBOS.list_workflows_async(
            name=_TIMER, status=["SUCCESS", "ERROR", "CANCELLED"], limit=500, load_input=False, load_output=False
        )
        await self.delete([timer.workflow_id for timer in ended])

    async def keep(self, key: str, value: Any) -> None:
        """Keep JSON under *key*; in the context of an attempt."""
        await DBOS.set_event_async(key, value)

    async def append(self, value: Any) -> None:
        """Add to the stream of the execution; in the context of an attempt."""
        await DBOS.write_stream_async("out", value)

    async def stream(self, workflow_id: str, offset: int) -> AsyncIterator[Any]:
        """Yield what is now in the stream of an execution from *offset* on."""
        rows = DBOS.read_stream_async(workflow_id, "out", offset=offset, timeout_seconds=0)
        try:
            async for row in rows:
                yield row
        except dbos_error.DBOSStreamTimeoutError:
            return

    async def take_over(self) -> None:
        """Let executions of processes that have died begin again."""
        assert self._liveness is not None
        await asyncio.to_thread(self._liveness.hold)
        pending = await DBOS.list_workflows_async(status="PENDING", load_input=False, load_output=False)
        dead = [
            executor
            for executor in {each.executor_id for each in pending if each.executor_id} - {self.executor}
            if await asyncio.to_thread(self._liveness.is_dead, executor)
        ]
        if dead:
            await asyncio.to_thread(DBOS._recover_pending_workflows, dead)

    async def attempt(self, order: dict[str, Any], message: dict[str, Any], pause: int) -> dict[str, Any]:
        """Run one attempt; in the step of the workflow."""
        workflow_id = DBOS.workflow_id
        assert workflow_id is not None
        if not self._stopping.is_set():
            step = contextvars.copy_context()
            running = self._run_attempt(workflow_id, order, message, pause, step)
            # Outside the step's context, in which each call would be a step.
            outcome = await asyncio.get_running_loop().create_task(running, context=contextvars.Context())
            if outcome["kind"] != "handed back":
                return outcome
        await asyncio.Event().wait()  # for the end of the loop: the step is not done, another process does it
        raise AssertionError


class _Current:
    """The engine of the process: DBOS has one for all of it."""

    engine: Engine | None = None


_EXECUTION, _TIMER = "hayhooks.execution", "hayhooks.timer"


@DBOS.workflow(name=_EXECUTION, max_recovery_attempts=1_000_000)  # attempts that crash are counted by the attempts
async def execution(order: dict[str, Any]) -> dict[str, Any]:
    """Run attempts until one ends it; the code may change only together with ``_VERSION``."""
    message: dict[str, Any] = {}
    pause, has_run = 0, False

    async def attempt(message: dict[str, Any], pause: int) -> dict[str, Any]:
        nonlocal has_run
        has_run = True  # and its outcome was not only read
        assert _Current.engine is not None
        return await _Current.engine.attempt(order, message, pause)

    while True:
        outcome = await DBOS.run_step_async({"name": _ATTEMPT}, attempt, message, pause)
        if outcome["kind"] == "completed":
            return outcome
        if outcome["kind"] == "again":
            continue
        woken = await DBOS.recv_async(_topic(pause), timeout_seconds=0.0 if has_run else _MESSAGE_S)
        if woken is None and outcome["kind"] in ("waiting", "retry"):
            raise _PausedError(json.dumps(outcome))
        if woken is None:
            return outcome
        message, has_run = woken, False
        pause += 1


@DBOS.workflow(name=_TIMER)
async def timer(workflow_id: str, pause: int, message: dict[str, Any]) -> None:
    """Wake an execution that still waits for the *pause*-th time."""

    async def wake() -> None:
        engine = _Current.engine
        assert engine is not None
        await asyncio.get_running_loop().create_task(
            _wake(engine, workflow_id, pause, message), context=contextvars.Context()
        )

    await DBOS.run_step_async({"name": "wake"}, wake)


async def _wake(engine: Engine, workflow_id: str, pause: int, message: dict[str, Any]) -> None:
    while True:
        row = await engine.row([workflow_id], whole=False)
        if row is None or row.attributes.get("pause") != pause or row.status in ENDED:
            return
        if row.status == "ERROR":
            try:
                await engine.wake(row, message)
            except ConflictError:
                log.debug("{} was woken by another", workflow_id)
            return
        await asyncio.sleep(0.1)  # the attempt that has set the timer has not ended yet


def _topic(pause: int) -> str:
    return f"go-on:{pause}"


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


def _quiet() -> None:
    """Leave DBOS's warnings to our log, without those of what is no fault: a pause is an error to it."""
    logger = logging.getLogger("dbos")
    logger.handlers.clear()
    logger.setLevel(logging.WARNING)
    logger.propagate = True
    if not any(isinstance(each, _NoFault) for each in logger.filters):
        logger.addFilter(_NoFault())


class _NoFault(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        is_expected = isinstance(
            error, _PausedError | dbos_error.DBOSWorkflowConflictIDError | dbos_error.DBOSWorkflowCancelledError
        )
        return not is_expected and not record.getMessage().startswith("Asyncio task cancelled")  # at the stop
