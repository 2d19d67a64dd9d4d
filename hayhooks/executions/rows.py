"""Rows: what the database has of executions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The outcome of what cannot be read.
INVALID = {
    "kind": "failed",
    "error": {
        "type": "ExecutionStoreCorruptionError",
        "message": "Durable execution failed",
        "code": "stored_execution_invalid",
    },
}


@dataclass(frozen=True, slots=True)
class Row:
    """What the database has of an execution."""

    workflow_id: str  # "NAME~ID"
    status: str  # DBOS's
    attributes: Mapping[str, Any]
    created_at: float  # Unix seconds
    updated_at: float
    delayed_until: float | None
    executor: str  # the process that runs it
    owner: str
    order: Mapping[str, Any] | None  # None where it was not asked for
    outcome: Mapping[str, Any] | None  # of the last attempt; None where it was not asked for, or there is none


def row_of(status: Any) -> Row:
    """Return what DBOS's ``WorkflowStatus`` has."""
    # What is no JSON, a pickle for example, comes as text.
    order: Any = status.input["args"][0] if isinstance(status.input, dict) else status.input
    outcome = status.output if isinstance(status.output, dict | None) else INVALID
    if outcome is None and status.error is not None:
        try:
            outcome = json.loads(str(status.error))
        except ValueError:  # none of ours
            outcome = INVALID
    return Row(
        workflow_id=status.workflow_id,
        status=status.status,
        attributes=status.attributes or {},
        created_at=(status.created_at or 0) / 1000,
        updated_at=(status.updated_at or 0) / 1000,
        delayed_until=status.delay_until_epoch_ms / 1000 if status.delay_until_epoch_ms else None,
        executor=status.executor_id or "",
        owner=status.authenticated_user or "",
        order=order if isinstance(order, dict) else None,
        outcome=INVALID if order is not None and not isinstance(order, dict) else outcome,
    )
