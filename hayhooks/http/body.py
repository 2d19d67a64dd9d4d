"""The body of a request: how much of it may come, how long it may pause, and all of it in one piece."""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from hayhooks.errors import RefusedError
from hayhooks.http.context import context_of


class BodyLimits:
    """What holds for every body.

    Args:
        pause_s: how long may pass in which nothing comes.
    """

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s


class LimitedReceive:
    """Receives one request's body, and raises where it breaks a rule.

    Nothing is read once it is known to be too large: a client that waits for leave to send (``Expect: 100-continue``)
    does not get it.
    """

    __slots__ = ("_came", "_receive", "_rules", "_scope")

    def __init__(self, rules: BodyLimits, scope: Scope, receive: Receive) -> None:
        self._rules = rules
        self._scope = scope  # which must not hold this in turn
        self._receive = receive
        self._came: int | None = -1  # bytes; -1: nobody has asked yet; None: all are here

    async def receive(self) -> Message:
        """What the server has received, as ASGI's ``receive``.

        Raises:
            RefusedError: more bytes come than are allowed, or none for too long.
        """
        came = self._came
        if came is None:
            return await self._receive()
        if came < 0:
            came = 0
            self._refuse_announced()
        try:
            async with asyncio.timeout(self._rules.pause_s):
                message = await self._receive()
        except TimeoutError:
            raise _paused(self._rules.pause_s) from None
        if message["type"] == "http.request":
            came += len(message.get("body", b""))
            self._refuse_if_larger(came)
            self._came = came if message.get("more_body", False) else None
        return message

    def _refuse_announced(self) -> None:
        """Refuse what is too large by what its client says."""
        for name, value in self._scope["headers"]:
            if name == b"content-length" and value.isdigit():
                self._refuse_if_larger(int(value[:20]))  # more digits would only take time

    def _refuse_if_larger(self, came: int) -> None:
        setting, size = context_of(self._scope).body_limit
        if came > size > 0:
            raise RefusedError(413, f"The body is larger than the {size:,} bytes that are allowed ({setting})")


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request; without Starlette's ``Request``, whose making costs as much as the reading.

    Raises:
        ClientDisconnect: the client went away before its end.
    """
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _paused(pause_s: float) -> RefusedError:
    message = f"No request body data received for {pause_s:g} s (HAYHOOKS_READ_TIMEOUT)"
    return RefusedError(408, message, headers={"Connection": "close"})
