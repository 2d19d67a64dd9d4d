"""FastAPI's routes in an application: those with typed parameters, where FastAPI is installed."""

import inspect
import typing
from collections.abc import Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match, compile_path
from starlette.types import ASGIApp, ExceptionHandler, Receive, Scope, Send

_INSTALL = "pip install fastapi"


class FastAPIRoutes:
    """A FastAPI application that serves routes of another one, whose *exception_handlers* answer their errors."""

    def __init__(self, exception_handlers: MutableMapping[Any, ExceptionHandler]) -> None:
        self._fastapi = import_module("fastapi").FastAPI(openapi_url=None)
        self._exception_handlers = exception_handlers
        self._served: ASGIApp | None = None

    def add(self, add: Callable[[Any], None]) -> list[BaseRoute]:
        """Have *add* add to FastAPI's router; return the routes to put into the application's own."""
        routes = self._fastapi.router.routes
        before = len(routes)
        add(self._fastapi.router)
        return [_Route(route, self._serve) for route in routes[before:]]

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Run the lifespans of the routers that were added."""
        context: AbstractAsyncContextManager[None] = self._fastapi.router.lifespan_context(self._fastapi)
        return context

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        # On the first request: until then the application may get handlers of its own.
        if self._served is None:
            self._fastapi.exception_handlers.update(self._exception_handlers)
            self._served = self._fastapi.build_middleware_stack().app  # without its answer to unexpected errors
        assert self._served is not None
        await self._served(scope, receive, send)


class _Route(BaseRoute):
    """One of FastAPI's routes: it keeps its place among the application's."""

    def __init__(self, route: BaseRoute, serve: ASGIApp) -> None:
        self._route = route
        self._serve = serve

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, _ = self._route.matches(scope)
        return match, {}  # FastAPI finds it again, with its parameters

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._serve(scope, receive, send)


def needs_fastapi(path: str, function: Callable[..., Any]) -> bool:
    """Whether *function* for *path* has other parameters than one request.

    Raises TypeError if it has, and FastAPI is not installed.
    """
    parameters = list(inspect.signature(function).parameters.values())
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # a name that is not there at run time, or an object without annotations
        hints = {parameter.name: parameter.annotation for parameter in parameters}
    if not parameters:
        return False
    if len(parameters) == 1 and parameters[0].kind in (
        parameters[0].POSITIONAL_OR_KEYWORD,
        parameters[0].POSITIONAL_ONLY,
    ):
        hint = hints.get(parameters[0].name, parameters[0].empty)
        if isinstance(hint, type) and issubclass(hint, HTTPConnection):
            return False
        if hint is parameters[0].empty and parameters[0].name not in compile_path(path)[2]:
            return False
    described = f"{getattr(function, '__name__', function)}{inspect.signature(function)}"
    require_fastapi(
        f"{path}: {described} has parameters that FastAPI would fill",
        "take one parameter, request, and read request.path_params, request.query_params or await request.json()",
    )
    return True


def require_fastapi(problem: str, otherwise: str) -> None:
    """Raise TypeError with *problem*, and what to do *otherwise*, if FastAPI is not installed."""
    if find_spec("fastapi") is None:
        raise TypeError(f"{problem}, and it is not installed: {_INSTALL}, or {otherwise}")
