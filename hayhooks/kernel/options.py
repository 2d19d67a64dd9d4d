"""Options: how the kernel watches, loads and retires, in one immutable value."""

from collections.abc import Sequence
from dataclasses import dataclass

from hayhooks.kernel.admission import NO_LIMITS, Limits
from hayhooks.settings import Settings


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """The settings of the kernel, with their defaults."""

    python_path: Sequence[str] = ()  # directories of shared modules
    only: str | None = None  # the one name to serve; all if None
    describe_only: bool = False  # wrappers of folders are made and described, not set up: other processes run them
    threads: int = 40  # sync calls of one deployment that run at a time
    limits: Limits = NO_LIMITS  # of a deployment's requests, unless its wrapper sets its own
    loads_at_a_time: int = 0  # 0: a few, and a slow one makes room for another
    load_jitter_ms: int = 0  # the longest of the random times that a revision waits before it is loaded
    debounce_ms: int = 20  # a folder must be unchanged for this long before it is read
    poll_interval_ms: int = 1000  # between two looks at the whole directory, see `Watch`
    removal_grace_ms: int = 400  # a folder must be absent for this long before it is undeployed
    drain_s: float = 600.0  # requests of a replaced deployment may go on for this long
    trial_requests: int = 5  # of a new revision must have been answered before it may be rolled back
    trial_error_rate: float = 0.5  # and more than this share of them have failed
    canary_requests: int = 100  # that a canary answers before it is promoted or rolled back
    canary_s: float = 600.0  # after which it is, however few there were; 0: there are no canaries
    canary_error_rate: float = 0.05  # of its requests: if more fail, and a smaller share beside it, it is rolled back
    canary_slowdown: float = 1.5  # it is rolled back if its p95 is so many times that of the other; 0: not compared
    check_s: float = 30.0  # a wrapper's `check` may take this long
    events: bool = True  # use the file system's change events, not polling alone
    freeze: bool = False  # exclude imported modules from garbage collections; only in a process of our own
    trim: bool = False  # return memory to the system after garbage collections; only in a process of our own

    @classmethod
    def of(cls, settings: Settings, *, only: str | None, describe_only: bool, owns_process: bool) -> "KernelOptions":
        """Return what *settings* say of the kernel; *owns_process*: nothing else is served by the process."""
        return cls(
            python_path=settings.python_path,
            only=only,
            describe_only=describe_only,
            threads=settings.threads,
            limits=Limits(
                settings.request_timeout,
                settings.concurrency,
                settings.queue_size,
                settings.trial_seconds,
                settings.canary,
            ),
            loads_at_a_time=settings.loads_at_a_time,
            load_jitter_ms=settings.load_jitter_ms,
            debounce_ms=settings.debounce_ms,
            poll_interval_ms=settings.poll_interval_ms,
            removal_grace_ms=settings.removal_grace_ms,
            drain_s=settings.drain_timeout,
            trial_requests=settings.trial_requests,
            trial_error_rate=settings.trial_error_rate,
            canary_requests=settings.canary_requests,
            canary_s=settings.canary_seconds,
            canary_error_rate=settings.canary_error_rate,
            canary_slowdown=settings.canary_slowdown,
            check_s=settings.check_timeout,
            events=settings.watch_events,
            freeze=owns_process,
            trim=owns_process,
        )
