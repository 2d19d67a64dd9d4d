"""Durable executions, as a wrapper sees them."""

from collections.abc import Mapping
from typing import Any, Protocol, TypedDict


class ProgressEvent(TypedDict):
    """Something that ``report_progress`` told."""

    sequence: int  # from 1
    kind: str
    message: str
    timestamp: str  # ISO 8601, UTC
    metadata: Mapping[str, Any]


class Journal(Protocol):
    """What an attempt keeps for later attempts and for watchers; for the event loop that serves requests.

    Each method may raise a BaseException that ends the attempt: the store has given the execution to another process.
    """

    entries: Mapping[str, Any]  # JSON by key, as earlier attempts have kept it

    async def keep(self, key: str, value: Any) -> None:
        """Keep JSON under *key*, in place of what was there; it is stored when this returns.

        ValueError: it is larger than ``HAYHOOKS_DURABLE_MAX_PAYLOAD``, or no JSON.
        """

    async def report(self, events: list[ProgressEvent]) -> None:
        """Add to the progress."""

    async def emit(self, payload: Any) -> None:
        """Send JSON to watchers, at best: it may be dropped."""

    async def is_cancelled(self) -> bool:
        """Whether somebody wants it to end; asks the store twice a second at most."""
