"""An execution in memory: runs the durable method of a wrapper attempt by attempt, without a server or a database."""

import asyncio
import json
from typing import Any

from haystack.core.serialization import allow_deserialization_module

from hayhooks.kernel.durable import durable_method
from hayhooks.kernel.haystack_hooks import pipelines
from hayhooks.kernel.operations import DurableMethod
from hayhooks.toolkit.agent_memo import remember
from hayhooks.toolkit.durable import DurableContext, DurableExecutionCancelledError, RetryRequested, Suspended
from hayhooks.toolkit.durable_scope import durable_context_scope
from hayhooks.toolkit.journal import PayloadError, ProgressEvent, TooLargeError, steps_of
from hayhooks.wrapper import BasePipelineWrapper


class MemoryJournal:
    """A journal of JSON in memory; it outlives the attempts."""

    max_payload = 1_000_000  # bytes

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}
        self.events: list[ProgressEvent] = []
        self.chunks: list[Any] = []
        self.wants_end = False

    @property
    def progress(self) -> int:
        """Number of the last progress event."""
        return len(self.events)

    def read_again(self) -> None:
        """Copy what is kept, as an attempt in another process gets it."""
        self.entries = json.loads(json.dumps(self.entries))

    async def keep(self, key: str, value: Any) -> None:
        """Keep a copy of *value*; PayloadError if it is no JSON, or too large."""
        try:
            text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise PayloadError(f"{key} cannot be stored as JSON: {error}") from None
        if len(text) > self.max_payload:
            raise TooLargeError(f"{key} has {len(text):,} characters of JSON: {self.max_payload:,} are allowed")
        self.entries[key] = json.loads(text)

    async def report(self, events: list[ProgressEvent]) -> None:
        """Add to the progress."""
        self.events += events

    async def emit(self, payload: Any) -> None:
        """Add a chunk."""
        self.chunks.append(payload)

    async def is_cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        return self.wants_end


class Execution:
    """An execution of *wrapper*'s ``run_durable`` for *request*, a model or a dict of its fields.

    ``run`` runs one attempt; call it again for the next, as after a crash, or after ``resume``.

    Attributes:
        attempt: how many attempts were begun.
        waiting: what ``suspend`` was called with, while it waits; else None.
        retry: why the last attempt asked for another; "" if it did not.
    """

    def __init__(self, wrapper: BasePipelineWrapper, request: Any, *, owner_id: str | None = None) -> None:
        if wrapper.pipeline is None:
            wrapper.setup()
        durable = durable_method(wrapper)
        if durable is None:
            raise TypeError(f"{type(wrapper).__name__} has neither run_durable() nor run_durable_async()")
        # As in a server: what components return may have classes of the wrapper's module.
        allow_deserialization_module(type(wrapper).__module__)
        self.attempt = 0
        self.waiting: dict[str, Any] | None = None
        self.retry = ""
        self._durable: DurableMethod = durable
        self._wrapper = wrapper
        self._request = durable.request_model.model_validate(request)
        self._owner_id = owner_id
        self._journal = MemoryJournal()
        self._resumed = 0
        self._resume_input: Any = None

    @property
    def state(self) -> dict[str, Any]:
        """The ``state`` of the last checkpoint."""
        kept: dict[str, Any] = self._journal.entries.get("state", {}).get("state", {})
        return kept

    @property
    def steps(self) -> dict[str, Any]:
        """The kept results of steps, by name."""
        return steps_of(self._journal.entries)

    @property
    def progress(self) -> list[str]:
        """The messages of ``report_progress``."""
        return [event["message"] for event in self._journal.events]

    @property
    def chunks(self) -> list[Any]:
        """The payloads of ``stream_chunk``."""
        return self._journal.chunks

    def run(self) -> Any:
        """Run an attempt; return its result, None if it waits or wants another one. It raises what the method does."""
        return asyncio.run(self.run_async())

    async def run_async(self) -> Any:
        """Run an attempt on the running event loop."""
        self.waiting, self.retry = None, ""
        self.attempt += 1
        self._journal.read_again()
        for pipeline in pipelines(self._wrapper):
            remember(pipeline)
        context = DurableContext(
            self._journal,
            execution_id="test",
            attempt=self.attempt,
            owner_id=self._owner_id,
            resume_input=self._resume_input,
            resumed=self._resumed,
            target=self._wrapper.pipeline,
            memo=self._wrapper.durable_memo,
        )
        with durable_context_scope(context):
            try:
                if self._durable.on_loop:
                    return await self._durable.method(context, self._request)
                return await asyncio.to_thread(self._durable.method, context, self._request)
            except Suspended as suspended:
                self.waiting = suspended.wait
            except RetryRequested as retry:
                self.retry = str(retry)
            except DurableExecutionCancelledError:
                if not self._journal.wants_end:
                    raise
        return None

    def resume(self, value: Any) -> None:
        """Answer what it waits for; the next ``run`` gets *value*, checked by ``durable_resume_model``."""
        if self.waiting is None:
            raise RuntimeError("it does not wait: run it first")
        model = self._durable.resume_model
        if model is not None:
            value = model.model_validate(value).model_dump(mode="json", exclude_unset=True)
        self._resumed += 1
        self._resume_input = value

    def cancel(self) -> None:
        """Have ``check_cancelled`` raise from now on."""
        self._journal.wants_end = True
