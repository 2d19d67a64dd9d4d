"""The application: a Starlette app around the switch, with the reconciler as its lifespan.

uvicorn ─> CORS ─> boundary (request id, errors, log line) ─> guard (hosts, keys, limits) ─> the user's middleware
        ─> their routes ─> switch
"""

import asyncio
import importlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial, wraps
from inspect import iscoroutinefunction, signature
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hayhooks.current_app import as_current_app
from hayhooks.endpoints import BUILTIN
from hayhooks.errors import StartError
from hayhooks.http.access import AccessMiddleware, log_exposure
from hayhooks.http.dispatch import (
    Generation,
    Switch,
    build_deployment_routes,
    failure_text,
    next_generation,
    reserved_names,
    serving_summary,
)
from hayhooks.http.json import encode
from hayhooks.http.keys import ApiKeys
from hayhooks.http.middleware import (
    EXTRA_HEADERS,
    OnRequestEnd,
    OnRequestStart,
    RequestContextMiddleware,
    exception_handlers,
)
from hayhooks.http.plug_in import Lifespan, PlugIn
from hayhooks.http.types import HTTP_TYPES
from hayhooks.kernel import self_writes
from hayhooks.kernel.haystack_hooks import install_hooks
from hayhooks.kernel.isolation import install_python_path
from hayhooks.kernel.limits import Limits
from hayhooks.kernel.options import KernelOptions
from hayhooks.kernel.reconcile import Change, Publish, Reconciler
from hayhooks.kernel.state import Deployment, Failure, Snapshot
from hayhooks.kernel.static import WrapperFactory, check_directory, static_revisions
from hayhooks.observability.access_log import AccessLog
from hayhooks.observability.log import log
from hayhooks.observability.metrics import Metrics
from hayhooks.observability.tracing import configure_tracing as set_up_tracing
from hayhooks.observability.tracing import warn_if_missing
from hayhooks.observability.worker_state import WorkerStateDir
from hayhooks.settings import Settings

Observe = Callable[[Change], None]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class Hayhooks(Starlette):
    """A Starlette application that serves a pipelines directory.

    Routes added to it win over deployments of the same name. Its lifespan runs the deployer: an application that
    mounts it must run that lifespan, see docs/application.md.
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
        super().__init__()
        self.settings = settings
        self.root = settings.pipelines_dir.absolute()  # wrappers may change the working directory
        self.switch = Switch(plug_ins)
        self.reconciler: Reconciler | None = None  # while its lifespan runs
        self.given = static_revisions(pipelines or {}, reserved_names(plug_ins))
        self.router = _Router(
            redirect_slashes=False, default=self.switch, lifespan=partial(_lifespan, observe, plug_ins, only)
        )
        self.exception_handlers = exception_handlers(show_tracebacks=settings.show_tracebacks)
        self.keys = ApiKeys(settings)
        self.metrics = Metrics() if settings.metrics else None
        self.switch.metrics = self.metrics
        self.access_log: AccessLog | None = None
        self.owns_process = False  # it serves nothing else, so that we may settle what holds for all of it
        self._on_begin: list[OnRequestStart] = []
        self._on_request: list[OnRequestEnd] = [told for told in (self.metrics, on_request) if told is not None]

    def build_middleware_stack(self) -> ASGIApp:
        """CORS, boundary and guard outside the user's middleware: what that raises becomes a response too.

        Starlette's own outermost layer, which answers 500 outside CORS, is not needed then; nor is the one that makes
        responses of errors, but where there is middleware that wants to see those.
        """
        app: ASGIApp = self.router
        if self.user_middleware:
            app = ExceptionMiddleware(app, handlers=self.exception_handlers, debug=self.debug)
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        guarded = AccessMiddleware(app, self.settings, self.keys)
        return _cors(
            RequestContextMiddleware(guarded, self.exception_handlers, self._on_begin, self._on_request), self.settings
        )

    def log_requests(self) -> None:
        """Write the access log, if the settings ask for it: to be called where no other server writes one."""
        if self.settings.access_log and log.level(self.settings.log).no <= log.level("INFO").no:
            self.access_log = AccessLog()
            self._on_request.append(self.access_log)

    @asynccontextmanager
    async def traced(self) -> AsyncIterator[None]:
        """Trace requests in this context, if OpenTelemetry's variables ask for it."""
        tracing = set_up_tracing()
        if tracing is None:
            yield
            return
        # Before anything is loaded: threads that import Haystack together can break each other.
        await asyncio.to_thread(tracing.connect)
        self._on_begin.append(tracing.begin)
        self._on_request.append(tracing.end)
        try:
            yield
        finally:
            self._on_begin.remove(tracing.begin)
            await asyncio.to_thread(tracing.close)

    def get(self, path: str) -> Callable[[Endpoint], Endpoint]:
        """Add a route: ``@app.get("/ping")`` above a function, whose dict, list or text is sent as JSON."""
        return self._method(path, "GET")

    def post(self, path: str) -> Callable[[Endpoint], Endpoint]:
        """As ``get``."""
        return self._method(path, "POST")

    def put(self, path: str) -> Callable[[Endpoint], Endpoint]:
        """As ``get``."""
        return self._method(path, "PUT")

    def patch(self, path: str) -> Callable[[Endpoint], Endpoint]:
        """As ``get``."""
        return self._method(path, "PATCH")

    def delete(self, path: str) -> Callable[[Endpoint], Endpoint]:
        """As ``get``."""
        return self._method(path, "DELETE")

    def middleware(self, kind: str) -> Callable[[Endpoint], Endpoint]:
        """Add a function ``async (request, call_next) -> response`` that every request passes through.

        Raises:
            ValueError: *kind* is not "http".
        """
        if kind != "http":
            raise ValueError(f"middleware({kind!r}): only 'http' exists")

        def add(function: Endpoint) -> Endpoint:
            self.add_middleware(BaseHTTPMiddleware, dispatch=function)
            return function

        return add

    def _method(self, path: str, method: str) -> Callable[[Endpoint], Endpoint]:
        def add(function: Endpoint) -> Endpoint:
            self.add_route(path, _endpoint(function), methods=[method])
            return function

        return add


