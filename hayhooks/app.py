"""The application: a Starlette app around the dispatcher, with the deployer as its lifespan.

uvicorn ─> CORS ─> request context (id, record, exceptions to responses) ─> access (hosts, keys, body limits)
        ─> the user's middleware ─> the user's routes ─> dispatch
"""

import asyncio
import importlib
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hayhooks.current_app import as_current_app
from hayhooks.endpoints import BUILTIN
from hayhooks.errors import HayhooksError
from hayhooks.executions.options import ServiceOptions
from hayhooks.executions.service import ExecutionService
from hayhooks.http.access import AccessMiddleware, PublicRoute, log_exposure
from hayhooks.http.api_keys import ApiKeys
from hayhooks.http.attempts import AttemptHost
from hayhooks.http.decorators import DecoratedStarlette
from hayhooks.http.dispatch import (
    build_deployment_routes,
    build_generation,
    dispatch,
    next_generation,
    reserved_names,
)
from hayhooks.http.exceptions import exception_handlers
from hayhooks.http.hooks import Hooks, OnRequestEnd
from hayhooks.http.lookup import serving_summary
from hayhooks.http.middleware import BrowserCorsMiddleware, RequestContextMiddleware
from hayhooks.http.plug_in import PlugIn, lifespans, server_routes
from hayhooks.http.switch import Generation, Switch
from hayhooks.http.types import HTTP_TYPES
from hayhooks.kernel.admission import Limits
from hayhooks.kernel.executor import start_resolver, threads_by_deployment
from hayhooks.kernel.options import KernelOptions
from hayhooks.kernel.process_hooks import ProcessHooks
from hayhooks.kernel.quarantine import Quarantine
from hayhooks.kernel.reconcile import Reconciler
from hayhooks.kernel.revision_store import open_store, state_dir_of
from hayhooks.kernel.self_writes import self_writes
from hayhooks.kernel.state import Change, Revision, Snapshot
from hayhooks.kernel.static import WrapperFactory, check_directory, static_revisions
from hayhooks.kernel.threads import NO_THREAD, DaemonThreadPool
from hayhooks.kernel.trial import rollbacks
from hayhooks.observability.access_log import AccessLog
from hayhooks.observability.change_log import log_change
from hayhooks.observability.log import STDERR, log, writer_of
from hayhooks.observability.metrics import Metrics
from hayhooks.observability.tracing import configure_tracing, warn_if_missing
from hayhooks.observability.watchdog import BLOCKED_AFTER_S, Watchdog
from hayhooks.observability.worker_state import WorkerStateDir
from hayhooks.openapi.document import whole_document
from hayhooks.settings import Settings

Observe = Callable[[Change], None]


def create_app(
    settings: Settings | None = None,
    *,
    pipelines: Mapping[str, WrapperFactory] | None = None,
    plug_ins: Sequence[PlugIn] = BUILTIN,
    observe: Observe | None = None,
    on_request: OnRequestEnd | None = None,
    only: str | None = None,
) -> "Hayhooks":
    """Create an ASGI application that serves the pipelines directory of *settings*.

    Raises StartError or ``pydantic.ValidationError`` if a setting or one of *pipelines* cannot be used.

    Args:
        settings: default: those of the environment and ``.env``.
        pipelines: by name, a class that derives from ``BasePipelineWrapper``, or a function that makes a wrapper.
            They are loaded once, at the start, beside the directory, which need not exist then.
        plug_ins: modules that add routes and background work, see ``hayhooks.http.plug_in``.
        observe: called with every change, in the deployer's thread; default: logs a line for each.
        on_request: called with every request that has ended.
        only: the one name in the directory to serve; all if None.
    """
    return Hayhooks(
        settings or Settings(),
        plug_ins=plug_ins,
        observe=observe or log_change,
        on_request=on_request,
        only=only,
        pipelines=pipelines,
    )


