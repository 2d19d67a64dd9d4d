"""Access: Host and API key checks, and a log of who can call the server."""

import ipaddress
import re
from collections.abc import Awaitable, Sequence

from starlette.datastructures import Headers
from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from hayhooks.errors import RefusedError, shortened
from hayhooks.http.api_keys import ApiKeys
from hayhooks.http.body import LimitedReceive, ReadTimeout
from hayhooks.http.content_coding import check_transfer_coding, unpacked
from hayhooks.http.context import context_of, route_path
from hayhooks.http.within import INNER
from hayhooks.observability.log import log
from hayhooks.observability.request_record import current_request
from hayhooks.setting_types import ApiKey
from hayhooks.settings import Settings

# A supervisor of the process calls these by address and without a key; they tell nothing else.
_PROBES = frozenset({"/healthz", "/readyz"})

_HOST = re.compile(r"([a-z0-9._~%!$&'()*+,;=-]+|\[[^\]]*\])(?::[0-9]+)?", re.IGNORECASE)  # RFC 3986, "host:port"


class PublicRoute(Route):
    """A route that needs no API key: its endpoint tells nothing of the deployments, and what it answers never changes.

    Requests without a key reach it before other middleware and routes.
    """


class AccessMiddleware:
    """Checks Host and API key, and limits bodies; before other middleware and routes."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: ApiKeys, public: Sequence[PublicRoute] = ()) -> None:
        self._app = app
        self._public = Router(public, redirect_slashes=False)
        self._keys = keys
        self._hosts = None if "*" in settings.allowed_hosts else [host.lower() for host in settings.allowed_hosts]
        self._read_timeout = ReadTimeout(settings.read_timeout)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass one request or websocket on, or raise RefusedError."""
        app, key = self._app, None
        if self._keys or self._hosts is not None:
            try:
                key = self._check(scope)
            except RefusedError as error:
                if error.status != 401 or not self._is_public(scope):
                    raise
                app = self._public
            if key is not None and not key.reads and self._is_public(scope):
                app = self._public
        if scope["type"] == "http":
            context = context_of(scope)
            receive = LimitedReceive(context, receive, self._read_timeout).receive
            if b"transfer-encoding" in context.headers:
                check_transfer_coding(context.headers)
            if b"content-encoding" in context.headers:
                receive = unpacked(scope, receive)
            if key is not None:
                current_request.get().api_key = key.name
        if key is None:
            return app(scope, receive, send)
        context_of(scope).api_key = key
        return self._serve_counted(key, app, scope, receive, send) if key.rate else app(scope, receive, send)

    def _is_public(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is Match.FULL for route in self._public.routes)

    async def _serve_counted(self, key: ApiKey, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        if INNER not in scope:
            await self._keys.count(key)
        await app(scope, receive, send)

    def _check(self, scope: Scope) -> ApiKey | None:
        """Return the key of the request, None where it needs none; raise RefusedError."""
        if INNER in scope:
            key: ApiKey | None = scope[INNER]
            return key
        if scope["type"] == "http":
            if scope["method"] in ("GET", "HEAD") and route_path(scope) in _PROBES:
                return None
        elif scope["type"] != "websocket":
            return None
        headers = Headers(scope=scope)
        if self._hosts is not None:
            _refuse_other_host(headers.get("host", ""), self._hosts)
        if not self._keys:
            return None
        authorization = headers.getlist("authorization")
        # The messages never repeat what was sent: it may be a key for something else.
        scheme, _, sent = authorization[0].strip().partition(" ") if authorization else ("", "", "")
        if not authorization:
            message = "API key missing: send the header 'Authorization: Bearer KEY'"
        elif len(authorization) > 1 or scheme.lower() != "bearer" or not sent.strip():
            message = "Authorization header not valid: send exactly one, as 'Bearer KEY'"
        elif (known := self._keys.find(sent.strip().encode("latin-1"))) is None:
            message = "The API key is not valid"
        else:
            return known
        raise RefusedError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _refuse_other_host(sent: str, hosts: Sequence[str]) -> None:
    match = _HOST.fullmatch(sent)
    host = match[1].lower() if match else ""
    if not any(host == name or (name.startswith("*.") and host.endswith(name[1:])) for name in hosts):
        raise RefusedError(400, f"Host {shortened(sent)!r} is not allowed (HAYHOOKS_ALLOWED_HOSTS)")


def log_exposure(settings: Settings, *, in_development: bool = False) -> None:
    """Log who can call the server and read its responses, a line for each risk.

    That any website may read them matters where no key is needed; *in_development* the answers are nobody's secret.
    """
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = settings.host == "localhost"
    if not settings.has_keys and not loopback:
        log.warning(
            "Anyone who can reach {}:{} may call every pipeline: there are no API keys (HAYHOOKS_API_KEYS)",
            settings.host,
            settings.port,
        )
    any_origin = "*" in settings.cors_allow_origins
    if any_origin and settings.cors_allow_credentials:
        log.warning(
            "Any website may call with its visitors' cookies: HAYHOOKS_CORS_ALLOW_CREDENTIALS is on and "
            "HAYHOOKS_CORS_ALLOW_ORIGINS is *; list the origins"
        )
    elif any_origin and not settings.has_keys and not in_development:
        log.info("Any website may read responses in its visitors' browsers (HAYHOOKS_CORS_ALLOW_ORIGINS is *)")
    if settings.show_tracebacks:
        log.warning("Error responses contain tracebacks, and so source code (HAYHOOKS_SHOW_TRACEBACKS)")
