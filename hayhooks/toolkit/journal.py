"""The journal of a durable attempt: what it keeps for later attempts and for watchers, as JSON."""

import json
from collections.abc import Mapping
from typing import Any, Protocol, TypedDict

STEP = "step:"  # begins the key of what a step returned; its name follows


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

    @property
    def entries(self) -> Mapping[str, Any]:
        """What earlier attempts have kept: JSON by key."""

    @property
    def progress(self) -> int:
        """Number of the last progress event of earlier attempts."""

    async def keep(self, key: str, value: Any) -> None:
        """Keep JSON under *key*, in place of what was there; it is stored when this returns.

        PayloadError: it is larger than ``HAYHOOKS_DURABLE_MAX_PAYLOAD``, or no JSON.
        """

    async def report(self, events: list[ProgressEvent]) -> None:
        """Add to the progress."""

    async def emit(self, payload: Any) -> None:
        """Send JSON to watchers, at best: it may be dropped."""

    async def is_cancelled(self) -> bool:
        """Whether somebody wants it to end; asks the store twice a second at most."""


class PayloadError(ValueError):
    """What is to be kept is too large, or no JSON."""


class TooLargeError(PayloadError):
    """What is to be kept is larger than ``HAYHOOKS_DURABLE_MAX_PAYLOAD``."""


def as_json(value: Any, what: str) -> bytes:
    """Encode *value*; PayloadError, which names *what* it is, if it is no JSON."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"{what} cannot be stored as JSON: {error}") from None


def steps_of(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return what steps have returned, by their names."""
    return {key.removeprefix(STEP): value for key, value in entries.items() if key.startswith(STEP)}
