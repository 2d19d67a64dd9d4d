"""Decorators that add routes and middleware, as Starlette had before 1.0."""

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from hayhooks.http.json import encode

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class DecoratedStarlette(Starlette):
    """Starlette with ``@app.get(path)`` and its like, and ``@app.middleware("http")``."""

    def get(self, path: str) -> Callable[[Endpoint], Endpoint]:
        """Add a route for GET to a function; its dict, list or text is sent as JSON."""
        return self._method(path, "GET")

    def post(self, path: str) -> Callable[[Endpoint], Endpoint]:
        """Add a route for POST, as ``get`` does."""
        return self._method(path, "POST")

    def put(self, path: str) -> Callable[[Endpoint], Endpoint]:
        """Add a route for PUT, as ``get`` does."""
        return self._method(path, "PUT")

    def patch(self, path: str) -> Callable[[Endpoint], Endpoint]:
        """Add a route for PATCH, as ``get`` does."""
        return self._method(path, "PATCH")

    def delete(self, path: str) -> Callable[[Endpoint], Endpoint]:
        """Add a route for DELETE, as ``get`` does."""
        return self._method(path, "DELETE")

    def middleware(self, kind: str) -> Callable[[Endpoint], Endpoint]:
        """Add ``async (request, call_next) -> response`` around every request."""
        if kind != "http":
            raise ValueError(f"middleware({kind!r}): only 'http' exists")

        def add(function: Endpoint) -> Endpoint:
            self.add_middleware(BaseHTTPMiddleware, dispatch=function)
            return function

        return add

    def _method(self, path: str, method: str) -> Callable[[Endpoint], Endpoint]:
        def add(function: Endpoint) -> Endpoint:
            wants_request = bool(signature(function).parameters)
            is_async = iscoroutinefunction(function)

            @wraps(function)
            async def endpoint(request: Request) -> Response:
                arguments = (request,) if wants_request else ()
                result = await function(*arguments) if is_async else await run_in_threadpool(function, *arguments)
                if isinstance(result, Response):
                    return result
                return Response(encode(result), media_type="application/json")

            self.add_route(path, endpoint, methods=[method])
            return function

        return add
