"""The methods of a FastAPI application that programs use: routes, routers, middleware, OpenAPI."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router, WebSocketRoute, compile_path

from hayhooks.http.fastapi_routes import FastAPIRoutes, needs_fastapi, require_fastapi
from hayhooks.http.json import encode

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

# FastAPI's options that only describe a route.
_DESCRIPTIONS = frozenset(
    {"callbacks", "deprecated", "description", "openapi_extra", "operation_id", "response_description", "responses"}
    | {"summary", "tags"}
)
_OPTIONS = frozenset({"include_in_schema", "name", "response_class", "status_code"})


class DecoratedStarlette(Starlette):
    """Starlette with FastAPI's ``@app.get(path)``, ``include_router`` and their like.

    A function without parameters, or with a request alone, is served by Starlette; one with typed parameters by
    FastAPI, if that is installed.
    """

    _fastapi: FastAPIRoutes | None = None

    def get(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a route for GET to a function; its dict, list or text is sent as JSON.

        *options* are FastAPI's: ``response_class``, ``status_code``, ``name``, ``tags``, ...
        """
        return self.api_route(path, methods=["GET"], **options)

    def post(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a route for POST, as ``get`` does."""
        return self.api_route(path, methods=["POST"], **options)

    def put(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a route for PUT, as ``get`` does."""
        return self.api_route(path, methods=["PUT"], **options)

    def patch(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a route for PATCH, as ``get`` does."""
        return self.api_route(path, methods=["PATCH"], **options)

    def delete(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a route for DELETE, as ``get`` does."""
        return self.api_route(path, methods=["DELETE"], **options)

    def api_route(
        self, path: str, *, methods: Sequence[str] = ("GET",), **options: Any
    ) -> Callable[[Endpoint], Endpoint]:
        """Add a route for *methods*, as ``get`` does."""

        def add(function: Endpoint) -> Endpoint:
            self.add_api_route(path, function, methods=methods, **options)
            return function

        return add

    def add_api_route(
        self, path: str, endpoint: Callable[..., Any], *, methods: Sequence[str] = ("GET",), **options: Any
    ) -> None:
        """Add a route for *methods* to *endpoint*, as ``get`` does.

        Raises TypeError if that takes FastAPI, which is not installed.
        """
        others = sorted(options.keys() - _OPTIONS - _DESCRIPTIONS)
        if others:
            require_fastapi(f"{path}: the options {', '.join(others)} are FastAPI's", "leave them out")
        if needs_fastapi(path, endpoint) or others:
            self._add_fastapi(lambda router: router.add_api_route(path, endpoint, methods=list(methods), **options))
        else:
            self.router.routes.append(_route(path, endpoint, methods, options))

    def include_router(self, router: Router, prefix: str = "", **options: Any) -> None:
        """Add the routes of *router*, Starlette's or FastAPI's, below *prefix*; *options* are FastAPI's."""
        if hasattr(router, "include_router"):  # FastAPI's
            self._add_fastapi(lambda ours: ours.include_router(router, prefix=prefix, **options))
            return
        if options:
            raise TypeError(f"include_router: {', '.join(sorted(options))}: only for routers of FastAPI")
        if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
            raise ValueError(f"include_router: prefix {prefix!r} must begin with '/' and not end with it")
        self.router.routes.extend(_below(prefix, route) for route in router.routes)

    def exception_handler(self, kind: int | type[Exception]) -> Callable[[Endpoint], Endpoint]:
        """Have a function answer exceptions of the class, or with the status, *kind*."""

        def add(function: Endpoint) -> Endpoint:
            self.add_exception_handler(kind, function)
            return function

        return add

    def middleware(self, kind: str) -> Callable[[Endpoint], Endpoint]:
        """Add ``async (request, call_next) -> response`` around every request."""
        if kind != "http":
            raise ValueError(f"middleware({kind!r}): only 'http' exists")

        def add(function: Endpoint) -> Endpoint:
            self.add_middleware(BaseHTTPMiddleware, dispatch=function)
            return function

        return add

    def lifespan_of_routers(self) -> AbstractAsyncContextManager[None]:
        """Run the lifespans of included routers of FastAPI."""
        return nullcontext() if self._fastapi is None else self._fastapi.lifespan()

    def _add_fastapi(self, add: Callable[[Any], None]) -> None:
        if self._fastapi is None:
            self._fastapi = FastAPIRoutes(self.exception_handlers)
        self.router.routes.extend(self._fastapi.add(add))


def _route(path: str, function: Callable[..., Any], methods: Sequence[str], options: dict[str, Any]) -> Route:
    """Return a route to *function*, which takes a request or nothing, and returns a response or its content."""
    wants_request, is_async = bool(signature(function).parameters), iscoroutinefunction(function)
    response_class, status = options.get("response_class"), options.get("status_code") or 200

    @wraps(function)
    async def endpoint(request: Request) -> Response:
        arguments = (request,) if wants_request else ()
        result = await function(*arguments) if is_async else await run_in_threadpool(function, *arguments)
        if isinstance(result, Response):
            return result
        if response_class is not None:
            response: Response = response_class(result, status_code=status)
            return response
        return Response(encode(result), media_type="application/json", status_code=status)

    is_listed = options.get("include_in_schema", True)
    return Route(path, endpoint, methods=list(methods), name=options.get("name"), include_in_schema=is_listed)


def _below(prefix: str, route: BaseRoute) -> BaseRoute:
    if not prefix:
        return route
    if not isinstance(route, Route | WebSocketRoute | Mount):
        raise TypeError(f"include_router: a {type(route).__name__} cannot have a prefix")
    moved = copy.copy(route)
    moved.path = prefix + route.path
    pattern = f"{moved.path}/{{path:path}}" if isinstance(route, Mount) else moved.path
    moved.path_regex, moved.path_format, moved.param_convertors = compile_path(pattern)
    return moved
