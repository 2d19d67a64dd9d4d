"""Access: Host and API key checks, and a log of who can call the server."""

import hashlib
import hmac
import ipaddress
import re
import threading
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from hayhooks.errors import RefusedError, StartError, shortened
from hayhooks.http.body import LimitedReceive, ReadTimeout
from hayhooks.http.content_coding import check_transfer_coding, unpacked
from hayhooks.http.context import context_of, route_path
from hayhooks.kernel.state import Stamp
from hayhooks.observability.log import log
from hayhooks.settings import Settings

# A supervisor of the process calls these by address and without a key; they tell nothing else.
_PROBES = frozenset({"/healthz", "/readyz"})

_HOST = re.compile(r"([a-z0-9._~%!$&'()*+,;=-]+|\[[^\]]*\])(?::[0-9]+)?", re.IGNORECASE)  # RFC 3986, "host:port"

_KEYS_POLL_S = 0.5  # a changed keys file is read when it was the same at two polls


class PublicRoute(Route):
    """A route that needs no API key: its endpoint tells nothing of the deployments, and what it answers never changes.

    Requests without a key reach it before other middleware and routes.
    """


class AccessMiddleware:
    """Checks Host and API key, and limits bodies; before other middleware and routes."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: "ApiKeys", public: Sequence[PublicRoute] = ()) -> None:
        self._app = app
        self._public = Router(public, redirect_slashes=False)
        self._keys = keys
        self._hosts = None if "*" in settings.allowed_hosts else [host.lower() for host in settings.allowed_hosts]
        self._read_timeout = ReadTimeout(settings.read_timeout)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass one request or websocket on, or raise RefusedError."""
        app = self._app
        if self._keys or self._hosts is not None:
            try:
                self._check(scope)
            except RefusedError as error:
                if error.status != 401 or all(r.matches(scope)[0] is not Match.FULL for r in self._public.routes):
                    raise
                app = self._public
        if scope["type"] == "http":
            context = context_of(scope)
            receive = LimitedReceive(context, receive, self._read_timeout).receive
            if b"transfer-encoding" in context.headers:
                check_transfer_coding(context.headers)
            if b"content-encoding" in context.headers:
                receive = unpacked(scope, receive)
        return app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        if scope["type"] == "http":
            if scope["method"] in ("GET", "HEAD") and route_path(scope) in _PROBES:
                return
        elif scope["type"] != "websocket":
            return
        headers = Headers(scope=scope)
        if self._hosts is not None:
            match = _HOST.fullmatch(headers.get("host", ""))
            host = match[1].lower() if match else ""
            if not any(host == name or (name.startswith("*.") and host.endswith(name[1:])) for name in self._hosts):
                raise RefusedError(
                    400, f"Host {shortened(headers.get('host', ''))!r} is not allowed (HAYHOOKS_ALLOWED_HOSTS)"
                )
        if not self._keys:
            return
        authorization = headers.getlist("authorization")
        # The messages never repeat what was sent: it may be a key for something else.
        scheme, _, key = authorization[0].strip().partition(" ") if authorization else ("", "", "")
        if not authorization:
            message = "API key missing: send the header 'Authorization: Bearer KEY'"
        elif len(authorization) > 1 or scheme.lower() != "bearer" or not key.strip():
            message = "Authorization header not valid: send exactly one, as 'Bearer KEY'"
        elif key.strip().encode("latin-1") not in self._keys:
            message = "The API key is not valid"
        else:
            return
        raise RefusedError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


class ApiKeys:
    """The valid API keys, of the settings and of a file that is read when it changes."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.api_keys_file and settings.api_keys_file.absolute()  # wrappers may change the directory
        self._settings = settings.model_copy(update={"api_keys_file": self._file})
        self._latest = self._stamp()  # at the last poll
        self._read_at = self._latest  # when `_digests` was read, or could not be
        try:
            self._digests = self._read()
        except (OSError, ValueError) as error:  # without keys everybody would be let in
            raise StartError(f"HAYHOOKS_API_KEYS_FILE={settings.api_keys_file}: {_reason(error)}") from None

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __contains__(self, key: bytes) -> bool:
        digest, found = _digest(key), False
        # Takes the same time however much of *key* is right.
        for valid in self._digests:
            found |= hmac.compare_digest(valid, digest)
        return found

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Read the file in a thread when it changes, as long as this context lasts."""
        if self._file is None:
            yield
            return
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(_KEYS_POLL_S):
                before, self._latest = self._latest, self._stamp()
                if self._latest == self._read_at or self._latest != before:  # half a key must not become valid
                    continue
                self._read_at = self._latest
                try:
                    self._digests = self._read()
                except (OSError, ValueError) as error:
                    message = "HAYHOOKS_API_KEYS_FILE={}: {}; the keys read before stay valid"
                    log.error(message, self._file, _reason(error))
                else:
                    log.info("API keys reloaded: {} valid", len(self._digests))

        threading.Thread(target=follow, name="hayhooks keys", daemon=True).start()
        try:
            yield
        finally:
            stop.set()

    def _read(self) -> tuple[bytes, ...]:
        return tuple({_digest(key.encode()) for key in self._settings.valid_keys()})

    def _stamp(self) -> Stamp | None:
        try:
            return Stamp.of(self._file.stat()) if self._file is not None else None
        except OSError:
            return None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


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
