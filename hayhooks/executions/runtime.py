"""The runtime: all that is done with executions while the database is open. For the engine's loop."""

import asyncio
import base64
import datetime
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loguru import logger as log

from hayhooks.errors import ConflictError, RefusedError, UnavailableError, shortened, type_and_message
from hayhooks.executions.attempt import AttemptLimits, Attempts
from hayhooks.executions.dbos_engine import ENDED, UNFINISHED, Engine, EngineOptions, KeyInUseError
from hayhooks.executions.execution import (
    TERMINAL,
    Counts,
    Execution,
    Host,
    Order,
    Page,
    Query,
    Status,
    split_workflow_id,
    workflow_id_of,
)
from hayhooks.executions.journal import SHOWN, check_payload
from hayhooks.executions.options import ServiceOptions
from hayhooks.executions.projection import (
    attempts_of,
    digest_of,
    execution_of,
    keyed_id,
    order_of,
    order_to_json,
    status_of,
)
from hayhooks.executions.rows import Row
from hayhooks.executions.side_loop import SideLoop

_COUNTED_S = 0.5  # for which a count of the unfinished executions is good
_TIDY_S = 30.0
_CHECK_S = 0.5  # between two looks for canceled attempts
_CANCEL_S, _CANCEL_LOOKS = 0.02, 50  # between two looks at what is canceled before it runs; how many
_BATCH = 500
_TIES = 1000  # executions that may have begun in the same second, on a page

_STATUSES: Mapping[Status, Sequence[str]] = {
    "queued": ("ENQUEUED", "DELAYED", "PENDING", "ERROR"),
    "running": ("PENDING",),
    "waiting": ("ERROR",),
    "completed": ("SUCCESS",),
    "failed": ("SUCCESS", "ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"),
    "canceled": ("SUCCESS", "CANCELLED", "ERROR"),
}


