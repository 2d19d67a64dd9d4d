"""Dispatch: find the deployment, or the server's own route, for each request."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from hayhooks.errors import NotFoundError, RefusedError, TimedOutError, UnavailableError, shortened
from hayhooks.http.api_keys import refuse_call, refuse_path
from hayhooks.http.canary import choose
from hayhooks.http.context import (
    context_of,
    deployment_of,
    normal_path,
    record_pipeline,
    route_path,
    set_route_path,
    switch_of,
)
from hayhooks.http.lookup import exists, not_served_error
from hayhooks.http.plug_in import PlugIn, deployment_routes, server_routes
from hayhooks.http.switch import Generation
from hayhooks.http.within import BACKGROUND
from hayhooks.kernel.admission import Lease, Slots, current_lease
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.observability.request_record import current_request

# First path segments of future routes: a folder must not be served today and refused after an update.
RESERVED = frozenset({"mcp"})


def build_generation(snapshot: Snapshot, plug_ins: Sequence[PlugIn]) -> Generation:
    """Build the server's own routes for *snapshot*."""
    routes = list(server_routes(plug_ins, snapshot))
    paths = frozenset(route.path for route in routes if isinstance(route, Route))
    server_names = frozenset(path.split("/")[1] for path in paths)

    async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
        switch, path = switch_of(scope), route_path(scope)
        if (normal := normal_path(path)) != path:
            set_route_path(scope, normal)
            await scope["app"].router(scope, receive, send)
            return
        root_path = scope.get("root_path", "")
        longer = {**scope, "path": f"{root_path}{path}/"}
        users = scope["app"].router.routes if scope["type"] == "http" else ()
        if any(route.matches(longer)[0] is not Match.NONE for route in users):  # as a mounted directory does
            query = scope.get("query_string", b"").decode("latin-1")
            redirect = RedirectResponse(longer["path"] + (f"?{query}" if query else ""))
            await redirect(scope, receive, send)
            return
        if scope["type"] != "http":
            raise NotFoundError(f"no websocket is served at {root_path}{shortened(path)}")
        name = path[1:].partition("/")[0]
        if name not in server_names:
            refuse_call(context_of(scope).api_key, name)
        live = await switch.wait_until_known(name)
        if not name or (name in server_names and not exists(live, name)):
            there = f"{root_path}/status lists what is, {root_path}/docs shows it"
            raise NotFoundError(f"nothing is served at {root_path}{shortened(path)}; {there}")
        if name in live.deployments:  # it was loaded while the request waited
            await dispatch(scope, receive, send)
            return
        if exists(live, name):
            record_pipeline(context_of(scope), name)
        raise not_served_error(live, name)

    return Generation(
        snapshot, Router(routes, redirect_slashes=False, default=not_found), _exact(routes), paths, server_names
    )


def next_generation(live: Generation | None, snapshot: Snapshot, plug_ins: Sequence[PlugIn]) -> Generation:
    """Build the generation of *snapshot*, with the router of *live* if it still fits."""
    if live is not None and live.snapshot.generation == snapshot.generation:
        return replace(live, snapshot=snapshot)
    return build_generation(snapshot, plug_ins)


def reserved_names(plug_ins: Sequence[PlugIn]) -> frozenset[str]:
    """Return the names that deployments cannot have: first segments of server routes."""
    # But not of fixed paths like /chat/completions, which no deployment has: `chat` is too good a name.
    paths = [route.path for route in server_routes(plug_ins, Snapshot()) if isinstance(route, Route)]
    return RESERVED | {path.split("/")[1] for path in paths if path.count("/") == 1 or "{" in path}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The routes of one deployment."""

    router: Router
    exact: dict[str, Route]  # by path: the routes that need no pattern matching
    paths: tuple[str, ...]  # with the name in front, as clients see them
    header: tuple[bytes, bytes]  # with the revision
    forward_to: ASGIApp | None = None  # answers its requests in another process, which runs the wrapper

    def app_at(self, path: str, scope: Scope) -> ASGIApp:
        """Return the app for *path*, the part of the URL path after ``/{name}``."""
        route = self.exact.get(path)
        if route is None:
            route = self.exact.get(normal_path(path).removesuffix("/"))
            if route is None:
                return self.router
        return _app_of(route, scope)

    def route_of(self, scope: Scope) -> BaseRoute | None:
        """Return the route that a request below ``/{name}`` will take by its pattern."""
        return next((route for route in self.router.routes if route.matches(scope)[0] is Match.FULL), None)


def _exact(routes: Sequence[BaseRoute]) -> dict[str, Route]:
    """Return those of *routes* by path that no pattern is needed for, and no other has the path of."""
    plain = [route for route in routes if isinstance(route, Route)]
    uses = Counter(route.path for route in plain)
    return {route.path: route for route in plain if "{" not in route.path and uses[route.path] == 1}


def _app_of(route: Route, scope: Scope) -> ASGIApp:
    scope["route"], scope["endpoint"] = route, route.endpoint
    return route.app if scope["method"] in (route.methods or ()) else route.handle  # which says what is allowed


def build_deployment_routes(deployment: Deployment, plug_ins: Sequence[PlugIn]) -> Endpoints:
    """Build the routes of *deployment*."""
    routes = list(deployment_routes(plug_ins, deployment))
    plain = [route for route in routes if isinstance(route, Route)]
    paths = tuple(f"/{deployment.name}{route.path}" for route in plain if route.include_in_schema)
    carrying = [
        f"/{deployment.name}{each.path}" for each in plain if isinstance(each, CarryingRoute) and each.path != "/"
    ]

    async def no_such_endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope) or "/"
        if (normal := normal_path(path)) != path:
            set_route_path(scope, normal)
            await router(scope, receive, send)
            return
        root_path = scope["app_root_path"]
        there = ", ".join(root_path + path for path in (*paths, *carrying))
        raise NotFoundError(f"{deployment.name!r} has no endpoint {shortened(path)}; it has {there}")

    router = Router(routes, redirect_slashes=False, default=no_such_endpoint)

    return Endpoints(
        router=router,
        exact=_exact(routes),
        paths=paths,
        header=(b"x-hayhooks-revision", deployment.revision.id.encode()),
    )


def dispatch(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Serve one request from the live generation: by its deployment or a server route."""
    context = context_of(scope)
    generation = context.switch.live  # read once: a request is served from one generation
    path = route_path(scope)
    if path and path[0] != "/":  # a proxy may have taken `xname/run` for another path
        raise RefusedError(400, f"The target of a request must begin with '/', unlike {shortened(path)!r}")
    name = path[1:].partition("/")[0]
    deployment = generation.snapshot.deployments.get(name)
    if deployment is None or path in generation.paths or scope["type"] != "http":
        if path in generation.paths or (name and name in generation.names):
            refuse_path(context.api_key, path)
        route = generation.exact.get(path) if scope["type"] == "http" else None
        # Not by the router, which a response that lasts would keep, and with it all deployments of the generation.
        app = generation.router if route is None else _app_of(route, scope)
        return app(scope, receive, send)
    if generation.snapshot.canaries:
        deployment = choose(scope, generation.snapshot, name) or deployment
    root_path = scope.get("root_path", "")
    scope.setdefault("app_root_path", root_path)
    scope["root_path"] = f"{root_path}/{name}"
    context.deployment = deployment
    current_request.get().below_name = True
    app = deployment.endpoints.app_at(path[1 + len(name) :], scope)
    return serve_with_lease(deployment, app, scope, receive, send)


