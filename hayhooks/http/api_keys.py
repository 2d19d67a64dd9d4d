"""API keys: the valid ones, what each may do, and how often."""

import hashlib
import math
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hayhooks.errors import RefusedError, StartError, shortened
from hayhooks.kernel.state import Stamp
from hayhooks.observability.log import log
from hayhooks.setting_types import ApiKey
from hayhooks.settings import Settings

if TYPE_CHECKING:
    from limits.aio.strategies import MovingWindowRateLimiter

_POLL_S = 0.5  # a changed file is read when it was the same at two polls

# The server's routes for those who call pipelines: OpenAI's API, the cards of A2A. All others tell of the server.
_CALLING_PATH = re.compile(r"(/v1)?/(chat/completions|responses|models|files)\b|/a2a/agents\b|/\.well-known/agent\b")

# These send requests within the process, for each of which the key is asked.
_CARRYING_PATH = re.compile(r"/mcp/*")


class ApiKeys:
    """The valid API keys, of the settings and of a file that is read when it changes."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.api_keys_file and settings.api_keys_file.absolute()  # wrappers may change the directory
        self._settings = settings.model_copy(update={"api_keys_file": self._file})
        self._latest = self._stamp()  # at the last poll
        self._read_at = self._latest  # when `_keys` was read, or could not be
        self._limiter: MovingWindowRateLimiter | None = None
        try:
            self._keys = self._read()
        except (OSError, ValueError) as error:  # without keys everybody would be let in
            raise StartError(f"HAYHOOKS_API_KEYS_FILE={settings.api_keys_file}: {_reason(error)}") from None

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key: bytes) -> ApiKey | None:
        """Return the valid key with the text *key*."""
        return self._keys.get(_digest(key))  # how much of a digest is right tells nothing of a key

    async def count(self, key: ApiKey) -> None:
        """Count a request with *key*; raise RefusedError if it comes sooner than its rate allows."""
        from limits import RateLimitItemPerSecond  # noqa: PLC0415 - most servers have no rates: 60 ms of the start
        from limits.aio.storage import MemoryStorage  # noqa: PLC0415
        from limits.aio.strategies import MovingWindowRateLimiter  # noqa: PLC0415

        if key.rate is None:
            return
        if self._limiter is None:  # on the event loop that serves
            self._limiter = MovingWindowRateLimiter(MemoryStorage())
        requests, seconds = key.rate
        item, owner = RateLimitItemPerSecond(requests, seconds), _digest(key.key.encode()).hex()
        if await self._limiter.hit(item, owner):
            return
        resets_at = (await self._limiter.get_window_stats(item, owner)).reset_time
        raise RefusedError(
            429,
            f"The API key{f' {key.name!r}' if key.name else ''} allows {requests:,} requests in {seconds:,} s",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(max(math.ceil(resets_at - time.time()), 1))},
        )

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Read the file in a thread when it changes, as long as this context lasts."""
        if self._file is None:
            yield
            return
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(_POLL_S):
                before, self._latest = self._latest, self._stamp()
                if self._latest == self._read_at or self._latest != before:  # half a key must not become valid
                    continue
                self._read_at = self._latest
                try:
                    self._keys = self._read()
                except (OSError, ValueError) as error:
                    message = "HAYHOOKS_API_KEYS_FILE={}: {}; the keys read before stay valid"
                    log.error(message, self._file, _reason(error))
                else:
                    log.info("API keys reloaded: {} valid", len(self._keys))

        threading.Thread(target=follow, name="hayhooks keys", daemon=True).start()
        try:
            yield
        finally:
            stop.set()

    def _read(self) -> dict[bytes, ApiKey]:
        return {_digest(key.key.encode()): key for key in self._settings.valid_keys()}

    def _stamp(self) -> Stamp | None:
        try:
            return Stamp.of(self._file.stat()) if self._file is not None else None
        except OSError:
            return None


def may_call(key: ApiKey | None, name: str) -> bool:
    """Whether a request with *key*, if the server has keys, may call the pipeline *name*."""
    return key is None or key.may_call(name)


def refuse_call(key: ApiKey | None, name: str) -> None:
    """Raise RefusedError unless *key*, if the server has keys, may call the pipeline *name*."""
    if key is not None and not key.may_call(name):
        raise _out_of_scope(key, f"call {shortened(name)!r}")


def refuse_path(key: ApiKey | None, path: str) -> None:
    """Raise RefusedError unless *key*, if the server has keys, may ask the server's own route *path*."""
    if key is None or _CARRYING_PATH.fullmatch(path):
        return
    if not (key.calls if _CALLING_PATH.match(path) else key.reads):
        raise _out_of_scope(key, "call pipelines" if _CALLING_PATH.match(path) else "read what the server tells")


def _out_of_scope(key: ApiKey, action: str) -> RefusedError:
    message = f"The API key {key.name!r} may not {action}: its scopes are {key.scopes!r}"
    return RefusedError(403, message, code="insufficient_scope")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
