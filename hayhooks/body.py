"""The body of a request: how much of it may come, and how long it may pause."""

import asyncio
from typing import Any

from starlette.types import Message, Receive, Scope

from hayhooks.errors import RefusedError

_ALLOWED = "hayhooks.body"


class Patience:
    """Ends what waits for too long. One timer for all that wait: one for each would cost every request more.

    Args:
        limit_s: how long one may wait.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._waits: dict[Body, float] = {}  # since when, of the loop's clock; the longest first
        self._loop: asyncio.AbstractEventLoop | None = None  # while its timer runs

    def begin(self, body: "Body") -> None:
        """*body* waits from now on."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(self.limit_s, self._look)
        self._waits[body] = loop.time()

    def end(self, body: "Body") -> None:
        """*body* waits no more."""
        self._waits.pop(body, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waits:
            body, since = next(iter(self._waits.items()))
            if since + self.limit_s > loop.time():
                loop.call_at(since + self.limit_s, self._look)
                return
            del self._waits[body]
            body.give_up()
        self._loop = None


class _Allowed:
    """How many bytes may come; what reads the body may change it. In the scope, which must not hold the body itself."""

    __slots__ = ("setting", "size")

    def __init__(self, setting: str, size: int) -> None:
        self.setting = setting
        self.size = size  # 0: any number


class Body:
    """Receives one request's body, and raises where it breaks a limit.

    Nothing is read once it is known to be too large: a client that waits for leave to send (``Expect: 100-continue``)
    does not get it.
    """

    __slots__ = ("_allowed", "_came", "_complete", "_headers", "_late", "_patience", "_receive", "_task")

    def __init__(self, scope: Scope, receive: Receive, patience: Patience, setting: str, size: int) -> None:
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._receive = receive
        self._patience = patience
        self._allowed = scope[_ALLOWED] = _Allowed(setting, size)
        self._came = -1  # bytes; -1: nobody has asked yet
        self._complete = False
        self._late = False
        self._task: asyncio.Task[Any] | None = None

    async def receive(self) -> Message:
        """What the server has received, as ASGI's ``receive``.

        Raises:
            RefusedError: more bytes come than are allowed, or none for too long.
        """
        if self._complete:
            return await self._receive()
        if self._came < 0:
            self._came = 0
            self._refuse_announced()
        message = await self._in_time()
        if message["type"] == "http.request":
            self._came += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            self._refuse_if_larger(self._came)
        return message

    def give_up(self) -> None:
        """It has waited for too long."""
        self._late = True
        assert self._task is not None
        self._task.cancel()

    async def _in_time(self) -> Message:
        self._task = task = asyncio.current_task()
        self._patience.begin(self)
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if not self._late or task is None:
                raise
            task.uncancel()
            raise RefusedError(
                408,
                f"Nothing of the body came for {self._patience.limit_s:g} s, which is all that is waited for "
                "(HAYHOOKS_READ_TIMEOUT)",
                headers={"Connection": "close"},
            ) from None
        finally:
            self._patience.end(self)
            self._task = None

    def _refuse_announced(self) -> None:
        """Refuse what is too large by what its client says."""
        for name, value in self._headers:
            if name == b"content-length" and value.isdigit():
                self._refuse_if_larger(int(value[:20]))  # more digits would only take time

    def _refuse_if_larger(self, size: int) -> None:
        allowed = self._allowed
        if size > allowed.size > 0:
            raise RefusedError(
                413, f"The body is larger than the {allowed.size:,} bytes that are allowed ({allowed.setting})"
            )


def allow(scope: Scope, setting: str, size: int) -> None:
    """Let the body of the request with *scope* have so many bytes, as *setting* says; 0: any number."""
    allowed: _Allowed = scope[_ALLOWED]
    allowed.setting, allowed.size = setting, size
