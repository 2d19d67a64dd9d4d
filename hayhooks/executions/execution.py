"""Executions: what is ordered, and what is known of it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from hayhooks.toolkit.durable import ExecutionControl
from hayhooks.toolkit.journal import Journal, ProgressEvent

# What runs: `run_durable` of a wrapper with a pipeline or an agent, or a request that is sent in the background.
Kind = Literal["pipeline", "agent", "run", "response"]

# queued -> running -> completed | failed | canceled; running -> waiting -> queued; running -> queued
Status = Literal["queued", "running", "waiting", "completed", "failed", "canceled"]

STATUSES: tuple[Status, ...] = get_args(Status)

TERMINAL: frozenset[Status] = frozenset({"completed", "failed", "canceled"})

TIMED_OUT = {"timed_out": True}  # what an execution is resumed with that has waited for too long

ANYBODY = ""  # the owner where a wrapper names none


def workflow_id_of(deployment: str, execution_id: str) -> str:
    """Return the engine's id: executions of a deployment are found by its beginning."""
    return f"{deployment}~{execution_id}"


def split_workflow_id(workflow_id: str) -> tuple[str, str]:
    """Return the deployment's name and the execution's id."""
    deployment, _, execution_id = workflow_id.rpartition("~")
    return deployment, execution_id


@dataclass(frozen=True, slots=True)
class Order:
    """What a client wants to be run."""

    deployment: str  # its name
    kind: Kind
    input: Any  # JSON: the body of the request, defaults left out
    owner: str = ANYBODY  # as `durable_owner_id` returned it: others do not see the execution
    revision: str = ""  # the wrapper's `durable_revision`: only a deployment that has it runs this; "": any
    idempotency_key: str = ""  # 1 to 512 bytes: a second order of this owner with it is the first one; "": none
    delay_s: float = 0.0
    priority: int = 50  # 1 is first, 100 is last
    wants_chunks: bool = False  # a response: its events are kept as chunks
    id: str = ""  # of the execution, 32 hex digits; "": a new one


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of an execution's code."""

    number: int  # from 1
    revision: str  # id of the deployment's revision
    started_at: float  # Unix seconds
    ended_at: float | None = None
    outcome: str = ""  # completed, failed, waiting, retry, canceled, handed back; "": it runs, or its process died


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """Why an execution failed."""

    type: str  # class of the exception
    message: str
    retryable: bool = False
    code: str = ""  # run_attempts_exhausted, application_retries_exhausted, payload_too_large, input_incompatible, ...


@dataclass(frozen=True, slots=True)
class Execution:
    """An execution as the store knows it at one moment."""

    id: str  # 32 hex digits
    order: Order  # in lists without its input
    status: Status
    attempt: int  # how often it was begun
    sequence: int  # grows with each change of what is shown
    created_at: float  # Unix seconds, as all times here
    updated_at: float
    progress: Sequence[ProgressEvent] = ()  # the last 100
    result: Any = None
    error: ExecutionError | None = None
    wait: Mapping[str, Any] | None = None  # of `suspend`, while it waits
    waiting_for: str = ""  # why it is queued though nothing is before it: "revision v1", "deployment"
    cancellation_requested_at: float | None = None
    delayed_until: float | None = None
    attempts: Sequence[Attempt] = ()
    steps: Sequence[str] = ()  # names of the steps that are done

    @property
    def is_terminal(self) -> bool:
        """Whether nothing of it changes any more, unless it is retried."""
        return self.status in TERMINAL

    @property
    def workflow_id(self) -> str:
        """The engine's id."""
        return workflow_id_of(self.order.deployment, self.id)