async def serve_with_lease(deployment: Deployment, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run *app* on a lease of *deployment*, held to the last byte of the response, if the request's key allows it."""
    context, runtime, name = context_of(scope), deployment.runtime, deployment.name
    if context.api_key is not None:
        refuse_call(context.api_key, name)
    record, lease = record_pipeline(context, name), Lease(asyncio.current_task())
    is_call, counts = scope["method"] == "POST", record.counts  # no other method calls the wrapper
    context.response_headers.append(deployment.endpoints.header)
    record.revision, record.outcomes = deployment.revision.id, runtime.outcomes if is_call else None
    if counts is not None:
        counts.in_flight += 1
    current_lease.set(lease)
    runtime.leases.take(lease)
    if deployment.timeout_s and BACKGROUND not in scope:
        lease.expire_in(deployment.timeout_s, partial(TimedOutError, deployment.timeout_s))
    try:
        # A canary's body tells which of the two serves it.
        if runtime.slots is not None and is_call and name not in context.switch.live.snapshot.canaries:
            _refuse_if_full(runtime.slots, deployment, scope)
        await (deployment.endpoints.forward_to or app)(scope, receive, send)
    except asyncio.CancelledError:
        lease.raise_expired()
        raise
    finally:
        if counts is not None:
            counts.in_flight -= 1
        lease.end()
        runtime.leases.give_back(lease)


def _refuse_if_full(slots: Slots, deployment: Deployment, scope: Scope) -> None:
    """Refuse a request before its body is read; ``invoke`` takes a slot after it."""
    if not getattr(scope.get("route"), "takes_slot", True):
        return
    try:
        slots.refuse_if_full()
    except UnavailableError:
        scope.setdefault("route", deployment.endpoints.route_of(scope))  # the metrics name the endpoint
        raise


class CarryingRoute(Route):
    """A route of a deployment whose requests only send others within the process, each with a lease of its own."""

    takes_slot = False

    def __init__(self, path: str, app: ASGIApp) -> None:
        super().__init__(path, app, methods=["POST"], include_in_schema=False)
        self.app = without_lease(app)  # Starlette takes a function for one of a request


def without_lease(app: ASGIApp) -> ASGIApp:
    """Return *app* for a route that does not call the deployment: neither its limits nor its trial concern it."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        current_request.get().outcomes = None
        with _let_go(scope):
            await app(scope, receive, send)

    return served


@contextmanager
def _let_go(scope: Scope) -> Iterator[None]:
    """Give back the lease of the request, if it has one: neither its timeout nor its drain concerns it any longer."""
    deployment, lease = context_of(scope).deployment, current_lease.get()
    counts = current_request.get().counts
    if deployment is not None and lease is not None:  # else a route of the server: that lease is another request's
        lease.end()
        deployment.runtime.leases.give_back(lease)
    if counts is not None:
        counts.in_flight -= 1  # whoever took the lease subtracts it once more
    try:
        yield
    finally:
        if counts is not None:
            counts.in_flight += 1


async def serve_instead(deployment: Deployment, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run *app* on *deployment*, though the request was dispatched to another of its name: the body has told which."""
    context, other = context_of(scope), deployment_of(scope)
    context.response_headers.remove(other.endpoints.header)
    with _let_go(scope):
        context.deployment = deployment
        await serve_with_lease(deployment, app, scope, receive, send)
