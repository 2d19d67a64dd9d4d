"""Hooks: functions that the application calls when something happens; plug-ins add theirs in their lifespan."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from hayhooks.kernel.state import Change, Snapshot
from hayhooks.observability.request_record import RequestRecord

OnRequestStart = Callable[[RequestRecord, Scope], None]
OnRequestEnd = Callable[[RequestRecord], None]


@dataclass(frozen=True, slots=True)
class Hooks:
    """Lists of functions, called on the event loop in their order; what one raises is ours to mend."""

    on_publish: list[Callable[[Snapshot], None]] = field(default_factory=list)  # with the snapshot that is live now
    on_change: list[Callable[[Change], None]] = field(default_factory=list)  # after the snapshot that has it
    on_request_start: list[OnRequestStart] = field(default_factory=list)
    on_request_end: list[OnRequestEnd] = field(default_factory=list)  # after the last byte
    on_stop: list[Callable[[], object]] = field(default_factory=list)  # perhaps in a signal handler
    on_stop_at_once: list[Callable[[], object]] = field(default_factory=list)  # in the handler of a second Ctrl+C

    @contextmanager
    def use(self, **functions: Callable[..., Any]) -> Iterator[None]:
        """Add *functions* to the lists that they are named after, as long as this context lasts."""
        for name, function in functions.items():
            getattr(self, name).append(function)
        try:
            yield
        finally:
            for name, function in functions.items():
                getattr(self, name).remove(function)