@dataclass(frozen=True, slots=True)
class Query:
    """Which executions to list."""

    deployment: str = ""  # "": of all
    owner: str | None = None  # None: of all owners
    status: Sequence[Status] = ()  # none: all
    revision: str = ""
    search: str = ""  # part of an id
    limit: int = 50  # 1 to 100
    cursor: str = ""  # of the page before
    newest_first: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Some executions of a list, without inputs, results and progress."""

    executions: Sequence[Execution]
    cursor: str  # of the next page; "" on the last


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """Something that a watcher of an execution is told.

    ``chunk``: data is ``{"attempt", "payload"}``; ``gap``: the cursor is not kept any more, the kept chunks follow;
    ``status`` and ``progress``: data is JSON too; ``end``: data is the Execution, the last event.
    """

    kind: Literal["chunk", "gap", "status", "progress", "end"]
    data: Any
    cursor: str = ""  # of a chunk: "row-item", where a later watcher goes on


@dataclass(frozen=True, slots=True)
class Counts:
    """How many executions there are of a deployment, or of all."""

    by_status: Mapping[Status, int] = field(default_factory=dict)
    oldest_queued_at: float | None = None
    oldest_waiting_at: float | None = None


class Executions(Protocol):
    """What plug-ins do with executions; for the serving loop.

    Every method may raise UnavailableError: the store does not answer within 5 s (503). A name and an owner are always
    compared: an execution of another deployment or owner does not exist. ``owner=None`` is everybody.
    """

    @property
    def is_available(self) -> bool:
        """Whether executions can be ordered: the extra is there, and they are not turned off."""

    @property
    def is_started(self) -> bool:
        """Whether something has needed the database: it is open, or is being opened."""

    @property
    def is_running(self) -> bool:
        """Whether the database is open."""

    async def submit(self, order: Order) -> tuple[Execution, bool]:
        """Keep *order*, and return its execution and whether it is that of an earlier order with the same key.

        ConflictError: that one was another order. UnavailableError: too many are unfinished. RefusedError (413): the
        input is too large.
        """

    async def get(self, deployment: str, execution_id: str, owner: str | None) -> Execution | None:
        """Return an execution; None if there is none."""

    async def wait(self, execution: Execution, seconds: float, *, until_end: bool = False) -> Execution:
        """Return *execution* once it has changed, or has ended if *until_end*, or after *seconds* as it is then."""

    async def page(self, query: Query) -> Page:
        """List executions; RefusedError (422): the cursor is none."""

    async def cancel(self, execution: Execution, reason: str = "") -> Execution:
        """Ask for its end; a terminal one stays as it is. A queued or waiting one is canceled at once."""

    async def resume(self, execution: Execution, value: Any) -> Execution:
        """Go on with what waits; ConflictError if it does not wait, or another was faster."""

    async def retry(self, execution: Execution) -> Execution:
        """Run a failed or canceled one again, from its last checkpoint; ConflictError if it is neither."""

    async def delete(self, execution: Execution) -> None:
        """Forget a terminal one; ConflictError if it is not."""

    def watch(self, execution: Execution, cursor: str = "", *, all_events: bool = False) -> AsyncIterator[StreamEvent]:
        """Yield chunks after *cursor* ("": from the first kept) and the end; *all_events*: status and progress too.

        Chunks of an attempt that a later one has replaced are left out. It ends without an ``end`` if the server stops.
        RefusedError (422): the cursor is none.
        """

    async def counts(self) -> Mapping[str, Counts]:
        """Return the counts by the deployment's name."""


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """How an attempt has ended."""

    kind: Literal["completed", "failed", "canceled", "waiting", "retry", "again", "handed back"]
    result: Any = None  # JSON
    error: ExecutionError | None = None  # of a failed one
    wait: Mapping[str, Any] | None = None  # of `suspend`; may have a `timeout` in seconds
    delay_s: float | None = None  # of `retry`; None: longer with each retry


@dataclass(frozen=True, slots=True)
class AttemptStart:
    """What an attempt begins with."""

    execution_id: str
    order: Order
    number: int  # from 1
    ordered_at: float  # Unix seconds
    resumed: int  # how often it was resumed
    resume_input: Any  # what it was resumed with the last time


class Host(Protocol):
    """Runs attempts on the serving loop."""

    async def admit(self, order: Order) -> str:
        """Wait until something deployed can run *order*, and return the id of its revision."""

    async def run(self, start: AttemptStart, journal: Journal) -> AttemptResult:
        """Run one attempt; a cancellation returns or raises only after the attempt has ended."""

    def reason_to_wait(self, order: Order) -> str:
        """Return what *order* waits for: "deployment", "revision v1"; "" if it can run. From any thread."""

    def names(self) -> Sequence[str]:
        """Return the names of what is deployed."""

    def concurrency_of(self, name: str) -> int | None:
        """Return how many executions of a deployment run at a time; None: as many as of others."""


class SupersededError(ExecutionControl):
    """The attempt has ended: nothing more of it is kept."""