class Hayhooks(DecoratedStarlette):
    """A Starlette application that serves a pipelines directory; its own routes win.

    An application that mounts it must run its lifespan, see docs/application.md.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        plug_ins: Sequence[PlugIn],
        observe: Observe,
        on_request: OnRequestEnd | None = None,
        only: str | None = None,
        pipelines: Mapping[str, WrapperFactory] | None = None,
    ) -> None:
        super().__init__(exception_handlers=exception_handlers(show_tracebacks=settings.show_tracebacks))
        self.router = _Router(redirect_slashes=False, default=dispatch, lifespan=_lifespan)
        self.settings = settings
        self.root = settings.pipelines_dir.absolute()  # wrappers may change the working directory
        self.plug_ins = plug_ins
        self.observe = observe
        self.only = only
        self.static = static_revisions(pipelines or {}, reserved_names(plug_ins))
        self.switch = Switch(build_generation(Snapshot(), plug_ins))
        self.reconciler: Reconciler | None = None  # while its lifespan runs
        self.executions = ExecutionService(_execution_options(settings, self.root))
        self.keys = ApiKeys(settings)
        self.metrics = self.switch.metrics = Metrics() if settings.metrics else None
        self.access_log: AccessLog | None = None
        self.openapi_schema: dict[str, Any] | None = None  # where a function in place of `openapi` may keep its result
        self.quarantine = Quarantine()  # what a supervisor says of deployments that end its workers
        self.worker_state = WorkerStateDir.of_environment()
        self.owns_process = False  # the process serves nothing else: process-wide effects are allowed
        self.blocked_after_s = 0.0  # when a blocked event loop is logged; 0: nobody watches it
        self.stop_by = math.inf  # of a monotonic clock: when its graceful time ends, once it stops
        self.hooks = Hooks()
        if self.metrics is not None:
            self.hooks.on_publish.append(self.metrics.live)
            self.hooks.on_change.append(self.metrics.changed)
            self.hooks.on_request_end.append(self.metrics)
        if on_request is not None:
            self.hooks.on_request_end.append(on_request)

    def build_middleware_stack(self) -> ASGIApp:
        """Put our middleware outside the user's: its errors become responses too."""
        # Overridden, as FastAPI does: Starlette's answers 500s outside CORS, and lets user middleware come first.
        app: ASGIApp = self.router
        if self.user_middleware:  # which may want to see responses where the routes raise errors
            app = ExceptionMiddleware(app, handlers=self.exception_handlers, debug=self.debug)
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        settings = self.settings
        public = [route for route in server_routes(self.plug_ins, Snapshot()) if isinstance(route, PublicRoute)]
        app = AccessMiddleware(app, settings, self.keys, public)
        body_limit = ("HAYHOOKS_MAX_BODY_SIZE", settings.max_body_size)
        cors = partial(
            BrowserCorsMiddleware,
            allow_origins=settings.cors_allow_origins,
            allow_origin_regex=settings.cors_allow_origin_regex,
            allow_methods=settings.cors_allow_methods,
            allow_headers=settings.cors_allow_headers,
            allow_credentials=settings.cors_allow_credentials,
            allow_private_network=settings.cors_allow_private_network,
            expose_headers=settings.cors_expose_headers,
            max_age=settings.cors_max_age,
        )
        return RequestContextMiddleware(app, cors, self.switch, body_limit, self.exception_handlers, self.hooks)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document of what is served; assign a function to replace it.

        ``/openapi.json`` and the pages show what the function returns; it may change the result of this one.
        """
        return whole_document(self.switch.live, self.settings.root_path, has_keys=self.settings.has_keys)

    def log_requests(self) -> None:
        """Write the access log, if it is on; for servers that write none themselves."""
        if self.settings.access_log and log.level(self.settings.log).no <= log.level("INFO").no:
            self.access_log = AccessLog(writer_of(STDERR), self.settings.log_format)
            self.hooks.on_request_end.append(self.access_log)

    def watch_event_loop(self, blocked_after_s: float = BLOCKED_AFTER_S) -> None:
        """Measure in a thread how late the event loop is, and log what blocks it for longer than *blocked_after_s*."""
        self.blocked_after_s = blocked_after_s

    def begin_stop(self, *, at_once: bool = False) -> None:
        """Say in ``/readyz`` that the server stops, and let its graceful time run; *at_once* there is none."""
        self.switch.stopping = True
        if at_once:
            for on_stop_at_once in self.hooks.on_stop_at_once:
                on_stop_at_once()
        if self.stop_by == math.inf:
            self.stop_by = time.monotonic() + self.settings.graceful_shutdown_timeout
            for on_stop in self.hooks.on_stop:
                on_stop()

    @asynccontextmanager
    async def traced(self, threads: DaemonThreadPool) -> AsyncIterator[None]:
        """Send the spans of requests in this context to OpenTelemetry, if its variables ask for it."""
        tracing = configure_tracing()
        if tracing is None:
            yield
            return
        await threads.run(
            tracing.connect
        )  # before any load: threads that import Haystack together can break each other
        self.hooks.on_request_end.append(tracing.end)  # also of the requests that are left at the end
        try:
            with self.hooks.use(on_request_start=tracing.begin):
                yield
        finally:
            await threads.run(tracing.close)


class _Router(Router):
    """The user's routes; an error of ours at the start is reported without a traceback."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]  # as awaitable as Starlette's coroutine
        if self.routes or scope["type"] == "lifespan":
            return super().__call__(scope, receive, send)
        return dispatch(scope, receive, send)  # nothing to match: benchmark row run-async falls by 2 % without this

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        failed: list[Message] = []

        async def hold_failure(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                failed.append(message)
            else:
                await send(message)

        try:
            await super().lifespan(scope, receive, hold_failure)
        except BaseException as error:
            reason = str(error) if isinstance(error, HayhooksError) else ""
            if isinstance(error, RuntimeError) and "start new thread" in str(error):  # Python's words
                reason = NO_THREAD
            for message in failed:
                await send({**message, "message": reason} if reason else message)
            raise


@asynccontextmanager
async def _lifespan(app: Hayhooks) -> AsyncIterator[None]:
    app.stop_by = math.inf
    with closing(DaemonThreadPool("lifespan", limit=1)) as threads:  # no wrapper can take it: the stop needs one
        threads.keep_thread()
        await start_resolver()
        await threads.run(check_directory, app.root, app.static)
        async with app.traced(threads), _deployer(app, threads):
            yield


@asynccontextmanager
async def _deployer(app: Hayhooks, threads: DaemonThreadPool) -> AsyncIterator[None]:
    """Run the deployer and the plug-ins' lifespans in this context."""
    settings, loop, metrics = app.settings, asyncio.get_running_loop(), app.metrics
    _prepare_process(settings)
    worker_dir = app.worker_state
    self_writes.share_notes(is_first=worker_dir.directory is None)
    if not app.owns_process:  # the commands log this themselves
        log_exposure(settings)
        warn_if_missing()

    # In a process of somebody else's there is a state directory if it is set.
    has_store = app.owns_process or settings.state_dir != "auto"
    store = open_store(app.root, settings.state_dir, settings.revisions_kept) if has_store else None
    publisher = _Publisher(app, worker_dir, loop)
    app.reconciler = app.switch.kernel = reconciler = Reconciler(
        app.root,
        KernelOptions(
            python_path=settings.python_path,
            only=app.only,
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
            freeze=app.owns_process,
            trim=app.owns_process,
        ),
        publish=publisher.publish,
        build_routes=partial(build_deployment_routes, plug_ins=app.plug_ins),
        transport=HTTP_TYPES,
        observe=publisher.observe,
        loop=loop,
        reserved=reserved_names(app.plug_ins),
        given=app.static,
        quarantine=app.quarantine,
        rolled_back=worker_dir.rollbacks,
        store=store,
        restore=settings.restore,
    )
    shared_metrics = metrics.shared(worker_dir) if metrics is not None else nullcontext()
    with (
        ProcessHooks(settings.python_path),
        threads_by_deployment(),
        as_current_app(app),
        app.keys.followed(),
        _watched(app, reconciler),
        shared_metrics,
    ):
        app.reconciler.start()
        try:
            async with app.lifespan_of_routers(), _executions(app, has_store), lifespans(app.plug_ins, app):
                try:
                    yield
                finally:
                    app.begin_stop()
        finally:
            app.begin_stop()  # also where the start has failed
            await threads.run(app.reconciler.stop, max(app.stop_by - time.monotonic(), 0.0))
            if app.access_log is not None:
                await threads.run(app.access_log.close)


def _execution_options(settings: Settings, root: Path) -> ServiceOptions:
    return ServiceOptions(
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


@asynccontextmanager
async def _executions(app: Hayhooks, has_state_dir: bool) -> AsyncIterator[None]:
    """Run executions in this context, once something that is deployed needs them."""
    loop, service = asyncio.get_running_loop(), app.executions
    host = AttemptHost(app, lambda: app.switch.live.snapshot, app.settings.durable_timeout, app.metrics)

    def note_snapshot(snapshot: Snapshot) -> None:
        host.note_snapshot()
        if any(deployment.durable for deployment in snapshot.deployments.values()):
            service.start()

    state_dir = state_dir_of(app.root, app.settings.state_dir) if has_state_dir else None
    with app.hooks.use(on_publish=note_snapshot, on_stop=lambda: loop.call_soon_threadsafe(service.begin_stop)):
        async with service.serving(host, state_dir):
            yield


@contextmanager
def _watched(app: Hayhooks, reconciler: Reconciler) -> Iterator[None]:
    if not app.blocked_after_s:
        yield
        return

    def not_live() -> list[Revision]:
        live = {*app.switch.live.snapshot.loaded}
        return [each.revision for each in reconciler.snapshot.loaded if each not in live]

    watchdog = Watchdog(
        app.blocked_after_s,
        # The live ones: a loop that is blocked has not switched to what was deployed since.
        lambda: [*app.switch.live.snapshot.loaded, *reconciler.retirement.draining()],
        lambda: [load.revision for load in reconciler.snapshot.loading.values()],
        not_live,
    )
    if app.metrics is not None:
        app.metrics.loop_lag = watchdog.longest_lag
    with watchdog.running(), app.hooks.use(on_stop=lambda: watchdog.stop_asked(app.stop_by)):
        yield


def _prepare_process(settings: Settings) -> None:
    if settings.python_path:  # what is imported later, when it is needed, might be found there
        for module in ("hayhooks.observability.prometheus", "prometheus_client.process_collector", "websockets"):
            importlib.import_module(module)
    if settings.streaming_components:  # the toolkit reads the environment, and this may be in .env only
        os.environ.setdefault("HAYHOOKS_STREAMING_COMPONENTS", settings.streaming_components)


class _Publisher:
    """Takes snapshots and changes from the deployer's thread to the event loop."""

    def __init__(self, app: Hayhooks, worker_dir: WorkerStateDir, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._worker_dir = worker_dir
        self._loop = loop
        self._latest: Generation | None = None  # the deployer's thread alone reads and writes it

    def publish(self, snapshot: Snapshot, published: Callable[[], None]) -> None:
        """Build the next generation, swap on the loop; *published* frees the old one."""
        self._latest = generation = next_generation(self._latest, snapshot, self._app.plug_ins)

        def swap() -> None:
            self._app.switch.publish(generation)
            self._app.openapi_schema = None
            for on_publish in self._app.hooks.on_publish:
                on_publish(snapshot)
            published()

        self._loop.call_soon_threadsafe(swap)
        self._worker_dir.post(serving_summary(snapshot))
        self._worker_dir.post_rollbacks(rollbacks(snapshot))

    def observe(self, change: Change) -> None:
        for on_change in self._app.hooks.on_change:  # after the swap, which the loop got before
            self._loop.call_soon_threadsafe(on_change, change)
        self._app.observe(change)
