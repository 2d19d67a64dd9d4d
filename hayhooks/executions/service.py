"""The service: executions for the plug-ins, on the serving loop. It opens the database when something needs it."""

import asyncio
import contextvars
import importlib
import importlib.util
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loguru import logger as log

from hayhooks.errors import RefusedError, StartError, UnavailableError, type_and_message
from hayhooks.executions.database_url import file_of
from hayhooks.executions.execution import Counts, Execution, Host, Order, Page, Query, StreamEvent
from hayhooks.executions.feed import Feeds
from hayhooks.executions.options import ServiceOptions
from hayhooks.executions.side_loop import LoopCall, SideLoop

if TYPE_CHECKING:
    from hayhooks.executions.runtime import Runtime

T = TypeVar("T")

MISSING = 'Executions need an extra: pip install "hayhooks[durable]"'

_ANSWER_S = 5.0  # for which a request waits for the database
_TRY_AGAIN_S = 2.0  # after a start that has failed


def is_installed() -> bool:
    """Whether the extra is there."""
    return importlib.util.find_spec("dbos") is not None


class ExecutionService:
    """Implements ``Executions``; for the serving loop."""

    def __init__(self, options: ServiceOptions) -> None:
        self.options = options
        self._url = ""
        self._problem = ""  # why the database cannot be opened
        self._file: Path | None = None  # of a SQLite database
        self._feeds = Feeds(self)
        self._host: Host | None = None
        self._side: SideLoop | None = None
        self._runtime: asyncio.Future[Runtime] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._background: LoopCall[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    @property
    def is_available(self) -> bool:
        """Whether executions can be ordered."""
        return self.options.mode != "false" and bool(self._url) and is_installed()

    @property
    def is_started(self) -> bool:
        """Whether something has needed the database."""
        return self._starting is not None

    @property
    def is_running(self) -> bool:
        """Whether the database is open."""
        return self._runtime is not None and self._runtime.done()

    @property
    def _may_have_any(self) -> bool:
        """Whether there may be executions: a database is not opened to find none in it."""
        return self.is_available and (self._starting is not None or self._file is None or self._file.exists())

    @asynccontextmanager
    async def serving(self, host: Host, state_dir: Path | None) -> AsyncIterator[None]:
        """Run attempts with *host* in this context, once ``start`` was called.

        StartError: the URL is none, or is not allowed. *state_dir*: for a file, where no URL is set.
        """
        file = state_dir / "durable.sqlite" if state_dir is not None else None
        self._url = self.options.url or (f"sqlite:///{file}" if file is not None else "")
        if self._url and self.options.mode != "false":
            file = file_of(self._url, self.options.root)
        self._file = file
        if self.options.mode == "true" and not self.is_available:
            raise StartError(f"HAYHOOKS_DURABLE is true. {self._reason()}")
        self._host = host
        if self.options.mode == "true" or (file is not None and file.exists() and self.is_available):
            self.start()  # something may have begun before
        try:
            yield
        finally:
            self.begin_stop()
            if self._stopping is not None:
                await self._stopping
            self._host = self._starting = self._runtime = self._side = self._stopping = None

    def begin_stop(self) -> None:
        """End all watching, and hand what runs to other processes."""
        if self._stopping is None and self._starting is not None:
            self._feeds.close()
            self._stopping = asyncio.create_task(self._stop())

    def start(self) -> None:
        """Open the database in the background, if that has not begun."""
        if self._starting is None and self._host is not None and self.is_available:
            self._runtime = asyncio.get_running_loop().create_future()
            self._side = SideLoop("executions")
            self._starting = asyncio.create_task(self._start(), context=contextvars.copy_context())

    async def submit(self, order: Order) -> tuple[Execution, bool]:
        """Keep an order, see ``Executions``."""
        host = self._host
        concurrency = (host.concurrency_of(order.deployment) if host else None) or self.options.concurrency
        return await self._call(lambda runtime: runtime.submit(order, concurrency))

    async def get(self, deployment: str, execution_id: str, owner: str | None) -> Execution | None:
        """Return an execution of *deployment*, or of any if that is ""; None if there is none."""
        if not self._may_have_any:
            return None
        names = [deployment] if deployment else self._host.names() if self._host else ()
        return await self._call(lambda runtime: runtime.get(names, execution_id, owner))

    async def wait(self, execution: Execution, seconds: float, *, until_end: bool = False) -> Execution:
        """Return *execution* once it has changed or ended, or after *seconds*."""
        return await self._feeds.wait(execution, seconds, until_end=until_end)

    async def page(self, query: Query) -> Page:
        """List executions; none where there can be none."""
        if not self._may_have_any:
            return Page([], "")
        return await self._call(lambda runtime: runtime.page(query))

    async def cancel(self, execution: Execution, reason: str = "") -> Execution:
        """Ask for the end of an execution."""
        return await self._call(lambda runtime: runtime.cancel(execution, reason), of=execution)

    async def resume(self, execution: Execution, value: Any) -> Execution:
        """Go on with what waits."""
        return await self._call(lambda runtime: runtime.resume(execution, value), of=execution)

    async def retry(self, execution: Execution) -> Execution:
        """Run a failed or canceled one again."""
        return await self._call(lambda runtime: runtime.retry(execution), of=execution)

    async def delete(self, execution: Execution) -> None:
        """Forget a terminal one."""
        await self._call(lambda runtime: runtime.delete(execution))

    def watch(self, execution: Execution, cursor: str = "", *, all_events: bool = False) -> AsyncIterator[StreamEvent]:
        """Yield what happens to an execution."""
        return self._feeds.watch(execution, cursor, all_events=all_events)

    async def chunks(self, execution: Execution, offset: int) -> list[Any]:
        """Return the rows of chunks from *offset* on."""
        return await self._call(lambda runtime: runtime.chunks(execution, offset))

    async def counts(self) -> Mapping[str, Counts]:
        """Return the counts of what has not ended, by deployment; none while the database is not open."""
        return await self._call(lambda runtime: runtime.counts()) if self.is_running else {}

    async def _call(self, function: Callable[["Runtime"], Coroutine[Any, Any, T]], of: Execution | None = None) -> T:
        if self._host is None or self._stopping is not None:
            raise UnavailableError("executions are not served: the server starts or stops")
        if not self.is_available:
            raise RefusedError(501, self._reason())
        self.start()
        assert self._runtime is not None
        assert self._side is not None
        if self._problem:
            raise UnavailableError("the database of the executions cannot be opened; the log says why")
        try:
            async with asyncio.timeout(_ANSWER_S):
                runtime = await asyncio.shield(self._runtime)
                answer = await self._side.run(lambda: function(runtime))
        except TimeoutError:
            raise UnavailableError(f"the database of the executions has not answered for {_ANSWER_S:g} s") from None
        if of is not None:
            self._feeds.note_change(of.workflow_id)
        return answer

    def _reason(self) -> str:
        if self.options.mode == "false":
            return "Executions are turned off (HAYHOOKS_DURABLE)"
        if not self._url:
            return "Executions need a database: set HAYHOOKS_DURABLE_URL or HAYHOOKS_STATE_DIR"
        return MISSING

    async def _start(self) -> None:
        """Open the database, again and again if that fails."""
        assert self._runtime is not None
        assert self._side is not None
        assert self._host is not None
        side, serving = self._side, asyncio.get_running_loop()
        while True:
            try:
                runtime = await side.run(partial(self._launch, side, serving, self._host))
            except Exception as error:
                reason = str(error) if isinstance(error, StartError) else type_and_message(error)
                if reason != self._problem:
                    log.error("The database of the executions cannot be opened, which is tried again: {}", reason)
                self._problem = reason
                await asyncio.sleep(_TRY_AGAIN_S)
                continue
            self._problem = ""
            self._background = LoopCall(side.loop, runtime.run)
            self._runtime.set_result(runtime)
            return

    async def _launch(self, side: SideLoop, serving: asyncio.AbstractEventLoop, host: Host) -> "Runtime":
        # Not imported at the top: a server without executions pays nothing for them. In the side loop's thread.
        runtime = importlib.import_module("hayhooks.executions.runtime")
        launched: Runtime = await runtime.launch(self.options, self._url, side, serving, host, self._feeds.note_change)
        return launched

    async def _stop(self) -> None:
        assert self._starting is not None
        assert self._side is not None
        self._starting.cancel()
        await asyncio.wait([self._starting])
        if self.is_running:
            assert self._runtime is not None
            assert self._background is not None
            runtime = self._runtime.result()
            self._background.cancel()
            try:
                async with asyncio.timeout(self.options.grace_s + _ANSWER_S):
                    await self._side.run(lambda: runtime.stop(self.options.grace_s))
            except TimeoutError:
                log.warning("The running executions could not be handed over: the database does not answer")
            await asyncio.to_thread(runtime.close)
        await asyncio.to_thread(self._side.close)
