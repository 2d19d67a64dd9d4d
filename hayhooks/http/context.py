"""Request context: data of a request in its ASGI scope, under one key."""

import re
from collections.abc import Mapping

from starlette.types import Scope

from hayhooks.http.switch import Generation, Switch
from hayhooks.kernel.state import Deployment
from hayhooks.observability.request_record import RequestRecord, current_request
from hayhooks.setting_types import ApiKey

_KEY = "hayhooks"
_SLASHES = re.compile("/{2,}")

BodyLimit = tuple[str, int]  # the setting that limits the body, and how many bytes it allows; 0: any number


class RequestContext:
    """Data that the layers of one request share."""

    __slots__ = ("api_key", "body_limit", "deployment", "headers", "response_headers", "switch")

    def __init__(self, switch: Switch, body_limit: BodyLimit, headers: Mapping[bytes, bytes]) -> None:
        self.switch = switch
        self.body_limit = body_limit  # an endpoint may raise it before it reads the body
        self.headers = headers  # of the request, as sent; the last one of each name
        self.response_headers: list[tuple[bytes, bytes]] = []  # added to the response, whatever makes it
        self.deployment: Deployment | None = None  # in whose routes the request is
        self.api_key: ApiKey | None = None  # that the request carries, on a server with keys


def set_context(scope: Scope, context: RequestContext) -> None:
    """Put *context* into *scope*."""
    scope[_KEY] = context


def context_of(scope: Scope) -> RequestContext:
    """Return the context of the request with *scope*."""
    context: RequestContext = scope[_KEY]
    return context


def switch_of(scope: Scope) -> Switch:
    """Return the switch of the application that serves the request."""
    return context_of(scope).switch


def deployment_of(scope: Scope) -> Deployment:
    """Return the deployment in whose routes the request is."""
    deployment = context_of(scope).deployment
    assert deployment is not None
    return deployment


def route_path(scope: Scope) -> str:
    """Return the path below the application's root path, as routes match it."""
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "")
    below = path.removeprefix(root_path)
    return below if below.startswith("/") or not below else path


def normal_path(path: str) -> str:
    """Return *path* without doubled slashes, and without one at its end."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"


def set_route_path(scope: Scope, path: str) -> None:
    """Let the request be for *path* below the application's root path."""
    scope["path"] = scope.get("root_path", "") + path


def drop_repeated_root_path(scope: Scope, live: Generation) -> None:
    """Drop the root path from a path that has it twice: the server puts it in front, and not every proxy strips it.

    A deployment that has the same name keeps its paths, unless they name something else that is served.
    """
    root_path, path = scope["root_path"], route_path(scope)
    if path != root_path and not path.startswith(root_path + "/"):
        return
    shorter = path.removeprefix(root_path) or "/"
    name, shorter_name = path.split("/")[1], shorter.split("/")[1]
    if name not in live.snapshot.deployments or shorter_name in live.snapshot.deployments or shorter_name in live.names:
        set_route_path(scope, shorter)


def record_pipeline(context: RequestContext, name: str) -> RequestRecord:
    """Note in the request's record that it asks for the existing pipeline *name*."""
    record, metrics = current_request.get(), context.switch.metrics
    record.pipeline = name
    if metrics is not None:
        record.counts = metrics.of(name)
    return record
