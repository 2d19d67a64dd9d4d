"""Rows of the database, and what is shown of them."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from hayhooks.executions.execution import (
    TERMINAL,
    Attempt,
    AttemptResult,
    Execution,
    ExecutionError,
    Order,
    Status,
    split_workflow_id,
)
from hayhooks.executions.rows import INVALID, Row

ATTEMPTS_EXHAUSTED = ExecutionError(  # each ended with the death of its process
    "RunAttemptsExhaustedError", "run attempts exhausted", code="run_attempts_exhausted"
)


def keyed_id(order: Order) -> str:
    """Return the id of the only execution with the order's idempotency key."""
    parts = json.dumps([order.owner, order.deployment, order.idempotency_key]).encode()
    return hashlib.blake2b(parts, digest_size=16).hexdigest()


def digest_of(order: Order) -> str:
    """Return what is equal for orders of the same work, whatever the revision."""
    content = json.dumps([order.deployment, order.kind, order.input, order.owner], sort_keys=True)
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def order_to_json(order: Order) -> dict[str, Any]:
    """Return *order* as it is stored; the key is not."""
    return {name: value for name, value in dataclasses.asdict(order).items() if name != "idempotency_key"}


def order_of(stored: Mapping[str, Any]) -> Order:
    """Return a stored order."""
    known = {each.name for each in dataclasses.fields(Order)}
    return Order(**{name: value for name, value in stored.items() if name in known})


def attempts_of(row: Row) -> list[Attempt]:
    """Return the attempts that were begun."""
    return [Attempt(*each) for each in row.attributes.get("attempts", ())]


def attempts_to_json(attempts: Iterable[Attempt]) -> list[list[Any]]:
    """Return *attempts* as they are stored."""
    return [list(dataclasses.astuple(each)) for each in attempts]


def result_to_json(result: AttemptResult) -> dict[str, Any]:
    """Return *result* as it is stored."""
    return {name: value for name, value in dataclasses.asdict(result).items() if value is not None}


def status_of(row: Row) -> Status:
    """Return the status of an execution."""
    if row.outcome is INVALID:
        return "failed"
    attempts = attempts_of(row)
    is_canceled = bool(row.attributes.get("cancel_requested_at"))
    match row.status:
        case "ENQUEUED" | "DELAYED":
            return "queued"
        case "PENDING":
            is_over = attempts and attempts[-1].outcome in ("again", "handed back", "retry")  # another attempt comes
            return "running" if attempts and not is_over else "queued"
        case "ERROR" if is_canceled:
            return "canceled"
        case "ERROR":
            phase = row.attributes.get("phase")
            return "queued" if phase == "retry" else "waiting" if phase == "waiting" else "failed"
        case "SUCCESS":
            phase = row.attributes.get("phase", "completed")
            return "canceled" if is_canceled else phase if phase in TERMINAL else "failed"
        case "CANCELLED":
            return "canceled"
    return "failed"


def execution_of(row: Row, shown: Mapping[str, Any] | None = None, waiting_for: str = "") -> Execution:
    """Return what is shown of *row*, with the event ``shown`` of its journal."""
    attributes, attempts, status = row.attributes, attempts_of(row), status_of(row)
    deployment, execution_id = split_workflow_id(row.workflow_id)
    if row.order is not None:
        order = order_of(row.order)
    else:  # in a list
        kind, revision = attributes.get("kind", "run"), attributes.get("revision", "")
        order = Order(deployment, kind, None, owner=row.owner, revision=revision)
    progress = (shown or {}).get("progress", [])
    ended = sum(bool(each.outcome) for each in attempts)
    cancel_requested_at = attributes.get("cancel_requested_at")
    outcome = row.outcome or {}
    ordered_at = attributes.get("ordered_at", row.created_at)
    changes = 2 * len(attempts) + ended + (progress[-1]["sequence"] if progress else 0) + bool(cancel_requested_at)
    return Execution(
        id=execution_id,
        order=order,
        status=status,
        attempt=len(attempts),
        sequence=1 + changes + (status == "queued" and bool(attempts)) + (status in TERMINAL),
        created_at=ordered_at,
        updated_at=max([ordered_at, row.updated_at, *(each.ended_at or each.started_at for each in attempts)]),
        progress=progress,
        result=outcome.get("result") if status == "completed" else None,
        error=_error_of(row) if status == "failed" else None,
        wait=outcome.get("wait") if status == "waiting" else None,
        waiting_for=waiting_for if status == "queued" else "",
        cancellation_requested_at=cancel_requested_at,
        delayed_until={"DELAYED": row.delayed_until, "ERROR": attributes.get("due_at")}.get(row.status)
        if status == "queued"
        else None,
        attempts=attempts,
        steps=(shown or {}).get("steps", ()),
    )


def _error_of(row: Row) -> ExecutionError:
    if row.status == "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
        return ATTEMPTS_EXHAUSTED
    return ExecutionError(**(row.outcome or {}).get("error", {"type": "Unknown", "message": ""}))
