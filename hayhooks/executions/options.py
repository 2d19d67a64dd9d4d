"""Options of the executions, from the settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


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