class Runtime:
    """The open database, the attempts of this process, and the work in the background."""

    def __init__(self, engine: Engine, attempts: Attempts, host: Host, options: ServiceOptions) -> None:
        self._engine = engine
        self._attempts = attempts
        self._host = host
        self._options = options
        self._unfinished = 0
        self._counted_at = 0.0  # of a monotonic clock

    async def run(self) -> None:
        """Take over from dead processes, stop what was canceled, and forget what is old, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_again("taking over executions", self._options.alive_s, self._engine.take_over))
            group.create_task(_again("looking for canceled executions", _CHECK_S, self._attempts.check))
            group.create_task(_again("forgetting executions", _TIDY_S, self._tidy))

    async def submit(self, order: Order, concurrency: int) -> tuple[Execution, bool]:
        """See ``Executions``; *concurrency* is that of its deployment."""
        self._check_input(order.input)
        execution_id = order.id or (keyed_id(order) if order.idempotency_key else secrets.token_hex(16))
        workflow_id, digest = workflow_id_of(order.deployment, execution_id), digest_of(order)
        if order.idempotency_key and (row := await self._engine.row([workflow_id])) is not None:
            return await self._replay(row, digest)
        await self._refuse_if_full()
        queue = await self._engine.listen(concurrency)
        partition = f"{order.deployment}~{order.revision}"
        attributes = {
            "kind": order.kind,
            "revision": order.revision,
            "digest": digest,
            "ordered_at": time.time(),  # the database's times may be whole seconds
        }
        try:
            await self._engine.submit(
                workflow_id,
                order_to_json(order),
                attributes,
                queue=queue,
                partition=partition,
                owner=order.owner,
                priority=order.priority,
                delay_s=order.delay_s,
            )
        except KeyInUseError:
            row = await self._engine.row([workflow_id])
            if row is None:
                raise UnavailableError("the execution with this idempotency key was deleted meanwhile") from None
            return await self._replay(row, digest)
        self._unfinished += 1
        row = await self._engine.row([workflow_id])
        assert row is not None
        return await self._shown(row), False

    async def get(self, deployments: Sequence[str], execution_id: str, owner: str | None) -> Execution | None:
        """Return the execution of one of *deployments*; None if there is none, or it is another owner's."""
        row = await self._engine.row([workflow_id_of(name, execution_id) for name in deployments])
        if row is None or (owner is not None and row.owner != owner):
            return None
        return await self._shown(row)

    async def page(self, query: Query) -> Page:
        """List executions by the time they were ordered at, then by id."""
        after = _read_cursor(query.cursor)
        statuses = sorted({each for status in query.status or _STATUSES for each in _STATUSES[status]})
        found: list[Row] = []
        offset, size = 0, query.limit + 1 + _TIES
        while len(found) <= query.limit:
            rows = await self._engine.rows(
                statuses=statuses,
                prefix=workflow_id_of(query.deployment, "") if query.deployment else "",
                owner=query.owner,
                since=after[0] if after and not query.newest_first else 0.0,
                until=after[0] if after and query.newest_first else 0.0,
                newest_first=query.newest_first,
                limit=size,
                offset=offset,
            )
            found += [row for row in rows if self._fits(row, query, after)]
            offset += len(rows)
            if len(rows) < size:
                break
        found.sort(key=_key, reverse=query.newest_first)
        shown = found[: query.limit]
        return Page([execution_of(row) for row in shown], _cursor(shown[-1]) if len(found) > len(shown) else "")

    async def cancel(self, execution: Execution, reason: str) -> Execution:
        """See ``Executions``."""
        if execution.is_terminal:
            return execution
        workflow_id = execution.workflow_id
        noted = {"cancel_requested_at": time.time(), **({"cancel_reason": reason} if reason else {})}
        await self._engine.note(workflow_id, noted)
        row = await self._row(workflow_id)
        if row.status == "ERROR":  # it waits: woken and ended at once, it is no longer one that waits
            try:
                await self._engine.wake(row, {"cancel": True})
            except ConflictError:
                log.debug("{} was woken by another", workflow_id)
            row = await self._row(workflow_id)
        if row.status in ("ENQUEUED", "DELAYED"):
            await self._engine.cancel(workflow_id)
            row = await self._row(workflow_id)
        self._attempts.cancel(workflow_id)
        for _ in range(_CANCEL_LOOKS):
            attempts = attempts_of(row)
            if row.status != "PENDING" or (attempts and not attempts[-1].outcome):
                break
            await asyncio.sleep(_CANCEL_S)  # a process has just taken it, and ends it before its code begins
            row = await self._row(workflow_id)
        return await self._shown(row)

    async def resume(self, execution: Execution, value: Any) -> Execution:
        """See ``Executions``."""
        if execution.status != "waiting":
            raise ConflictError("only waiting executions can resume")
        self._check_input(value)
        return await self._go_on(execution, {"input": value})

    async def retry(self, execution: Execution) -> Execution:
        """See ``Executions``."""
        if execution.status not in ("failed", "canceled"):
            raise ConflictError("only failed and canceled executions can be tried again")
        return await self._go_on(execution, {"retry": True})

    async def delete(self, execution: Execution) -> None:
        """See ``Executions``."""
        if not execution.is_terminal:
            raise ConflictError("only ended executions can be deleted: cancel it first")
        await self._engine.delete([execution.workflow_id])

    async def chunks(self, execution: Execution, offset: int) -> list[Any]:
        """Return the rows of chunks from *offset* on that there are now."""
        return [row async for row in self._engine.stream(execution.workflow_id, offset)]

    async def counts(self) -> dict[str, Counts]:
        """Return the counts by deployment of what has not ended."""
        by_name: dict[str, list[Row]] = {}
        for row in await self._engine.rows(statuses=UNFINISHED, limit=max(self._options.max_unfinished, 1000) + 1):
            by_name.setdefault(split_workflow_id(row.workflow_id)[0], []).append(row)
        return {name: _counts(rows) for name, rows in by_name.items()}

    async def stop(self, grace_s: float) -> None:
        """End the attempts and hand them to other processes."""
        await self._attempts.stop(grace_s)
        await self._engine.close()

    def close(self) -> None:
        """Close the database; in a thread, after ``stop``."""
        self._engine.destroy()

    def _check_input(self, value: Any) -> None:
        try:
            check_payload(value, self._options.max_payload, "the input")
        except ValueError as error:
            raise RefusedError(413, str(error)) from None

    async def _go_on(self, execution: Execution, message: dict[str, Any]) -> Execution:
        workflow_id = execution.workflow_id
        row = await self._row(workflow_id)
        if (status := status_of(row)) != execution.status:  # as another caller was told to go on, or to cancel
            raise ConflictError(f"the execution has changed meanwhile: it is {status}")
        # Before it is woken: its next attempt reads this.
        noted: dict[str, Any] = {"counted_from": len(row.attributes.get("attempts", ()))}
        if "retry" in message:
            noted["cancel_requested_at"] = None  # not for what waits: it may be canceled at this moment
        await self._engine.note(workflow_id, noted)
        await self._engine.wake(row, message)
        return await self._shown(await self._row(workflow_id))

    async def _row(self, workflow_id: str) -> Row:
        row = await self._engine.row([workflow_id])
        if row is None:
            raise ConflictError("the execution was deleted meanwhile")
        return row

    async def _shown(self, row: Row) -> Execution:
        shown = await self._engine.event(row.workflow_id, SHOWN) if row.attributes.get("attempts") else None
        waiting_for = self._host.reason_to_wait(order_of(row.order)) if row.order and row.status not in ENDED else ""
        return execution_of(row, shown, waiting_for)

    async def _replay(self, row: Row, digest: str) -> tuple[Execution, bool]:
        if row.attributes.get("digest") != digest:
            raise ConflictError("idempotency key is bound to different work")
        return await self._shown(row), True

    async def _refuse_if_full(self) -> None:
        limit = self._options.max_unfinished
        if not limit:
            return
        if time.monotonic() - self._counted_at > _COUNTED_S:
            self._counted_at = time.monotonic()
            self._unfinished = len(await self._engine.rows(statuses=UNFINISHED, limit=limit))
        if self._unfinished >= limit:
            raise UnavailableError(f"{limit:,} executions are unfinished (HAYHOOKS_DURABLE_MAX_UNFINISHED)")

    async def _tidy(self) -> None:
        await self._engine.forget_timers()
        before = time.time() - self._options.keep_s
        while self._options.keep_s:
            old = await self._engine.rows(statuses=(*ENDED, "ERROR"), ended_before=before, limit=_BATCH)
            old = [row for row in old if status_of(row) in TERMINAL]
            await self._engine.delete([row.workflow_id for row in old])
            if len(old) < _BATCH:
                return

    def _fits(self, row: Row, query: Query, after: tuple[float, float, str] | None) -> bool:
        if after and (_key(row) >= after if query.newest_first else _key(row) <= after):
            return False
        return (
            (not query.status or status_of(row) in query.status)
            and (query.owner is None or row.owner == query.owner)
            and (not query.revision or row.attributes.get("revision") == query.revision)
            and query.search in row.workflow_id
        )


