"""Router and switch: from a snapshot to a plain Starlette router, and from a request to the live one.

A generation is built whole, then one assignment makes it live. A request reads that attribute once.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeGuard

from starlette._utils import get_route_path
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from hayhooks.errors import NotFoundError, OpenAIError, TimedOutError, UnavailableError
from hayhooks.http.middleware import EXTRA_HEADERS
from hayhooks.http.plug_in import PlugIn, deployment_routes, server_routes
from hayhooks.kernel.admission import Lease, current_lease
from hayhooks.kernel.reconcile import Reconciler
from hayhooks.kernel.state import Deployment, Failure, Snapshot
from hayhooks.observability.metrics import Metrics
from hayhooks.observability.request_record import RequestRecord, current_request

# First path segments of routes that are to come: a folder must not be served today and refused after an update.
RESERVED = frozenset({"mcp"})

_SCOPE_KEY = "hayhooks.switch"
_DEPLOYMENT_KEY = "hayhooks.deployment"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What the plug-ins made of one deployment."""

    router: Router
    paths: tuple[str, ...]  # with the name in front, as people call them
    header: tuple[bytes, bytes]  # that tells the revision
    apps: dict[str, Route] = field(default_factory=dict)  # the routes that are one path and an app: need no matching

    def app_at(self, path: str, scope: Scope) -> ASGIApp:
        """What serves a request for *path*, which is what follows ``/{name}``."""
        route = self.apps.get(path)
        if route is None or scope["method"] not in route.methods:  # type: ignore[operator]  # these have methods
            return self.router
        scope["route"] = route
        return route.app

    def route_of(self, scope: Scope) -> BaseRoute | None:
        """The route that a request below ``/{name}`` will take."""
        return next((route for route in self.router.routes if route.matches(scope)[0] is Match.FULL), None)


@dataclass(frozen=True, slots=True)
class Generation:
    """A snapshot with its router; an ASGI app.

    Every deployment is found by the first path segment in a dict: 1,000 cost a request what one costs. A ``BaseRoute``
    of the router that does it took 3 microseconds of a request more.
    """

    snapshot: Snapshot
    router: Router  # of the server's own routes
    paths: frozenset[str]  # theirs

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request: from a deployment, or by the server's own routes."""
        path = get_route_path(scope)
        name = path[1:].partition("/")[0]
        deployment = self.snapshot.deployments.get(name)
        if deployment is None or path in self.paths or scope["type"] != "http":
            return self.router(scope, receive, send)
        root_path = scope.get("root_path", "")
        scope.setdefault("app_root_path", root_path)
        scope["root_path"] = f"{root_path}/{name}"
        scope[_DEPLOYMENT_KEY] = scope["endpoint"] = deployment
        current_request.get().below_name = True
        app = deployment.endpoints.app_at(path[1 + len(name) :], scope)
        return serve_with_lease(deployment, app, scope, receive, send)


def build_deployment_routes(deployment: Deployment, plug_ins: Sequence[PlugIn]) -> Endpoints:
    """Build the routes of *deployment*."""
    routes = list(deployment_routes(plug_ins, deployment))
    shown = [route.path for route in routes if isinstance(route, Route) and route.include_in_schema]
    paths = tuple(f"/{deployment.name}{path}" for path in shown)

    async def no_such_endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        path = get_route_path(scope) or "/"
        raise NotFoundError(f"{deployment.name!r} has no endpoint {path}; it has {', '.join(paths)}")

    router = Router(routes, redirect_slashes=False, default=no_such_endpoint)
    header = (b"x-hayhooks-revision", deployment.revision.id.encode())
    return Endpoints(
        router, paths, header, apps={route.path: route for route in reversed(routes) if _is_one_app(route)}
    )


def _is_one_app(route: BaseRoute) -> TypeGuard[Route]:
    """Whether *route* is a fixed path, and what is there an ASGI app."""
    return isinstance(route, Route) and route.app is route.endpoint and bool(route.methods) and "{" not in route.path


