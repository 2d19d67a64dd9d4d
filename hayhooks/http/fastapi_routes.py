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
    """Whether *function* for *path* has parameters that a request alone does not fill.

    Raises TypeError if it has, and FastAPI is not installed.
    """
    signature = inspect.signature(function)
    parameters = [
        each for each in signature.parameters.values() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if not parameters:
        return False
    first, *others = parameters
    if _takes_request(first, path, function) and all(
        each.default is not each.empty and each.annotation is each.empty for each in others
    ):
        return False
    require_fastapi(
        f"{path}: {getattr(function, '__name__', function)}{signature} has parameters that FastAPI would fill",
        "take one parameter, request, and read request.path_params, request.query_params or await request.json()",
    )
    return True


def _takes_request(parameter: inspect.Parameter, path: str, function: Callable[..., Any]) -> bool:
    """Whether *parameter* is annotated as a request, or neither annotated nor in *path*."""
    if parameter.kind is parameter.KEYWORD_ONLY:
        return False
    if parameter.annotation is parameter.empty:
        return parameter.name not in compile_path(path)[2]
    try:
        hint = typing.get_type_hints(function).get(parameter.name, parameter.annotation)
    except Exception:  # a name that only type checkers import, or an object without hints of its own
        hint = parameter.annotation
    if isinstance(hint, str):
        return hint.rpartition(".")[2] == "Request"
    return isinstance(hint, type) and issubclass(hint, HTTPConnection)


def require_fastapi(problem: str, otherwise: str) -> None:
    """Raise TypeError with *problem*, and what to do *otherwise*, if FastAPI is not installed."""
    if find_spec("fastapi") is None:
        raise TypeError(f"{problem}, and it is not installed: {_INSTALL}, or {otherwise}")
