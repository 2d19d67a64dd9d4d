"""Options of the executions, from the settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hayhooks.settings import Settings


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Settings of the executions."""

    mode: Literal["auto", "true", "false"]
    url: str  # "": a file in the state directory
    root: Path  # the pipelines directory
    concurrency: int
    poll_s: float
    alive_s: float
    max_crashes: int
    max_retries: int
    max_unfinished: int
    max_payload: int  # bytes
    keep_s: float
    grace_s: float

    @classmethod
    def of(cls, settings: Settings, root: Path) -> "ServiceOptions":
        """Return what *settings* say of executions; *root* is the pipelines directory, absolute."""
        return cls(
            mode=settings.durable,
            url=settings.durable_url,
            root=root,
            concurrency=settings.durable_concurrency,
            poll_s=settings.durable_poll_ms / 1000,
            alive_s=settings.durable_alive_ms / 1000,
            max_crashes=settings.durable_max_attempts,
            max_retries=settings.durable_max_retries,
            max_unfinished=settings.durable_max_unfinished,
            max_payload=settings.durable_max_payload,
            keep_s=settings.durable_keep,
            grace_s=settings.durable_grace,
        )
