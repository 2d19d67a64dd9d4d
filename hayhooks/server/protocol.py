"""Parting: how connections end when the server stops, so that nobody who has asked is left without an answer.

uvicorn closes every connection on which it has nothing to do at the moment, and there the next request may have been
sent already: by a proxy that keeps its connections, or by a client that has just come. Nobody can tell whether such a
request was worked on, so nobody may send it again.
"""

import asyncio
import select
import time
from collections.abc import Iterable

from hayhooks.server.fast_protocol import CoalescingProtocol

_LAST_REQUEST_S = 0.5  # an idle connection may bring one more request for so long
_LET_IN_S = 0.5  # so long clients who are at the door are let in, if there is no end of them
_TURNS = 10  # of the loop, in which whom the system has let in becomes a connection that can be told to end


class ClosingProtocol(CoalescingProtocol):
    """One connection of a client; from the stop on the next answer is its last, and says so."""

    _parting = False

    def shutdown(self) -> None:
        """Let what runs here, or else what comes very soon, be answered, and close the connection then."""
        self._parting = True
        if self._is_idle():
            self.loop.call_later(_LAST_REQUEST_S, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def on_headers_complete(self) -> None:
        """As uvicorn's; a request that comes while we stop is the last one here."""
        super().on_headers_complete()
        if self._parting and self.cycle is not None:
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if self._is_idle():
            self.transport.close()

    def _is_idle(self) -> bool:
        # There is no cycle before the first request.
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]


async def stop_listening(servers: Iterable[asyncio.Server]) -> None:
    """Close the sockets of *servers* when nobody waits there to be let in: the system would reset their connections."""
    listening = select.poll()
    for listener in (listener for server in servers for listener in server.sockets):
        listening.register(listener, select.POLLIN)
    end = time.monotonic() + _LET_IN_S
    while listening.poll(0) and time.monotonic() < end:  # noqa: ASYNC110 - there is no event for that
        await asyncio.sleep(0)  # here the loop lets them in
    for server in servers:
        server.close()
    for _ in range(_TURNS):
        await asyncio.sleep(0)
