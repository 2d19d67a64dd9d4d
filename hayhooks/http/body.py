"""Request bodies: their size limit and their pause limit."""

import asyncio
from typing import Any

from starlette.types import Message, Receive

from hayhooks.errors import RefusedError
from hayhooks.http.context import RequestContext
from hayhooks.http.shared_timer import SharedTimer


class LimitedReceive:
    """Receives one request's body; refuses one that is too large or pauses too long.

    A body that is announced as too large is not read: after ``Expect: 100-continue`` the client sends none.
    """

    # Not Starlette's RequestBodyLimitMiddleware: its 413 has a fixed text, an endpoint cannot raise its limit for
    # uploads, and it is missing in the oldest Starlette that we accept.

    __slots__ = ("_accepted", "_context", "_expired", "_receive", "_received", "_task", "_timeout")

    def __init__(self, context: RequestContext, receive: Receive, timeout: "ReadTimeout") -> None:
        self._context = context
        self._receive = receive
        self._timeout = timeout
        self._accepted = 0  # bytes that were announced, and are allowed
        self._received: int | None = -1  # bytes; -1 before the first message, None after the last
        self._task: asyncio.Task[Any] | None = None  # that waits for a message
        self._expired = False

    async def receive(self) -> Message:
        """Receive one message, as ASGI's ``receive``; raise RefusedError at a limit."""
        received = self._received
        if received is None:
            return await self._receive()
        if received < 0:
            received = 0
            announced = self._context.headers.get(b"content-length", b"")
            if announced.isdigit():
                self._accepted = int(announced[:20])  # more digits would only take time
                refuse_if_larger(self._context, self._accepted)
        self._task = task = asyncio.current_task()
        self._timeout.add(self)
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if not self._expired or task is None or task.uncancel() > 0:  # somebody else cancels the request
                raise
            text = f"No request body data received for {self._timeout.delay_s:g} s (HAYHOOKS_READ_TIMEOUT)"
            raise RefusedError(408, text, headers={"Connection": "close"}) from None
        finally:
            self._timeout.discard(self)
            self._task = None
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > self._accepted:
                refuse_if_larger(self._context, received)
            self._received = received if message.get("more_body", False) else None
        return message

    def expire(self) -> None:
        """Stop waiting for the client."""
        self._expired = True
        if self._task is not None:
            self._task.cancel()


def refuse_if_larger(context: RequestContext, size: int) -> None:
    """Raise RefusedError if a body may not have *size* bytes."""
    setting, limit = context.body_limit
    if size > limit > 0:
        raise RefusedError(413, f"The body is larger than the {limit:,} bytes that are allowed ({setting})")


class ReadTimeout(SharedTimer[LimitedReceive]):
    """Ends the waiting for clients that pause for *delay_s*."""

    def __init__(self, delay_s: float) -> None:
        super().__init__(delay_s, LimitedReceive.expire)