def build_generation(snapshot: Snapshot, plug_ins: Sequence[PlugIn]) -> Generation:
    """Build what serves *snapshot*: its deployments, and the server's routes."""
    routes = list(server_routes(plug_ins, snapshot))
    paths = frozenset(route.path for route in routes if isinstance(route, Route))
    unknown = partial(_unknown, frozenset(path.split("/")[1] for path in paths))
    return Generation(snapshot, Router(routes, redirect_slashes=False, default=unknown), paths)


def next_generation(live: Generation | None, snapshot: Snapshot, plug_ins: Sequence[PlugIn]) -> Generation:
    """Build what serves *snapshot*, with the router of *live* where deployments and failures are the same."""
    if live is not None and live.snapshot.generation == snapshot.generation:
        return replace(live, snapshot=snapshot)
    return build_generation(snapshot, plug_ins)


def reserved_names(plug_ins: Sequence[PlugIn]) -> frozenset[str]:
    """The names that deployments cannot have: the first path segments of the server's routes.

    But not of those like ``/chat/completions``, one fixed path that is no deployment's: ``chat`` is too good a name.
    """
    paths = [route.path for route in server_routes(plug_ins, Snapshot()) if isinstance(route, Route)]
    return RESERVED | {path.split("/")[1] for path in paths if path.count("/") == 1 or "{" in path}


class Switch:
    """The ASGI app that sends each request to the live generation."""

    def __init__(self, plug_ins: Sequence[PlugIn]) -> None:
        self.live = build_generation(Snapshot(), plug_ins)
        self.kernel: Reconciler | None = None  # while the lifespan runs
        self.metrics: Metrics | None = None  # where they are kept
        self.stopping = False
        self._superseded = asyncio.Event()  # the live generation is

    def publish(self, generation: Generation) -> None:
        """Make *generation* live; on the event loop. Requests that began before keep the one that they read."""
        self.live = generation
        superseded, self._superseded = self._superseded, asyncio.Event()
        superseded.set()

    async def wait_until_known(self, name: str) -> Snapshot:
        """The live snapshot, as soon as it can tell what *name* is: while the server starts, that may take a load.

        Raises:
            UnavailableError: it never will, because the lifespan of the application does not run.
        """
        while _may_come(self.live.snapshot, name):
            if self.kernel is None:
                raise UnavailableError(
                    "hayhooks has not been started: the application that it is mounted in must run its lifespan"
                )
            await self._superseded.wait()
        return self.live.snapshot

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request from one generation."""
        scope[_SCOPE_KEY] = self
        return self.live(scope, receive, send)


def _may_come(snapshot: Snapshot, name: str) -> bool:
    """Whether the server has just started, and *name* may be among what it has not loaded yet."""
    if snapshot.ready or name in snapshot.deployments or name in snapshot.failures:
        return False
    return name in snapshot.loading or not snapshot.looked


def switch_of(scope: Scope) -> Switch:
    """The switch that a request came through."""
    switch: Switch = scope[_SCOPE_KEY]
    return switch


def deployment_of(scope: Scope) -> Deployment:
    """The deployment in whose routes a request is."""
    deployment: Deployment = scope[_DEPLOYMENT_KEY]
    return deployment


async def wait_for_deployment(scope: Scope, name: str) -> Deployment | None:
    """The deployment *name* that is live now; while the server starts, wait until it can be known.

    For requests that name it in their body, which may have taken its time to come. Nothing may be awaited between
    this and the lease that ``lend`` takes.
    """
    snapshot = await switch_of(scope).wait_until_known(name)
    if _is_there(snapshot, name):
        _concerns(scope, name)
    return snapshot.deployments.get(name)


def _concerns(scope: Scope, name: str) -> RequestRecord:
    """Note in the request's record that it is one of the pipeline *name*, which exists."""
    record, metrics = current_request.get(), switch_of(scope).metrics
    record.pipeline = name
    if metrics is not None:
        record.counts = metrics.of(name)
    return record


