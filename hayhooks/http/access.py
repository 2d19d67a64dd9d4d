"""The guard: who may ask, and how large a question may be. It stands before the user's middleware and all routes."""

import ipaddress
from collections.abc import Awaitable, Iterator

from starlette._utils import get_route_path, parse_host_header
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from hayhooks.errors import RefusedError
from hayhooks.http.body import BodyLimits, LimitedReceive
from hayhooks.http.keys import ApiKeys
from hayhooks.observability.log import log
from hayhooks.settings import Settings

# Whoever watches over the process asks these, by its address and without a key; they tell nothing else.
_PROBES = frozenset({"/healthz", "/readyz"})


class AccessMiddleware:
    """Lets in who calls the server by an allowed name and brings a valid key, and bounds what they send.

    What it refuses it raises, for the boundary to tell.
    """

    def __init__(self, app: ASGIApp, settings: Settings, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys
        self._hosts = None if "*" in settings.allowed_hosts else [host.lower() for host in settings.allowed_hosts]
        self._rules = BodyLimits(settings.max_body_size, settings.read_timeout)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Let one request or websocket pass.

        Raises:
            RefusedError: it must not.
        """
        if scope["type"] == "http":
            if (self._keys or self._hosts is not None) and not _is_probe(scope):
                self._check(Headers(scope=scope))
            receive = LimitedReceive(self._rules, scope, receive).receive
        elif scope["type"] == "websocket":
            self._check(Headers(scope=scope))
        return self._app(scope, receive, send)

    def _check(self, headers: Headers) -> None:
        if self._hosts is not None:
            _check_host(headers.get("host", ""), self._hosts)
        if self._keys:
            _check_key(headers, self._keys)


def _is_probe(scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD") and get_route_path(scope) in _PROBES


def _check_host(called: str, allowed: list[str]) -> None:
    parsed = parse_host_header(called)
    host = parsed.host.lower() if parsed is not None else ""
    if not any(host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:])) for pattern in allowed):
        raise RefusedError(
            400, f"The host {called!r} is none that the server may be called by (HAYHOOKS_ALLOWED_HOSTS)"
        )


def _check_key(headers: Headers, keys: ApiKeys) -> None:
    """The message never repeats what was sent: it may be somebody's key for something else."""
    given = headers.getlist("authorization")
    if not given:
        raise _unauthorized("There is no API key: send it in the header 'Authorization: Bearer KEY'")
    scheme, _, key = given[0].strip().partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not key.strip():
        raise _unauthorized("The header Authorization must be one, and say 'Bearer KEY'")
    if key.strip().encode("latin-1") not in keys:
        raise _unauthorized("The API key is not valid")


def _unauthorized(message: str) -> RefusedError:
    return RefusedError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def log_exposure(settings: Settings) -> None:
    """Log to whom the server is open, a line each."""
    for level, message in _open_to(settings):
        log.log(level, message)


def _open_to(settings: Settings) -> Iterator[tuple[str, str]]:
    if not settings.has_keys and not _is_loopback(settings.host):
        yield (
            "WARNING",
            f"Everybody who can reach {settings.host}:{settings.port} may call every pipeline: "
            "there are no API keys (HAYHOOKS_API_KEYS)",
        )
    if settings.cors_allow_credentials and _any_origin(settings):
        yield (
            "WARNING",
            "Every website may call with the cookies of whoever visits it: HAYHOOKS_CORS_ALLOW_CREDENTIALS is on, "
            "and HAYHOOKS_CORS_ALLOW_ORIGINS is *; name the origins",
        )
    elif _any_origin(settings):
        yield "INFO", "Every website may read our answers in its visitors' browsers (HAYHOOKS_CORS_ALLOW_ORIGINS is *)"
    if settings.show_tracebacks:
        yield "WARNING", "Answers show tracebacks, and so source code (HAYHOOKS_SHOW_TRACEBACKS)"


def _any_origin(settings: Settings) -> bool:
    return "*" in settings.cors_allow_origins


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
