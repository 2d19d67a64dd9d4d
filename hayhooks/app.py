"""The application: a Starlette app around the switch, with the reconciler as its lifespan.

uvicorn ─> CORS ─> boundary (request id, errors, log line) ─> the user's middleware ─> their routes ─> switch
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial, wraps
from inspect import iscoroutinefunction, signature
from socket import socket
from types import FrameType
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import ASGIApp

from hayhooks.boundary import Boundary, OnRequest, exception_handlers
from hayhooks.encode import encode
from hayhooks.endpoints import BUILTIN
from hayhooks.kernel import own_files
from hayhooks.kernel.haystack import prepare
from hayhooks.kernel.modules import share
from hayhooks.kernel.reconcile import Change, Reconciler
from hayhooks.kernel.snapshot import Deployment, Failure, Snapshot
from hayhooks.logger import log
from hayhooks.parting import Connection, stop_listening
from hayhooks.router import PlugIn, Switch, build, equip, error_text, reserved_names, served
from hayhooks.running import running
from hayhooks.settings import Settings
from hayhooks.workers import Board

Observe = Callable[[Change], None]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class Hayhooks(Starlette):
    """A Starlette application that serves a pipelines directory.

    Routes added to it win over deployments of the same name. Its lifespan runs the deployer: an application that
    mounts it must run that lifespan, see the README.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        plug_ins: Sequence[PlugIn],
        observe: Observe,
        on_request: OnRequest | None = None,
        only: str | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.root = settings.pipelines_dir.absolute()  # wrappers may change the working directory
        self.switch = Switch(plug_ins)
        self.reconciler: Reconciler | None = None  # while its lifespan runs
        self.router = Router(
            redirect_slashes=False, default=self.switch, lifespan=partial(_lifespan, observe, plug_ins, only)
        )
        self.exception_handlers = exception_handlers(show_tracebacks=settings.show_tracebacks)
        self._on_request = on_request

    def build_middleware_stack(self) -> ASGIApp:
        """CORS and boundary outside the user's middleware: what that raises becomes a response too.

        Starlette's own outermost layer, which answers 500 outside CORS, is not needed then.
        """
        app: ASGIApp = ExceptionMiddleware(self.router, handlers=self.exception_handlers, debug=self.debug)
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        return _cors(Boundary(app, self._on_request), self.settings)

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


def create_app(
    settings: Settings | None = None,
    *,
    plug_ins: Sequence[PlugIn] = BUILTIN,
    observe: Observe | None = None,
    on_request: OnRequest | None = None,
    only: str | None = None,
) -> Hayhooks:
    """An ASGI application that serves the pipelines directory of *settings*.

    Args:
        settings: default: those of the environment and ``.env``.
        plug_ins: what makes routes of snapshots.
        observe: told of every change, in the deployer's thread; default: a log line each.
        on_request: told of every answered request; default: nobody.
        only: the one name in the directory to serve; all if None.

    Raises:
        pydantic.ValidationError: a setting in the environment does not fit.
    """
    settings = settings or Settings()
    return Hayhooks(settings, plug_ins=plug_ins, observe=observe or log_change, on_request=on_request, only=only)


def run_app(app: Hayhooks | None = None, **settings: Any) -> None:
    """Serve *app* (default: one with *settings*) until SIGINT or SIGTERM, then stop as ``hayhooks run`` does."""
    serve(app or create_app(Settings(**settings)))


def serve(app: Hayhooks) -> None:
    """Serve *app* in this process until SIGINT or SIGTERM.

    No new work then, open requests and streams get the graceful time, everything is torn down, and this returns.

    Raises:
        SystemExit: the server could not start; uvicorn has logged why.
    """
    _Server(uvicorn.Config(app, **server_options(app.settings))).run()


def server_options(settings: Settings) -> dict[str, Any]:
    """How uvicorn serves us."""
    return {
        "host": settings.host,
        "port": settings.port,
        "root_path": settings.root_path,
        "timeout_graceful_shutdown": settings.graceful_shutdown_timeout,
        "log_config": None,  # ours is set up already
        "access_log": False,  # the boundary writes a line with more in it
        "http": Connection,
    }


class _Server(uvicorn.Server):
    """uvicorn's server, but one that returns after a signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals as uvicorn does, without its raising them again at the end: that would end us with -15."""
        with super().capture_signals():
            try:
                yield
            finally:
                self._captured_signals.clear()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; ``/readyz`` says so on connections that are still open."""
        self.config.app.switch.stopping = True  # type: ignore[union-attr]
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop as uvicorn does; who is at the door is let in first."""
        await stop_listening(self.servers)
        await super().shutdown(sockets)


def log_change(change: Change) -> None:
    """Write one line about *change* to the log; of a failure all that is known."""
    match change.outcome:
        case Deployment() as deployment:
            log.info("Deployed {} {} in {:.0f} ms", change.name, deployment.revision.id, change.took_ms)
        case Failure() as failure:
            still = f"; revision {change.serving.revision.id} keeps serving" if change.serving else ""
            log.error("Failed to load {} {}{}\n{}", change.name, failure.revision.id, still, error_text(failure))
        case None if change.serving is None:
            log.info("Undeployed {}", change.name)
        case None:
            log.info("{} is again at the revision that serves, {}", change.name, change.serving.revision.id)


@asynccontextmanager
async def _lifespan(
    observe: Observe, plug_ins: Sequence[PlugIn], only: str | None, app: Hayhooks
) -> AsyncIterator[None]:
    """Run the deployer as long as the application is served."""
    settings, loop = app.settings, asyncio.get_running_loop()
    _make_importable(settings)
    board = Board.of_environment()
    own_files.share(board.notes)

    def publish(snapshot: Snapshot, published: Callable[[], None]) -> None:
        """In the deployer's thread: build all, then swap on the loop, and only there let go of the old."""
        generation = build(snapshot, plug_ins)

        def swap() -> None:
            app.switch.publish(generation)
            published()

        loop.call_soon_threadsafe(swap)
        board.post(served(snapshot))

    app.reconciler = Reconciler(
        app.root,
        publish=publish,
        equip=partial(equip, plug_ins=plug_ins),
        observe=observe,
        loop=loop,
        reserved=reserved_names(plug_ins),
        python_path=settings.python_path,
        only=only,
        threads=settings.threads,
        settle_ms=settings.settle_ms,
        look_around_ms=settings.look_around_ms,
        drain_s=settings.drain_timeout,
        check_s=settings.check_timeout,
        events=settings.watch_events,
    )
    app.switch.kernel = app.reconciler
    with running(app):
        app.reconciler.start()
        try:
            yield
        finally:
            app.switch.stopping = True
            await asyncio.to_thread(app.reconciler.stop, float(settings.graceful_shutdown_timeout))


def _make_importable(settings: Settings) -> None:
    share(settings.python_path, after_import=prepare)
    if settings.streaming_components:  # the toolkit reads the environment; it may stand in .env alone
        os.environ.setdefault("HAYHOOKS_STREAMING_COMPONENTS", settings.streaming_components)


def _cors(app: ASGIApp, settings: Settings) -> ASGIApp:
    return CORSMiddleware(
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