async def serve_with_lease(deployment: Deployment, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run *app* for one request on a lease of *deployment*, to the last byte; the answer names the revision."""
    record = _concerns(scope, deployment.name)
    scope[EXTRA_HEADERS].append(deployment.endpoints.header)
    record.revision, counts = deployment.revision.id, record.counts
    if counts is not None:
        counts.in_flight += 1
    lease = Lease(asyncio.current_task())
    current_lease.set(lease)
    deployment.runtime.leases.take(lease)
    if deployment.timeout_s:
        lease.expire_in(deployment.timeout_s, partial(TimedOutError, deployment.timeout_s))
    try:
        if deployment.runtime.slots is not None and scope["method"] == "POST":
            _refuse_if_full(deployment, scope)  # before the body is read; what asks for work asks again after it
        await app(scope, receive, send)
    except asyncio.CancelledError:
        lease.raise_expired()
        raise
    finally:
        if counts is not None:
            counts.in_flight -= 1
        lease.end()
        deployment.runtime.leases.give_back(lease)


def _refuse_if_full(deployment: Deployment, scope: Scope) -> None:
    assert deployment.runtime.slots is not None
    try:
        deployment.runtime.slots.refuse_if_full()
    except UnavailableError:
        if "route" not in scope:  # it has come too early for one; who counts requests wants to know which it was
            scope["route"] = deployment.endpoints.route_of(scope)
        raise


async def _unknown(server_names: frozenset[str], scope: Scope, receive: Receive, send: Send) -> None:
    """Answer for a path that nothing serves: say what is wrong with it, or serve it after all when just starting."""
    switch, name = switch_of(scope), _first_segment(scope)
    if scope["type"] != "http":
        raise NotFoundError(f"no websocket is served at {get_route_path(scope)}")
    snapshot = await switch.wait_until_known(name)
    if not name or (name in server_names and not _is_there(snapshot, name)):
        raise NotFoundError(f"nothing is served at {get_route_path(scope)}; /status lists what is, /docs shows it")
    if name in snapshot.deployments:
        await switch.live(scope, receive, send)
        return
    if _is_there(snapshot, name):
        _concerns(scope, name)
    raise not_served_error(snapshot, name)


def _is_there(snapshot: Snapshot, name: str) -> bool:
    return any(name in names for names in (snapshot.deployments, snapshot.failures, snapshot.loading))


def serving_summary(snapshot: Snapshot) -> dict[str, Any]:
    """What a worker serves, in short; ``revision`` is equal on two of them if and only if they serve the same."""
    all_served = "".join(f"{name}\0{d.revision.fingerprint}\0" for name, d in snapshot.deployments.items())
    revision = hashlib.blake2b(all_served.encode(errors="surrogateescape"), digest_size=6).hexdigest()
    return {"generation": snapshot.generation, "revision": revision, "ready": snapshot.ready and not snapshot.problem}


def not_served_error(snapshot: Snapshot, name: str) -> NotFoundError | UnavailableError:
    """Why *name* is not served: it failed to load, is being loaded, or is not there."""
    failure = snapshot.failures.get(name)
    if name in snapshot.loading:
        return UnavailableError(f"pipeline {name!r} is being loaded")
    if failure is not None:
        return UnavailableError(f"pipeline {name!r} failed to load: {failure.reason}")
    close = get_close_matches(name, snapshot.deployments, n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else ""
    return NotFoundError(f"there is no pipeline {name!r}{suggestion}")


def model_not_served_error(snapshot: Snapshot, model: str) -> OpenAIError:
    """The same for OpenAI's clients, who name it as their model."""
    error = not_served_error(snapshot, model)
    if isinstance(error, NotFoundError):
        return OpenAIError(404, f"The model {model!r} does not exist", param="model", code="model_not_found")
    return OpenAIError(503, str(error), type="server_error", param="model", code="model_not_ready")


def _first_segment(scope: Scope) -> str:
    return get_route_path(scope)[1:].partition("/")[0]


def failure_text(failure: Failure) -> str:
    """A failure for people: the reason, where it is in their code, what would help, and the traceback."""
    lines = [failure.reason]
    if failure.place is not None:
        lines.append(f"at {failure.place.file}:{failure.place.line}: {failure.place.source}".rstrip(": "))
    if failure.hint:
        lines.append(f"hint: {failure.hint}")
    if failure.traceback:
        lines += ["", failure.traceback.rstrip()]
    return "\n".join(lines)