class _Cors(CORSMiddleware):
    """Starlette's, but it stays out of the way of requests that no page has sent: it costs them 4 microseconds.

    What it would do to their answers, and caches rely on, is one more header.
    """

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        for name, _ in scope.get("headers", ()):
            if name == b"origin":
                return super().__call__(scope, receive, send)
        scope[EXTRA_HEADERS] = [(b"vary", b"Origin")]
        return self.app(scope, receive, send)


class _Router(Router):
    """Starlette's, for the user's own routes.

    Where there are none it only leads on. Of a start that failed on purpose it tells the message and not the traceback.
    """

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        if self.routes or scope["type"] == "lifespan":
            return super().__call__(scope, receive, send)
        return self.default(scope, receive, send)

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_message(message: Message) -> None:
            if isinstance(error := sys.exception(), StartError):
                message["message"] = str(error)
            await send(message)

        await super().lifespan(scope, receive, send_message)


def create_app(
    settings: Settings | None = None,
    *,
    pipelines: Mapping[str, WrapperFactory] | None = None,
    plug_ins: Sequence[PlugIn] = BUILTIN,
    observe: Observe | None = None,
    on_request: OnRequestEnd | None = None,
    only: str | None = None,
) -> Hayhooks:
    """An ASGI application that serves the pipelines directory of *settings*.

    Args:
        settings: default: those of the environment and ``.env``.
        pipelines: wrappers to serve beside those of the directory, which need not be there then: by name a class that
            derives from ``BasePipelineWrapper``, or a function without arguments that makes a wrapper. They are loaded
            as a folder is, once, when the application starts.
        plug_ins: what makes routes of snapshots.
        observe: told of every change, in the deployer's thread; default: a log line each.
        on_request: told of every request that has ended; default: nobody.
        only: the one name in the directory to serve; all if None.

    Raises:
        pydantic.ValidationError: a setting in the environment does not fit.
        StartError: the file with the API keys cannot be read, or holds none; or one of *pipelines* cannot be served.
            One whose name the directory has too is told when the application starts, which it then does not.
    """
    settings = settings or Settings()
    observe = observe or log_change
    return Hayhooks(settings, plug_ins=plug_ins, observe=observe, on_request=on_request, only=only, pipelines=pipelines)


def log_change(change: Change) -> None:
    """Write one line about *change* to the log; of a failure all that is known."""
    about = log.bind(pipeline=change.name)
    match change.outcome:
        case Deployment(revision=revision):
            about = about.bind(event="deployed", revision=revision.id, took_ms=round(change.took_ms, 1))
            about.info("Deployed {} {} in {:.0f} ms", change.name, revision.id, change.took_ms)
        case Failure() as failure:
            still = f"; revision {change.serving.revision.id} keeps serving" if change.serving else ""
            about = about.bind(event="failed", revision=failure.revision.id, took_ms=round(change.took_ms, 1))
            about = about.bind(serving=change.serving.revision.id if change.serving else None)
            about.error("Failed to load {} {}{}\n{}", change.name, failure.revision.id, still, failure_text(failure))
        case None if change.serving is None:
            about.bind(event="undeployed").info("Undeployed {}", change.name)
        case None:
            serving = change.serving.revision.id
            about = about.bind(event="restored", revision=serving)
            about.info("{} is again at the revision that serves, {}", change.name, serving)