def _counts(rows: Sequence[Row]) -> Counts:
    statuses = [status_of(row) for row in rows]
    queued = [row.created_at for row, status in zip(rows, statuses, strict=True) if status == "queued"]
    waiting = [row.updated_at for row, status in zip(rows, statuses, strict=True) if status == "waiting"]
    by_status = {status: statuses.count(status) for status in dict.fromkeys(statuses) if status not in TERMINAL}
    return Counts(by_status, min(queued, default=None), min(waiting, default=None))


def _key(row: Row) -> tuple[float, float, str]:
    return row.created_at, row.attributes.get("ordered_at", 0.0), row.workflow_id


def _cursor(row: Row) -> str:
    return base64.urlsafe_b64encode(json.dumps(_key(row)).encode()).decode()


def _read_cursor(cursor: str) -> tuple[float, float, str] | None:
    if not cursor:
        return None
    try:
        created_at, ordered_at, workflow_id = json.loads(base64.urlsafe_b64decode(cursor))
        datetime.datetime.fromtimestamp(created_at, datetime.UTC)  # as the engine does: it fails for what is no time
        return float(created_at), float(ordered_at), str(workflow_id)
    except (ValueError, TypeError, OverflowError, OSError):
        raise RefusedError(422, f"cursor is {shortened(cursor)!r}: it must be the next_cursor of a page") from None


async def _again(what: str, seconds: float, work: Any) -> None:
    while True:
        try:
            await work()
        except Exception as error:
            log.warning("{} failed, and is tried again: {}", what, type_and_message(error))
        await asyncio.sleep(seconds)


async def launch(
    options: ServiceOptions,
    url: str,
    side: SideLoop,
    serving: asyncio.AbstractEventLoop,
    host: Host,
    on_change: Callable[[str], None],
) -> Runtime:
    """Open the database on the engine's loop; StartError if its URL cannot be used."""
    limits = AttemptLimits(options.max_crashes, options.max_retries, options.max_payload)
    attempts = Attempts(side, serving, host, limits, on_change)
    engine = Engine(EngineOptions(url, options.root, options.poll_s), attempts.run)
    attempts.engine = engine
    try:
        await engine.launch()
        await engine.listen(options.concurrency)
    except BaseException:
        await asyncio.to_thread(engine.destroy)
        raise
    return Runtime(engine, attempts, host, options)
