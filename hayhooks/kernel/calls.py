"""Calls: which methods of a wrapper run for requests, and at which line.

A thread cannot be stopped: the method of a request that was given up goes on. It can be seen, at least.
"""

import sys
import time
from collections.abc import Iterable, Iterator

from loguru import logger as log

from hayhooks.kernel.admission import Lease
from hayhooks.kernel.phases import Phase, frames_of_awaitable
from hayhooks.kernel.places import innermost_place, outward
from hayhooks.kernel.state import Deployment

_IN_VAIN_S = 3.0  # code that goes on for longer than this though nobody waits for it is logged


def running_calls(deployment: Deployment) -> Iterator[tuple[Lease, str]]:
    """Yield the lease of each call that runs, and what that is: "run_api() at pipeline_wrapper.py:9: sleep(1)"."""
    held, revision = deployment.runtime.leases.held, deployment.revision
    with_threads = {lease.request for lease in held if lease.thread}
    threads = sys._current_frames()
    for lease in held:
        if lease in with_threads:
            continue
        name = f"{lease.thread}()" if lease.thread.isidentifier() else lease.thread or "a request"
        frames = outward(threads.get(lease.ident)) if lease.thread else frames_of_awaitable(lease.task)
        place = innermost_place(revision, ((frame.f_code.co_filename, frame.f_lineno) for frame in frames))
        yield lease, f"{name} at {place}".replace(f" at {revision.path}/", " at ").rstrip(":") if place else name


class AbandonedCode:
    """User code that goes on in its thread though nobody waits for it. For one thread."""

    def __init__(self) -> None:
        self._told_phases: set[tuple[str, str, str]] = set()
        self._seen: dict[Lease, float] = {}  # since when, of a monotonic clock
        self._told: set[Lease] = set()

    def tick(self, phases: Iterable[Phase], deployments: Iterable[Deployment]) -> None:
        """Log once what goes on in vain of *phases* and for requests; call it about once a second."""
        # By their names: where a check has a thread of its own, the loader's thread is in the same phase.
        hanging = {
            (phase.revision.name, phase.revision.fingerprint, phase.name): phase
            for phase in phases
            if time.time() - phase.since > _IN_VAIN_S
        }
        for phase in (hanging[key] for key in hanging.keys() - self._told_phases):
            message = "{}: revision {} is not wanted any more, and still runs {}; only a restart ends its thread"
            log.warning(message, phase.revision.name, phase.revision.id, phase)
        self._told_phases = set(hanging)
        now = time.monotonic()
        seen: dict[Lease, float] = {}
        for deployment in deployments:
            held = deployment.runtime.leases.held
            left = [lease for lease in held if lease.request is not None and lease.request.task is None]
            seen |= {lease: self._seen.get(lease, now) for lease in left}
            due = {lease for lease in left if now - seen[lease] > _IN_VAIN_S} - self._told
            if not due:
                continue
            self._told |= due
            texts = [text for lease, text in running_calls(deployment) if lease in due]
            if texts:
                more = f" (and {len(texts) - 1} more)" if len(texts) > 1 else ""
                message = (
                    "{}: revision {} still runs {}{}, though its request has ended; only a restart ends its thread"
                )
                log.warning(message, deployment.name, deployment.revision.id, texts[0], more)
        self._seen = seen
        self._told &= seen.keys()