@asynccontextmanager
async def _lifespan(
    observe: Observe, plug_ins: Sequence[PlugIn], only: str | None, app: Hayhooks
) -> AsyncIterator[None]:
    """Run the deployer as long as the application is served."""
    settings, loop, metrics = app.settings, asyncio.get_running_loop(), app.metrics
    await asyncio.to_thread(check_directory, app.root, app.given)
    _make_importable(settings)
    worker_dir = WorkerStateDir.of_environment()
    self_writes.share_with_workers(worker_dir.notes)

    app.reconciler = Reconciler(
        app.root,
        KernelOptions(
            python_path=settings.python_path,
            only=only,
            threads=settings.threads,
            limits=Limits(settings.request_timeout, settings.concurrency, settings.queue_size),
            debounce_ms=settings.debounce_ms,
            removal_grace_ms=settings.removal_grace_ms,
            poll_interval_ms=settings.poll_interval_ms,
            drain_s=settings.drain_timeout,
            check_s=settings.check_timeout,
            events=settings.watch_events,
            freeze=app.owns_process,
        ),
        publish=_publisher(app, plug_ins, worker_dir, loop),
        build_routes=partial(build_deployment_routes, plug_ins=plug_ins),
        transport=HTTP_TYPES,
        observe=observe if metrics is None else partial(_count_and_tell, metrics, loop, observe),
        loop=loop,
        reserved=reserved_names(plug_ins),
        given=app.given,
    )
    app.switch.kernel = app.reconciler
    if worker_dir.directory is None:  # of several workers the process that has started us says it, once
        log_exposure(settings)
        warn_if_missing()
    shared = metrics.shared(worker_dir) if metrics is not None else nullcontext()
    async with app.traced():
        with as_current_app(app), app.keys.followed(), shared:
            app.reconciler.start()
            try:
                async with AsyncExitStack() as stack:
                    for plug_in in plug_ins:
                        if isinstance(plug_in, Lifespan):
                            await stack.enter_async_context(plug_in.lifespan(app))
                    yield
                    app.switch.stopping = True
            finally:
                await _stop(app, app.reconciler)


def _publisher(
    app: Hayhooks, plug_ins: Sequence[PlugIn], worker_dir: WorkerStateDir, loop: asyncio.AbstractEventLoop
) -> Publish:
    metrics = app.metrics
    latest: Generation | None = None

    def publish(snapshot: Snapshot, published: Callable[[], None]) -> None:
        """In the deployer's thread: build all, then swap on the loop, and only there let go of the old."""
        nonlocal latest
        latest = generation = next_generation(latest, snapshot, plug_ins)

        def swap() -> None:
            app.switch.publish(generation)
            if metrics is not None:
                metrics.live(snapshot)
            published()

        loop.call_soon_threadsafe(swap)
        worker_dir.post(serving_summary(snapshot))

    return publish


async def _stop(app: Hayhooks, reconciler: Reconciler) -> None:
    app.switch.stopping = True
    await asyncio.to_thread(reconciler.stop, float(app.settings.graceful_shutdown_timeout))
    if app.access_log is not None:
        await asyncio.to_thread(app.access_log.close)


def _count_and_tell(metrics: Metrics, loop: asyncio.AbstractEventLoop, observe: Observe, change: Change) -> None:
    loop.call_soon_threadsafe(metrics.changed, change)  # after the swap, which was sent there before
    observe(change)


def _make_importable(settings: Settings) -> None:
    if settings.python_path:  # what we import when it is needed might be found there
        for module in ("hayhooks.observability.prometheus", "prometheus_client.process_collector", "websockets"):
            importlib.import_module(module)
    install_python_path(settings.python_path, after_import=install_hooks)
    if settings.streaming_components:  # the toolkit reads the environment; it may stand in .env alone
        os.environ.setdefault("HAYHOOKS_STREAMING_COMPONENTS", settings.streaming_components)


def _cors(app: ASGIApp, settings: Settings) -> ASGIApp:
    return _Cors(
        app,
        allow_origins=settings.cors_allow_origins,
        allow_origin_regex=settings.cors_allow_origin_regex,
        allow_methods=settings.cors_allow_methods,
        allow_headers=settings.cors_allow_headers,
        allow_credentials=settings.cors_allow_credentials,
        expose_headers=settings.cors_expose_headers,
        max_age=settings.cors_max_age,
    )


def _endpoint(function: Callable[..., Any]) -> Callable[[Request], Awaitable[Response]]:
    """*function* as Starlette wants it: with a request, asynchronous, and giving a response."""
    wants_request = bool(signature(function).parameters)
    is_async = iscoroutinefunction(function)

    @wraps(function)
    async def endpoint(request: Request) -> Response:
        arguments = (request,) if wants_request else ()
        result = await function(*arguments) if is_async else await run_in_threadpool(function, *arguments)
        return result if isinstance(result, Response) else Response(encode(result), media_type="application/json")

    return endpoint
